//! Directions that are kept until the derivatives of their step are known: those that depend on the example, or are changed once they
//! are drawn, and so cannot be summed as noise. They take 4·B·K·N bytes.

use crate::encoder::{Cotangents, Input};
use crate::engine::Engine;
use crate::guess::{Directions, Guessing, Mixing, orthonormalise, unit_rms};
use crate::rng::Draw;
use crate::{Error, Result};

/// y `[B, K, S, p, d]` of a step's batch, filled a micro-batch at a time.
pub(super) struct Kept {
    guessing: Guessing,
    shape: [usize; 3],
    tangents: usize,
    y: Vec<f32>,
    /// A set of the micro-batch, `[K, m, p, d]`.
    drawn: Vec<f32>,
    noise: Vec<f32>,
    /// Tokens of the micro-batch, `[m, T, d]`.
    tokens: Vec<f32>,
    mixing: Mixing,
    dots: Vec<f64>,
}

/// What the directions of a micro-batch are drawn for.
pub(super) struct Drawing<'a> {
    pub engine: &'a mut dyn Engine,
    pub input: Input<'a, f32>,
    /// `[S, p, d]`.
    pub prompts: &'a [f32],
    /// Its set is not looked at.
    pub draw: Draw,
}

impl Kept {
    /// For prompts `[S, p, d]`.
    pub fn new(guessing: Guessing, shape: [usize; 3]) -> Self {
        Kept {
            guessing,
            shape,
            tangents: 0,
            y: Vec::new(),
            drawn: Vec::new(),
            noise: Vec::new(),
            tokens: Vec::new(),
            mixing: Mixing::default(),
            dots: Vec::new(),
        }
    }

    /// Parameters N.
    fn parameters(&self) -> usize {
        self.shape.iter().product()
    }

    /// Makes room for a batch of `batch` examples and `tangents` tangents.
    pub fn begin(&mut self, batch: usize, tangents: usize) {
        self.tangents = tangents;
        self.y.resize(batch * tangents * self.parameters(), 0.0);
    }

    /// The K directions of an example, `[K, N]`.
    pub fn of(&self, example: usize) -> &[f32] {
        let len = self.tangents * self.parameters();
        &self.y[example * len..][..len]
    }

    /// Draws those of a micro-batch. Errors: the engine's own.
    pub fn fill(&mut self, directions: &mut Directions, drawing: Drawing) -> Result<()> {
        let (examples, len) = (drawing.draw.examples.clone(), self.parameters());
        match directions {
            Directions::Linear(guess) => {
                let [sets, prompts, width] = self.shape;
                for set in 0..sets {
                    let draw = Draw { set, ..drawing.draw.clone() };
                    self.drawn.resize(draw.rows() * prompts * width, 0.0);
                    if !guess.draw(&draw, &mut self.drawn)? {
                        let noise = prompts * guess.noise_width(set);
                        self.noise.resize(draw.rows() * noise, 0.0);
                        let rows = self.noise.chunks_exact_mut(noise).enumerate();
                        rows.for_each(|(row, noise)| guess.noise(draw.stream(row), noise));
                        guess.map(set, &self.noise, &mut self.drawn)?;
                    }
                    self.place(set, examples.start);
                }
            }
            Directions::Mixing(norms) => self.mix(norms, drawing)?,
            Directions::Downstream(blocks) => {
                let (blocks, tangents) = (*blocks, self.tangents);
                let Drawing { engine, input, prompts, draw } = drawing;
                let [sets, count, width] = self.shape;
                let first = examples.start;
                let mut cotangents = Noise { draw, y: &mut self.y, shape: [tangents, sets, count * width], first };
                engine.pullback(input, prompts, blocks, tangents, &mut cotangents)?;
            }
        }
        for y in self.y[examples.start * self.tangents * len..examples.end * self.tangents * len]
            .chunks_exact_mut(self.tangents * len)
        {
            if self.guessing.unit_rms {
                unit_rms(y, self.shape[2]);
            }
            if self.guessing.orthonormal {
                orthonormalise(y, len, &mut self.dots);
            }
        }
        Ok(())
    }

