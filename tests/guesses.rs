//! Guesses as random variables: mean, covariance, and the mean of the gradient they estimate, within confidence bounds.

use foretune::cpu::{CpuBackend, CpuOptions};
use foretune::encoder::{Cotangents, Encoder, Input};
use foretune::engine::{self, Engine};
use foretune::guess::{GuessKind, Guessing};
use foretune::model::PromptLayout;
use foretune::ops::{head, loss, norm};
use foretune::rng::Stream;
use foretune::tune::Estimator;
use foretune::{LoadOptions, Model};
use std::path::Path;

const B: usize = 2;
const K: usize = 2;
const STEPS: u64 = 4000;
/// Standard errors that none of some thousand values of a test may be off by.
const BOUND: f64 = 5.5;

fn normals(len: usize, step: u64) -> Vec<f32> {
    let mut out = vec![0f32; len];
    Stream { seed: 11, step, example: 0, tangent: 0, set: 0 }.normals(&mut out);
    out
}

/// Square matrices `[n, n]`, row-major.
type Matrix = Vec<f64>;

/// A small model with prompts in place.
struct Probe {
    model: Model,
    encoder: Encoder<CpuBackend>,
    layout: PromptLayout,
    images: Vec<f32>,
    prompts: Vec<f32>,
}

impl Probe {
    fn new(name: &str, layout: PromptLayout, guess: GuessKind) -> Probe {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let model = Model::open(&path, &LoadOptions::default()).unwrap();
        let native = engine::cpu(&model, CpuOptions { threads: 1, ..CpuOptions::default() }).unwrap();
        let encoder = native.engine_with_guess(layout, B, K, guess).unwrap();
        let images = normals(B * encoder.image_len(), 1);
        let prompts = normals(layout.parameters(&model.spec), 2);
        Probe { model, encoder, layout, images, prompts }
    }

    fn shape(&self) -> [usize; 3] {
        [self.layout.sets(self.model.spec.depth), self.layout.prompts, self.model.spec.width]
    }

    /// Exact gradients `[B, N]` under the checkpoint's own classifier.
    fn gradients(&mut self) -> Vec<Vec<f64>> {
        let classifier = self.model.head().unwrap().unwrap();
        let (classes, width) = (classifier.classes(), classifier.width());
        let mut slope = |f: &[f32], df: &mut [f32]| {
            let mut z = vec![0f32; B * classes];
            head::dual(&classifier, B, 1, f, &mut z, &mut Vec::new());
            for b in 0..B {
                let mut dz = vec![0f32; classes];
                loss::cross_entropy(&z[b * classes..][..classes], b, &mut dz);
                head::vjp(&classifier, &f[b * width..][..width], &dz, &mut df[b * width..][..width]);
            }
            Ok(())
        };
        let mut grads = vec![0f32; B * self.prompts.len()];
        let input = Input::Images(&self.images);
        Engine::gradient(&mut self.encoder, input, &self.prompts, &mut slope, &mut grads).unwrap();
        grads.chunks_exact(self.prompts.len()).map(|g| g.iter().map(|&v| f64::from(v)).collect()).collect()
    }

    /// WᵀW of the layer that reads set `set`, or of its keys and values alone.
    fn gram(&self, set: usize) -> Matrix {
        let (d, block) = (self.model.spec.width, self.layout.insert_at + set);
        let weight: Vec<f32> = self.model.vit.blocks[block].qkv.read().unwrap();
        let unread = self.layout.deep || block + 1 == self.model.spec.depth;
        let rows = weight.chunks_exact(d).skip(if unread { d } else { 0 });
        let mut gram = vec![0.0; d * d];
        for row in rows {
            (0..d * d).for_each(|at| gram[at] += f64::from(row[at / d]) * f64::from(row[at % d]));
        }
        gram
    }

