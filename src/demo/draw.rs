//! One image from a seed: a textured shape in front of a textured background with distractors, anti-aliased.

use super::shape::{REACH, Shape};
use crate::rng::{Purpose, Stream};
use libm::{cos, hypot, sin};
use std::f64::consts::TAU;

/// Height and width of every image, pixels.
pub const SIDE: usize = 48;

/// Coloured dots behind the shape.
const DISTRACTORS: usize = 4;

/// Which image: everything that varies in it is a function of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scene {
    /// The class.
    pub shape: Shape,
    /// Seed of the set.
    pub seed: u64,
    /// Which set of that seed: sets share no image.
    pub set: u64,
    /// Number within the set.
    pub index: u32,
}

/// RGB, each 0 to 1.
type Colour = [f64; 3];

/// Sinusoidal stripes: wave vector in radians per pixel, phase, amplitude.
struct Stripes([f64; 4]);

/// A photo's parts, drawn from its stream in the order of these fields.
struct Parts {
    /// Centre, and half the size in pixels.
    place: [f64; 3],
    /// Cosine and sine of the rotation.
    turn: [f64; 2],
    /// Background at opposite ends of a gradient.
    ground: [Colour; 2],
    /// Unit vector of the gradient.
    slope: [f64; 2],
    /// Brighter than the background.
    ink: Colour,
    ground_stripes: [Stripes; 2],
    ink_stripes: Stripes,
    /// Centre, radius and colour.
    dots: [([f64; 3], Colour); DISTRACTORS],
}

impl Scene {
    /// The image's own sequence of random words; `purpose` keeps the drawing and the sensor's noise apart.
    pub(super) fn stream(&self, purpose: u32) -> Stream {
        Stream {
            seed: Purpose::Synthetic.seed(self.seed),
            step: self.set,
            example: self.index,
            tangent: self.shape as u32,
            set: purpose,
        }
    }

    /// Pixels `[SIDE, SIDE, 3]`, each 0 to 1. The same bits on every platform: `libm`, not the platform's functions.
    pub fn draw(&self) -> Vec<f64> {
        let parts = Parts::new(self);
        let mut pixels = Vec::with_capacity(SIDE * SIDE * 3);
        for y in 0..SIDE {
            for x in 0..SIDE {
                pixels.extend(parts.at(self.shape, x as f64 + 0.5, y as f64 + 0.5));
            }
        }
        pixels
    }

    /// A box x, y, width, height in pixels that holds the shape, within the image.
    pub fn bounding_box(&self) -> [f64; 4] {
        let [x, y, radius] = Parts::new(self).place;
        let radius = REACH * radius;
        let [left, top] = [x, y].map(|c| (c - radius).max(0.0));
        let [right, bottom] = [x, y].map(|c| (c + radius).min(SIDE as f64));
        [left, top, right - left, bottom - top]
    }
}

impl Parts {
    fn new(scene: &Scene) -> Self {
        let mut words = scene.stream(0).words();
        // A stream has 2³⁴ words; a scene takes fewer than a thousand, barring 50 draws of colours in a row that do not fit.
        let mut uniform = |low: f64, high: f64| {
            low + (high - low) * f64::from(words.next().unwrap_or_default()) * (1.0 / 4_294_967_296.0)
        };
        let side = SIDE as f64;
        let radius = uniform(0.30, 0.42) * side;
        let place = [uniform(0.43, 0.57) * side, uniform(0.43, 0.57) * side, radius];
        let angle = uniform(-0.3, 0.3);
        let turn = [cos(angle), sin(angle)];
        let mut colour = || [0; 3].map(|_| uniform(0.05, 0.95));
        let mut ground = [colour(), colour()];
        let mut ink = colour();
        while ground.iter().any(|ground| brightness(&ink) - brightness(ground) < 0.15) {
            ground = [colour(), colour()];
            ink = colour();
        }
        let angle = uniform(0.0, TAU);
        let slope = [cos(angle), sin(angle)];
        let mut stripes = |amplitude: f64| {
            let (angle, pitch) = (uniform(0.0, TAU), uniform(0.3, 1.2));
            Stripes([pitch * cos(angle), pitch * sin(angle), uniform(0.0, TAU), uniform(0.0, amplitude)])
        };
        let ground_stripes = [stripes(0.08), stripes(0.08)];
        let ink_stripes = stripes(0.12);
        let dots = [(); DISTRACTORS].map(|()| {
            let dot = [uniform(0.0, side), uniform(0.0, side), uniform(1.0, 3.0)];
            (dot, [0; 3].map(|_| uniform(0.05, 0.95)))
        });
        Parts { place, turn, ground, slope, ink, ground_stripes, ink_stripes, dots }
    }

    /// The colour at `(x, y)`, in pixels from the top left corner.
    fn at(&self, shape: Shape, x: f64, y: f64) -> Colour {
        let half = SIDE as f64 / 2.0;
        let along = ((x - half) * self.slope[0] + (y - half) * self.slope[1]) / (2.0 * half);
        let mut colour = mix(&self.ground[0], &self.ground[1], (along + 0.5).clamp(0.0, 1.0));
        for stripes in &self.ground_stripes {
            colour = colour.map(|value| value + stripes.at(x, y));
        }
        for ([cx, cy, radius], dot) in &self.dots {
            colour = mix(&colour, dot, coverage(hypot(x - cx, y - cy) - radius));
        }
        let [cx, cy, radius] = self.place;
        let [u, v] = [(x - cx) / radius, (y - cy) / radius];
        let [c, s] = self.turn;
        let distance = radius * shape.distance(c * u + s * v, c * v - s * u);
        let stripe = self.ink_stripes.at(x, y);
        colour = mix(&colour, &self.ink.map(|value| value + stripe), coverage(distance));
        colour.map(|value| value.clamp(0.0, 1.0))
    }
}

impl Stripes {
    fn at(&self, x: f64, y: f64) -> f64 {
        let [kx, ky, phase, amplitude] = self.0;
        amplitude * sin(kx * x + ky * y + phase)
    }
}

/// Share of a pixel inside an outline `distance` pixels from its centre.
fn coverage(distance: f64) -> f64 {
    (0.5 - distance).clamp(0.0, 1.0)
}

fn mix(a: &Colour, b: &Colour, t: f64) -> Colour {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * t)
}

/// Mean of the channels.
fn brightness(colour: &Colour) -> f64 {
    colour.iter().sum::<f64>() / 3.0
}