    /// Puts `drawn`, of the set `set`, where it is kept; the micro-batch begins at example `first`.
    fn place(&mut self, set: usize, first: usize) {
        let [sets, prompts, width] = self.shape;
        let len = prompts * width;
        let examples = self.drawn.len() / (len * self.tangents);
        for (row, from) in self.drawn.chunks_exact(len).enumerate() {
            let (tangent, example) = (row / examples, first + row % examples);
            self.y[((example * self.tangents + tangent) * sets + set) * len..][..len].copy_from_slice(from);
        }
    }

    fn mix(&mut self, norms: &[crate::guess::Norm], drawing: Drawing) -> Result<()> {
        let Drawing { engine, input, prompts, draw } = drawing;
        let ([sets, count, width], tangents) = (self.shape, self.tangents);
        let len = engine.spec().tokens(count) * width;
        let Kept { y, noise, tokens, mixing, .. } = self;
        tokens.resize(draw.examples.len() * len, 0.0);
        noise.resize(count * len / width, 0.0);
        engine.tokens(input, prompts, tokens, &mut |set, tokens| {
            for (example, tokens) in draw.examples.clone().zip(tokens.chunks_exact(len)) {
                for prompt in 0..count {
                    let own = &prompts[(set * count + prompt) * width..][..width];
                    mixing.prepare(tokens, own, &norms[set]);
                    for tangent in 0..tangents {
                        Draw { set, ..draw.clone() }.of(example, tangent).normals(noise);
                        let at = ((example * tangents + tangent) * sets + set) * count + prompt;
                        mixing.mix(&noise[prompt * len / width..][..len / width], &mut y[at * width..][..width]);
                    }
                }
            }
            Ok(())
        })
    }

    /// Tangents `draw.tangents` of set `draw.set` of examples `draw.examples`: `out` `[K′, m, p, d]`.
    pub fn copy(&self, draw: &Draw, out: &mut [f32]) -> Result<()> {
        let [sets, prompts, width] = self.shape;
        let len = prompts * width;
        if out.len() != draw.rows() * len || draw.tangents.end > self.tangents {
            let (expected, found) = (format!("{} values", draw.rows() * len), format!("{} values", out.len()));
            return Err(Error::Shape { what: "tangents", expected, found });
        }
        let examples = draw.examples.len();
        for (row, out) in out.chunks_exact_mut(len).enumerate() {
            let (tangent, example) = (draw.tangents.start + row / examples, draw.examples.start + row % examples);
            out.copy_from_slice(&self.y[((example * self.tangents + tangent) * sets + draw.set) * len..][..len]);
        }
        Ok(())
    }

    /// Adds Σ_b Σ_k weights[b, k]·y_bk, in that order, to `sum` `[N]`.
    pub fn add(&self, weights: &[f64], sum: &mut [f64]) {
        for (y, weight) in self.y.chunks_exact(self.parameters()).zip(weights) {
            sum.iter_mut().zip(y).for_each(|(sum, &v)| *sum += weight * f64::from(v));
        }
    }
}

/// Noise of the rows that are read, and what comes back of it.
struct Noise<'a> {
    draw: Draw,
    y: &'a mut [f32],
    /// K, S, p·d.
    shape: [usize; 3],
    first: usize,
}

impl Cotangents<f32> for Noise<'_> {
    fn draw(&mut self, set: usize, tangent: usize, out: &mut [f32]) {
        let len = out.len() / self.draw.examples.len();
        for (example, out) in self.draw.examples.clone().zip(out.chunks_exact_mut(len)) {
            Draw { set, ..self.draw.clone() }.of(example, tangent).normals(out);
        }
    }

    fn take(&mut self, set: usize, tangent: usize, y: &[f32]) {
        let [tangents, sets, len] = self.shape;
        for (i, y) in y.chunks_exact(len).enumerate() {
            let at = ((self.first + i) * tangents + tangent) * sets + set;
            self.y[at * len..][..len].copy_from_slice(y);
        }
    }
}