    /// c²·J_LNᵀ·M·J_LN of prompt `index` with trace d.
    fn through_norm(&self, index: usize, inner: &Matrix) -> Matrix {
        let d = self.model.spec.width;
        let block = self.layout.insert_at + index / self.layout.prompts;
        let gamma: Vec<f32> = self.model.vit.blocks[block].norm1.weight.read().unwrap();
        let gamma: Vec<f64> = gamma.into_iter().map(f64::from).collect();
        let prompt: Vec<f64> = self.prompts[index * d..][..d].iter().map(|&v| f64::from(v)).collect();
        let pull = |column: &[f64]| {
            let mut out = vec![0.0; d];
            norm::vjp(&prompt, column, &gamma, self.model.spec.norm_eps, &mut out);
            out
        };
        let transposed = |m: &Matrix| -> Matrix { (0..d * d).map(|at| m[at % d * d + at / d]).collect() };
        // Rows of Jᵀ·M, then of Jᵀ·(Jᵀ·M)ᵀ: M is symmetric.
        let half: Matrix = inner.chunks_exact(d).flat_map(pull).collect();
        let full: Matrix = transposed(&half).chunks_exact(d).flat_map(pull).collect();
        let trace: f64 = (0..d).map(|i| full[i * d + i]).sum();
        full.iter().map(|v| v * d as f64 / trace).collect()
    }

    /// Block diagonal: one block of d for every prompt.
    fn by_prompt(&self, block: impl Fn(usize) -> Matrix) -> Matrix {
        let (d, n) = (self.model.spec.width, self.prompts.len());
        let mut out = vec![0.0; n * n];
        for index in 0..n / d {
            for (i, row) in block(index).chunks_exact(d).enumerate() {
                out[(index * d + i) * n + index * d..][..d].copy_from_slice(row);
            }
        }
        out
    }

    fn estimator(&self, guessing: Guessing) -> Estimator {
        let directions = self.encoder.directions(&guessing).unwrap().unwrap();
        Estimator::new(directions, guessing, 5, self.shape(), 0.0)
    }

    /// Draws a step's directions `[B, K, N]`.
    fn draw(&mut self, estimator: &mut Estimator, step: u64) -> Vec<Vec<f32>> {
        let [sets, prompts, width] = self.shape();
        let (len, n) = (prompts * width, self.prompts.len());
        let input = Input::Images(&self.images);
        estimator.draw_for(&mut self.encoder, input, &self.prompts, step, [0..K, 0..B]).unwrap();
        let mut y = vec![vec![0f32; n]; B * K];
        let mut out = vec![0f32; K * B * len];
        for set in 0..sets {
            estimator.tangents(step, set, 0..K, 0..B, &mut out).unwrap();
            for (row, from) in out.chunks_exact(len).enumerate() {
                y[row % B * K + row / B][set * len..][..len].copy_from_slice(from);
            }
        }
        y
    }
}

/// Checks mean and covariance of every example's directions, and that the mean estimate is mean_b E[yyᵀ]_b·∇L_b.
fn check(
    name: &str,
    layout: PromptLayout,
    guessing: Guessing,
    mean: Option<Vec<f64>>,
    covariance: impl Fn(&mut Probe) -> Vec<Matrix>,
) {
    let mut probe = Probe::new(name, layout, guessing.kind);
    let (covariance, gradients) = (covariance(&mut probe), probe.gradients());
    let n = probe.prompts.len();
    let mean = mean.unwrap_or_else(|| vec![0.0; n]);
    let mut estimator = probe.estimator(guessing);
    estimator.prepare(&probe.prompts, B, K).unwrap();
    let (mut sums, mut products) = (vec![vec![0.0; n]; B], vec![vec![0.0; n * n]; B]);
    let (mut estimates, mut squares) = (vec![0.0; n], vec![0.0; n]);
    for step in 0..STEPS {
        let y = probe.draw(&mut estimator, step);
        let mut derivatives = Vec::new();
        for (row, y) in y.iter().enumerate() {
            let b = row / K;
            let centred: Vec<f64> = y.iter().zip(&mean).map(|(&v, m)| f64::from(v) - m).collect();
            sums[b].iter_mut().zip(&centred).for_each(|(s, v)| *s += v);
            for (i, a) in centred.iter().enumerate() {
                products[b][i * n..][..n].iter_mut().zip(&centred).for_each(|(p, v)| *p += a * v);
            }
            derivatives.push(y.iter().zip(&gradients[b]).map(|(&v, g)| f64::from(v) * g).sum::<f64>() as f32);
        }
        let mut estimate = vec![0f32; n];
        estimator.gradient(step, K, &derivatives, &mut estimate).unwrap();
        for ((e, s), &g) in estimates.iter_mut().zip(&mut squares).zip(&estimate) {
            *e += f64::from(g);
            *s += f64::from(g).powi(2);
        }
    }
    let (samples, steps) = ((STEPS * K as u64) as f64, STEPS as f64);
    let what = format!("{name} {guessing:?}");
    for b in 0..B {
        let of = |i: usize, j: usize| covariance[b][i * n + j];
        // Rounding, for directions that a norm sends to nearly nothing.
        let floor = 1e-9 * (0..n).map(|i| of(i, i)).sum::<f64>() / n as f64;
        for i in 0..n {
            let z = sums[b][i] / (samples * (of(i, i) + floor)).sqrt();
            assert!(z.abs() < BOUND, "{what}: mean of element {i} of example {b} is off by {z} standard errors");
            for j in 0..n {
                let error = ((of(i, i) * of(j, j) + of(i, j).powi(2)) / samples).sqrt() + floor;
                let z = (products[b][i * n + j] / samples - of(i, j)) / error;
                assert!(z.abs() < BOUND, "{what}: covariance {i}, {j} of example {b} is off by {z} standard errors");
            }
        }
    }
    for i in 0..n {
        let expected: f64 = (0..B)
            .map(|b| {
                let second = |j: usize| covariance[b][i * n + j] + mean[i] * mean[j];
                (0..n).map(|j| second(j) * gradients[b][j]).sum::<f64>() / B as f64
            })
            .sum();
        let found = estimates[i] / steps;
        let error = ((squares[i] / steps - found * found) / steps).sqrt();
        let z = (found - expected) / (error + 1e-9);
        assert!(z.abs() < BOUND, "{what}: estimate {i} is {found}, expected {expected}: off by {z} standard errors");
    }
}

