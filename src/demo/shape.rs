//! The ten classes, as signed distance functions.

use libm::{cos, hypot, sin};
use std::f64::consts::{PI, TAU};

/// No shape reaches farther from its origin.
pub(super) const REACH: f64 = 1.1;

/// What is drawn in an image: its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A filled circle.
    Disc,
    /// A circle with a concentric hole.
    Ring,
    /// A disc less another one.
    Crescent,
    /// Half a disc.
    Dome,
    /// Equilateral.
    Triangle,
    /// Filled.
    Square,
    /// A square with a square hole.
    Frame,
    /// Two bars that cross at right angles.
    Cross,
    /// Five points.
    Star,
    /// Three parallel bars.
    Bars,
}

impl Shape {
    /// Every shape; a class id is an index into this.
    pub const ALL: [Shape; 10] = [
        Shape::Disc,
        Shape::Ring,
        Shape::Crescent,
        Shape::Dome,
        Shape::Triangle,
        Shape::Square,
        Shape::Frame,
        Shape::Cross,
        Shape::Star,
        Shape::Bars,
    ];

    /// The class's name in `classes.txt`, numbered from 1 as in CUB: `001.disc`.
    pub fn class_name(self) -> String {
        format!("{:03}.{}", self as usize + 1, format!("{self:?}").to_lowercase())
    }

    /// Signed distance (a lower bound of it outside) from `(x, y)` to the outline, negative inside. The shape lies within
    /// [`REACH`] of the origin.
    pub(super) fn distance(self, x: f64, y: f64) -> f64 {
        match self {
            Shape::Disc => hypot(x, y) - 0.85,
            Shape::Ring => (hypot(x, y) - 0.68).abs() - 0.2,
            Shape::Crescent => (hypot(x, y) - 0.92).max(0.74 - hypot(x - 0.42, y)),
            Shape::Dome => (hypot(x, y + 0.4) - 0.95).max(-0.4 - y),
            Shape::Triangle => polygon(x, y, 3, |_| 0.98),
            Shape::Square => rectangle(x, y, 0.7, 0.7),
            Shape::Frame => rectangle(x, y, 0.72, 0.72).max(-rectangle(x, y, 0.36, 0.36)),
            Shape::Cross => rectangle(x, y, 0.95, 0.27).min(rectangle(x, y, 0.27, 0.95)),
            Shape::Star => polygon(x, y, 10, |corner| if corner % 2 == 0 { 1.0 } else { 0.42 }),
            Shape::Bars => [-0.62_f64, 0.0, 0.62].iter().map(|at| rectangle(x, y - at, 0.72, 0.17)).fold(9.0, f64::min),
        }
    }
}

/// Distance to a rectangle of half sides `(a, b)` about the origin.
fn rectangle(x: f64, y: f64, a: f64, b: f64) -> f64 {
    let (dx, dy) = (x.abs() - a, y.abs() - b);
    hypot(dx.max(0.0), dy.max(0.0)) + dx.max(dy).min(0.0)
}

/// Distance to a closed polygon whose corner i lies at `radius(i)` in direction 2πi/`corners`.
fn polygon(x: f64, y: f64, corners: usize, radius: impl Fn(usize) -> f64) -> f64 {
    let corner = |i: usize| {
        let (r, angle) = (radius(i % corners), TAU * (i % corners) as f64 / corners as f64 - PI / 2.0);
        (r * cos(angle), r * sin(angle))
    };
    let (mut nearest, mut inside) = (f64::INFINITY, false);
    for i in 0..corners {
        let ((ax, ay), (bx, by)) = (corner(i), corner(i + 1));
        let (ex, ey, px, py) = (bx - ax, by - ay, x - ax, y - ay);
        let t = ((px * ex + py * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0);
        nearest = nearest.min(hypot(px - t * ex, py - t * ey));
        // Even-odd rule: a ray to the right crosses this edge.
        inside ^= (ay > y) != (by > y) && px < ex * py / ey;
    }
    if inside { -nearest } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_stay_within_reach_and_are_of_similar_area() {
        for shape in Shape::ALL {
            let mut inside = 0;
            for i in 0..200 {
                for j in 0..200 {
                    let (x, y) = ((f64::from(i) - 99.5) / 80.0, (f64::from(j) - 99.5) / 80.0);
                    if shape.distance(x, y) < 0.0 {
                        inside += 1;
                        assert!(hypot(x, y) < REACH, "{shape:?} reaches ({x}, {y})");
                    }
                }
            }
            let area = f64::from(inside) / 6400.0;
            assert!((0.9..2.4).contains(&area), "{shape:?}: area {area}");
        }
    }

    #[test]
    fn distances_change_no_faster_than_the_point_moves() {
        for shape in Shape::ALL {
            for i in 0..400 {
                let (x, y) = (1.3 * sin(f64::from(i) * 1.7), 1.3 * cos(f64::from(i) * 0.9));
                let slope = (shape.distance(x + 1e-3, y) - shape.distance(x, y)).abs() / 1e-3;
                assert!(slope < 1.001, "{shape:?} at ({x}, {y}): {slope}");
            }
        }
    }
}