const SHALLOW: PromptLayout = PromptLayout { prompts: 2, deep: false, insert_at: 0 };
const LAST: PromptLayout = PromptLayout { prompts: 1, deep: false, insert_at: 1 };
const DEEP: PromptLayout = PromptLayout { prompts: 1, deep: true, insert_at: 0 };
const MODELS: [&str; 2] = ["timm_gap", "timm_clip_quickgelu"];

fn identity(n: usize) -> Matrix {
    (0..n * n).map(|at| f64::from(u8::from(at % (n + 1) == 0))).collect()
}

fn plain(kind: GuessKind) -> Guessing {
    Guessing::from(kind)
}

#[test]
fn isotropic_guesses_are_unbiased() {
    for kind in [GuessKind::Activation, GuessKind::Directional] {
        check("timm_gap", SHALLOW, plain(kind), None, |probe| vec![identity(probe.prompts.len()); B]);
    }
    check("timm_clip_quickgelu", DEEP, plain(GuessKind::Activation), None, |p| vec![identity(p.prompts.len()); B]);
}

#[test]
fn a_directional_batch_shares_its_direction() {
    let mut probe = Probe::new("timm_gap", SHALLOW, GuessKind::Directional);
    let mut estimator = probe.estimator(plain(GuessKind::Directional));
    estimator.prepare(&probe.prompts, B, K).unwrap();
    let y = probe.draw(&mut estimator, 3);
    assert!(y[..K] == y[K..] && y[0] != y[1]);
}

#[test]
fn options_keep_isotropic_directions_isotropic() {
    for guessing in [
        Guessing { orthonormal: true, ..plain(GuessKind::Activation) },
        Guessing { unit_rms: true, ..plain(GuessKind::Activation) },
    ] {
        check("timm_gap", SHALLOW, guessing, None, |probe| vec![identity(probe.prompts.len()); B]);
    }
}

#[test]
fn weights_are_transposed_with_the_spectrum_asked_for() {
    for (name, layout) in [(MODELS[0], SHALLOW), (MODELS[1], LAST), (MODELS[1], DEEP)] {
        for power in [1.0, 0.0, 2.0] {
            let guessing = Guessing { power, ..plain(GuessKind::WeightTranspose) };
            check(name, layout, guessing, None, |probe| {
                let d = probe.model.spec.width;
                let covariance = probe.by_prompt(|index| {
                    let gram = probe.gram(index / layout.prompts);
                    let inner = match power {
                        0.0 => identity(d),
                        1.0 => gram,
                        // WᵀW is symmetric: its square's entries are products of rows.
                        _ => {
                            let dot = |i: usize, j: usize| (0..d).map(|k| gram[i * d + k] * gram[j * d + k]).sum();
                            (0..d * d).map(|at| dot(at / d, at % d)).collect()
                        }
                    };
                    probe.through_norm(index, &inner)
                });
                vec![covariance; B]
            });
        }
    }
}

#[test]
fn few_singular_values_span_few_directions() {
    let mut probe = Probe::new("timm_gap", LAST, GuessKind::WeightTranspose);
    let d = probe.model.spec.width;
    let mut estimator = probe.estimator(Guessing { rank: 2, ..plain(GuessKind::WeightTranspose) });
    estimator.prepare(&probe.prompts, B, K).unwrap();
    let drawn: Vec<Vec<f32>> = (0..2).flat_map(|step| probe.draw(&mut estimator, step)).collect();
    let mut all = drawn.concat();
    foretune::guess::orthonormalise(&mut all, d, &mut Vec::new());
    let lengths: Vec<f32> = all.chunks_exact(d).map(|y| y.iter().map(|v| v * v).sum::<f32>().sqrt()).collect();
    assert!(lengths[1] > 1.0 && lengths[2..].iter().all(|&l| l == 0.0), "{lengths:?}");
}

#[test]
fn uniform_noise_leans_one_way() {
    let guessing = plain(GuessKind::SelfSharpening);
    let mut probe = Probe::new("timm_gap", SHALLOW, GuessKind::SelfSharpening);
    // A·(½, …, ½), by a step's mean: y is linear in the noise, whose mean is known.
    let mut estimator = probe.estimator(guessing);
    estimator.prepare(&probe.prompts, B, K).unwrap();
    let n = probe.prompts.len();
    let mut mean = vec![0.0; n];
    let draws = 40_000;
    for step in 0..draws {
        for y in probe.draw(&mut estimator, 1_000_000 + step) {
            mean.iter_mut().zip(&y).for_each(|(m, &v)| *m += f64::from(v) / (draws as usize * B * K) as f64);
        }
    }
    assert!(mean.iter().any(|m| m.abs() > 0.2), "{mean:?}");
    check("timm_gap", SHALLOW, guessing, Some(mean), |probe| {
        let covariance = probe.by_prompt(|index| probe.through_norm(index, &probe.gram(index / SHALLOW.prompts)));
        vec![covariance.iter().map(|v| v / 12.0).collect(); B]
    });
}

#[test]
fn mixtures_vary_as_the_tokens_do() {
    for (name, layout) in [(MODELS[0], SHALLOW), (MODELS[1], LAST), (MODELS[1], DEEP)] {
        check(name, layout, plain(GuessKind::Mixing), None, |probe| {
            let d = probe.model.spec.width;
            let tokens = probe.model.spec.tokens(layout.prompts);
            let mut host = vec![0f32; B * tokens * d];
            let mut by_set = Vec::new();
            let (input, prompts) = (Input::Images(&probe.images), &probe.prompts);
            Engine::tokens(&mut probe.encoder, input, prompts, &mut host, &mut |_, x| {
                by_set.push(x.to_vec());
                Ok(())
            })
            .unwrap();
            let inner = |b: usize, set: usize| -> Matrix {
                let x: Vec<f64> = by_set[set][b * tokens * d..][..tokens * d].iter().map(|&v| f64::from(v)).collect();
                let mean: Vec<f64> =
                    (0..d).map(|i| (0..tokens).map(|t| x[t * d + i]).sum::<f64>() / tokens as f64).collect();
                let product = |i: usize, j: usize| {
                    (0..tokens).map(|t| (x[t * d + i] - mean[i]) * (x[t * d + j] - mean[j])).sum::<f64>()
                };
                (0..d * d).map(|at| product(at / d, at % d)).collect()
            };
            // The prompts are among the tokens that they join.
            let at = (probe.model.spec.prompt_start() * d, layout.prompts * d);
            assert_eq!(by_set[0][at.0..][..at.1], probe.prompts[..at.1]);
            (0..B).map(|b| probe.by_prompt(|i| probe.through_norm(i, &inner(b, i / layout.prompts)))).collect()
        });
    }
}

/// Noise of one given value a row, and what comes back.
struct Unit {
    element: usize,
    rows: Option<usize>,
    y: Vec<Vec<f32>>,
}

impl Cotangents<f32> for Unit {
    fn draw(&mut self, _: usize, _: usize, out: &mut [f32]) {
        out.fill(0.0);
        let len = out.len() / B;
        self.rows = Some(len);
        (0..B).filter(|_| self.element < len).for_each(|b| out[b * len + self.element] = 1.0);
    }

    fn take(&mut self, _: usize, _: usize, y: &[f32]) {
        self.y.push(y.to_vec());
    }
}

/// Jᵀ, a column for every element that is read, of one set alone: `[B][elements][N]`.
fn jacobian(probe: &mut Probe, blocks: usize) -> Vec<Vec<Vec<f64>>> {
    let n = probe.prompts.len();
    let mut columns = vec![Vec::new(); B];
    for element in 0.. {
        let mut unit = Unit { element, rows: None, y: Vec::new() };
        let input = Input::Images(&probe.images);
        Engine::pullback(&mut probe.encoder, input, &probe.prompts, blocks, 1, &mut unit).unwrap();
        if unit.rows.is_some_and(|rows| element >= rows) {
            break;
        }
        for (columns, y) in columns.iter_mut().zip(unit.y[0].chunks_exact(n)) {
            columns.push(y.iter().map(|&v| f64::from(v)).collect());
        }
    }
    columns
}

#[test]
fn downstream_noise_comes_back_through_the_blocks() {
    for (name, layout, blocks) in [(MODELS[0], SHALLOW, 1), (MODELS[1], SHALLOW, 2), (MODELS[1], LAST, 7)] {
        check(name, layout, plain(GuessKind::Downstream(blocks)), None, |probe| {
            let n = probe.prompts.len();
            let product = |columns: &Vec<Vec<f64>>| -> Matrix {
                (0..n * n).map(|at| columns.iter().map(|c| c[at / n] * c[at % n]).sum()).collect()
            };
            jacobian(probe, usize::from(blocks)).iter().map(product).collect()
        });
    }
}

#[test]
fn what_comes_back_through_blocks_is_each_blocks_own_vjp() {
    for blocks in [1, 2] {
        let mut probe = Probe::new("timm_gap", SHALLOW, GuessKind::Downstream(blocks));
        let (d, tokens) = (probe.model.spec.width, probe.model.spec.tokens(SHALLOW.prompts));
        struct Given(Vec<f32>, Vec<f32>);
        impl Cotangents<f32> for Given {
            fn draw(&mut self, _: usize, _: usize, out: &mut [f32]) {
                self.0 = normals(out.len(), 77);
                out.copy_from_slice(&self.0);
            }
            fn take(&mut self, _: usize, _: usize, y: &[f32]) {
                self.1 = y.to_vec();
            }
        }
        let mut given = Given(Vec::new(), Vec::new());
        let input = Input::Images(&probe.images);
        Engine::pullback(&mut probe.encoder, input, &probe.prompts, blocks.into(), 1, &mut given).unwrap();
        // Only patches are pooled: of the last block no other row is read.
        let read = given.0.len() / B / d;
        assert_eq!(read, if blocks == 2 { probe.model.spec.patches() } else { tokens });
        let mut cotangent = vec![0f32; B * tokens * d];
        for b in 0..B {
            cotangent[((b + 1) * tokens - read) * d..][..read * d]
                .copy_from_slice(&given.0[b * read * d..][..read * d]);
        }
        for block in (0..usize::from(blocks)).rev() {
            probe.encoder.block_vjp(&probe.images, &probe.prompts, block, &mut cotangent).unwrap();
        }
        let start = probe.model.spec.prompt_start() * d;
        let len = SHALLOW.prompts * d;
        for b in 0..B {
            let expected = &cotangent[b * tokens * d + start..][..len];
            let error: f32 = expected.iter().zip(&given.1[b * len..]).map(|(a, b)| (a - b).powi(2)).sum();
            let size: f32 = expected.iter().map(|v| v * v).sum();
            assert!(error <= 1e-10 * size, "{blocks} blocks: {error} of {size}");
        }
    }
}

#[test]
fn deep_sets_do_not_see_what_replaces_them() {
    // The set that enters block 1 replaces the rows of the one that entered block 0: noise there must not come back to it.
    let mut probe = Probe::new("timm_clip_quickgelu", DEEP, GuessKind::Downstream(1));
    let mut unit = Unit { element: usize::MAX, rows: None, y: Vec::new() };
    let input = Input::Images(&probe.images);
    Engine::pullback(&mut probe.encoder, input, &probe.prompts, 1, 1, &mut unit).unwrap();
    assert_eq!(unit.y.len(), probe.shape()[0]);
    assert!(unit.y.iter().flatten().all(|&v| v == 0.0));
}
