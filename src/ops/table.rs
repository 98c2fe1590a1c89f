//! One table of operations and shapes, which every backend runs: against the f64 reference, and against itself.

use super::{Real, Reference};
use crate::backend::{At, Backend, Heads, Linear, Norm, PatchGrid, Rows, hidden_columns};
use crate::model::{Activation, Head, Mlp};
use crate::ops::loss::Judged;
use crate::weights::Element;
use ndarray::{Array1, Array2};

/// Reproducible values in [−2, 2] that f32 holds exactly, rounded to what a backend stores.
struct Random(u64, fn(f64) -> f64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    fn values(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| (self.1)((self.next() >> 40) as f64 / (1 << 22) as f64 - 2.0)).collect()
    }

    /// An ascending, non-empty choice of `tokens`.
    fn subset(&mut self, tokens: &[u32]) -> Vec<u32> {
        let mut chosen: Vec<u32> = tokens.iter().copied().filter(|_| self.below(3) > 0).collect();
        if chosen.is_empty() {
            chosen.push(tokens[self.below(tokens.len())]);
        }
        chosen
    }
}

/// A dual pass's shape.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    examples: usize,
    tangents: usize,
    tokens: usize,
    heads: Heads,
    hidden: usize,
    primal: Vec<u32>,
    tangent: Vec<u32>,
    seed: u64,
    /// To what the backend stores, so that the reference starts from the same values.
    pub round: fn(f64) -> f64,
}

impl Shape {
    #[cfg(feature = "cuda")]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    fn rows(&self) -> Rows {
        Rows::new(self.examples, self.tangents, self.tokens, self.primal.clone(), self.tangent.clone())
    }

    fn full(&self) -> Rows {
        Rows::full(self.examples, self.tangents, self.tokens)
    }

    fn width(&self) -> usize {
        self.heads.count * self.heads.dim
    }

    fn stream(&self) -> usize {
        (1 + self.tangents) * self.examples * self.tokens * self.width()
    }
}

/// Typical, degenerate and random shapes.
pub(crate) fn shapes() -> Vec<Shape> {
    let all = |n: u32| (0..n).collect::<Vec<_>>();
    let shape = |examples, tangents, tokens: usize, count, dim, hidden, primal: Vec<u32>, tangent: Vec<u32>| Shape {
        examples,
        tangents,
        tokens,
        heads: Heads { count, dim },
        hidden,
        primal,
        tangent,
        seed: 99,
        round: |v| v,
    };
    let mut shapes = vec![
        shape(1, 0, 1, 1, 1, 1, vec![0], vec![]),
        shape(2, 2, 70, 2, 64, 96, all(70), all(70)),
        shape(1, 1, 130, 1, 16, 33, all(130), (1..6).collect()),
        shape(2, 10, 9, 2, 8, 20, vec![0], vec![0]),
        shape(3, 1, 65, 3, 5, 7, all(65), vec![0, 3, 4, 64]),
        // Several tiles of keys and blocks of queries, tangents in all of them or only some.
        shape(1, 2, 290, 1, 20, 3, all(290), all(290)),
        shape(1, 1, 530, 1, 8, 3, all(530), [7].into_iter().chain(200..240).collect()),
    ];
    let mut random = Random(77, |v| v);
    for seed in 0..12 {
        let tokens = 1 + random.below(140);
        let primal = random.subset(&all(tokens as u32));
        shapes.push(Shape {
            examples: 1 + random.below(3),
            tangents: random.below(4),
            tokens,
            heads: Heads { count: 1 + random.below(3), dim: 1 + random.below(40) },
            hidden: 1 + random.below(70),
            tangent: random.subset(&primal),
            primal,
            seed,
            round: |v| v,
        });
    }
    shapes
}

pub(crate) fn elements<T: Real>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&v| T::from_f64(v)).collect()
}

fn filled<B: Backend>(backend: &B, values: &[f64]) -> B::Buffer {
    let mut buffer = backend.buffer(values.len()).unwrap();
    backend.write(&mut buffer, 0, &elements(values)).unwrap();
    buffer
}

fn contents<B: Backend>(backend: &B, buffer: &B::Buffer, len: usize) -> Vec<f64> {
    let mut values = vec![B::Elem::from_f64(0.0); len];
    backend.read(buffer, 0, &mut values).unwrap();
    values.into_iter().map(|v| v.f64()).collect()
}

fn vector<B: Backend>(backend: &B, values: &[f64]) -> B::Vector {
    backend.vector(elements(values)).unwrap()
}

fn norm<B: Backend>(backend: &B, random: &mut Random, width: usize) -> Norm<B::Vector> {
    let (gamma, beta) = (random.values(width), random.values(width));
    Norm { gamma: vector(backend, &gamma), beta: vector(backend, &beta), eps: 1e-6 }
}

fn linear<B: Backend>(
    backend: &B,
    random: &mut Random,
    n: usize,
    k: usize,
    bias: bool,
) -> Linear<B::Matrix, B::Vector> {
    let (w, b) = (random.values(n * k), random.values(n));
    let weight = backend.matrix(n, k, elements(&w)).unwrap();
    Linear { weight, bias: bias.then(|| vector(backend, &b)) }
}

const MLPS: [Mlp; 6] = [
    Mlp::Plain(Activation::Gelu),
    Mlp::Plain(Activation::GeluTanh),
    Mlp::Plain(Activation::QuickGelu),
    Mlp::Plain(Activation::Relu),
    Mlp::Plain(Activation::Silu),
    Mlp::SwiGlu,
];

/// Named results of every operation on one shape.
pub(crate) type Results = Vec<(String, Vec<f64>)>;

pub(crate) fn run<B: Backend>(backend: &B, shape: &Shape) -> Results {
    let mut results = Vec::new();
    movement(backend, shape, &mut results);
    norms(backend, shape, &mut results);
    linears(backend, shape, &mut results);
    attention(backend, shape, &mut results);
    activations(backend, shape, &mut results);
    heads(backend, shape, &mut results);
    results
}

fn movement<B: Backend>(backend: &B, shape: &Shape, results: &mut Results) {
    let mut random = Random(shape.seed * 2 + 11, shape.round);
    let (rows, d) = (shape.rows(), shape.width());
    let compact = filled(backend, &random.values(rows.len() * d));
    let stream = random.values(shape.stream());
    let scale = vector(backend, &random.values(d));
    for (name, scale) in [("", None), (" scaled", Some(&scale))] {
        let mut x = filled(backend, &stream);
        backend.residual(&rows, d, scale, &compact, &mut x).unwrap();
        results.push((format!("residual{name}"), contents(backend, &x, shape.stream())));
        let mut y = filled(backend, &random.values(rows.len() * d));
        backend.gather(&rows, d, &x, scale, &mut y).unwrap();
        results.push((format!("gather{name}"), contents(backend, &y, rows.len() * d)));
    }
    let mut x = filled(backend, &stream);
    backend.scatter(&rows, d, &compact, &mut x).unwrap();
    results.push(("scatter".to_owned(), contents(backend, &x, shape.stream())));

    let same = Rows::new(shape.examples, shape.tangents, shape.tokens, shape.primal.clone(), shape.primal.clone());
    let y = filled(backend, &random.values(same.len() * d));
    let count = same.primal().len();
    let groups = [0..1, count / 2..count];
    let len = (1 + shape.tangents) * shape.examples * 2 * d;
    let mut out = backend.buffer(len).unwrap();
    backend.pool(&same, d, &groups, &y, &mut out).unwrap();
    results.push(("pool".to_owned(), contents(backend, &out, len)));

    let grid = PatchGrid { channels: 2, image: [7, 11], patch: [3, 2] };
    let images = elements(&random.values(shape.examples * 2 * 7 * 11));
    let len = shape.examples * grid.len() * grid.patch_len();
    let mut out = backend.buffer(len).unwrap();
    backend.patches(grid, shape.examples, &images, &mut out).unwrap();
    results.push(("patches".to_owned(), contents(backend, &out, len)));

    let image = Rows::new(shape.examples, 0, shape.tokens, shape.primal.clone(), Vec::new());
    let patches = image.primal().len() / 2;
    let projected = filled(backend, &random.values(shape.examples * patches * d));
    let constant = vector(backend, &random.values(image.primal().len() * d));
    backend.embed(&image, patches, d, &projected, &constant, &mut x).unwrap();
    results.push(("embed".to_owned(), contents(backend, &x, shape.stream())));
    backend.zero(&mut x, d / 2..d).unwrap();
    results.push(("zero".to_owned(), contents(backend, &x, shape.stream())));
}

fn norms<B: Backend>(backend: &B, shape: &Shape, results: &mut Results) {
    let mut random = Random(shape.seed * 2 + 13, shape.round);
    let (rows, d) = (shape.rows(), shape.width());
    let layer = norm(backend, &mut random, d);
    let scale = vector(backend, &random.values(d));
    let len = rows.len() * d;
    let mut x = filled(backend, &random.values(shape.stream()));
    let mut y = backend.buffer(len).unwrap();
    backend.norm(&rows, &layer, &x, &mut y).unwrap();
    results.push(("norm".to_owned(), contents(backend, &y, len)));
    let f = filled(backend, &random.values(len));
    backend.residual_norm(&rows, Some(&scale), &layer, Some(&f), &mut x, &mut y).unwrap();
    results.push(("residual_norm x".to_owned(), contents(backend, &x, shape.stream())));
    results.push(("residual_norm y".to_owned(), contents(backend, &y, len)));
    let mut y = filled(backend, &random.values(len));
    backend.residual_norm(&rows, None, &layer, None, &mut x, &mut y).unwrap();
    results.push(("residual_norm in place x".to_owned(), contents(backend, &x, shape.stream())));
    results.push(("residual_norm in place y".to_owned(), contents(backend, &y, len)));
    let mut dx = filled(backend, &random.values(shape.stream()));
    backend.norm_vjp(&rows, &layer, &x, &f, &mut dx).unwrap();
    results.push(("norm_vjp".to_owned(), contents(backend, &dx, shape.stream())));
}

fn linears<B: Backend>(backend: &B, shape: &Shape, results: &mut Results) {
    let mut random = Random(shape.seed * 2 + 17, shape.round);
    let (rows, d) = (shape.rows(), shape.width());
    let (count, biased) = (rows.len(), rows.primal_len());
    for bias in [false, true] {
        let layer = linear(backend, &mut random, 3 * d, d, bias);
        for outputs in [0..3 * d, d..2 * d] {
            let x = filled(backend, &random.values(5 + count * (d + 2)));
            let n = outputs.len();
            let mut y = filled(backend, &random.values(3 + count * n));
            let from = At { buffer: &x, offset: 5, stride: d + 2 };
            backend.linear(count, biased, &layer, outputs.clone(), from, &mut y, 3).unwrap();
            results.push(("linear".to_owned(), contents(backend, &y, 3 + count * n)));
            for accumulate in [false, true] {
                let dy = At { buffer: &y, offset: 3, stride: n };
                let mut dx = filled(backend, &random.values(7 + count * d));
                backend.linear_vjp(biased, &layer, outputs.clone(), dy, accumulate, &mut dx, 7).unwrap();
                results.push(("linear_vjp".to_owned(), contents(backend, &dx, 7 + biased * d)));
            }
        }
    }
}

fn attention<B: Backend>(backend: &B, shape: &Shape, results: &mut Results) {
    let mut random = Random(shape.seed * 2 + 19, shape.round);
    let (rows, full, d) = (shape.rows(), shape.full(), shape.width());
    // Keys everywhere; tangents at some tokens, at all, and at none but the queries'.
    let some = Rows::new(shape.examples, shape.tangents, shape.tokens, full.primal().to_vec(), shape.tangent.clone());
    let none = |primal: &[u32]| Rows::new(shape.examples, shape.tangents, shape.tokens, primal.to_vec(), Vec::new());
    let all = Rows::new(shape.examples, shape.tangents, shape.tokens, shape.primal.clone(), shape.primal.clone());
    for (name, q_rows, kv_rows, out_rows) in [
        ("attention everywhere", &full, &full, &full),
        ("attention entering", &some, &some, &full),
        ("attention pooled", &all, &full, &all),
        ("attention mixed", &rows, &some, &all),
        ("attention keys only", &none(&shape.primal), &some, &all),
        ("attention primal", &none(&shape.primal), &none(full.primal()), &none(&shape.primal)),
    ] {
        let buffer = filled(backend, &random.values(3 + q_rows.len() * d + kv_rows.len() * 2 * d));
        let q = At { buffer: &buffer, offset: 3, stride: d };
        let kv = At { buffer: &buffer, offset: 3 + q_rows.len() * d, stride: 2 * d };
        let len = out_rows.len() * d;
        let mut y = filled(backend, &random.values(len));
        backend.attention(shape.heads, q_rows, kv_rows, out_rows, q, kv, &mut y).unwrap();
        results.push((name.to_owned(), contents(backend, &y, len)));
    }
    let primal = none(full.primal());
    let len = primal.len() * d;
    let buffer = filled(backend, &random.values(3 * len));
    let (q, kv) = (At::start(&buffer, d), At { buffer: &buffer, offset: len, stride: 2 * d });
    let dy = filled(backend, &random.values(len));
    let mut dqkv = filled(backend, &random.values(3 * len));
    backend.attention_vjp(shape.heads, &primal, q, kv, &dy, &mut dqkv).unwrap();
    results.push(("attention_vjp".to_owned(), contents(backend, &dqkv, 3 * len)));
}

fn activations<B: Backend>(backend: &B, shape: &Shape, results: &mut Results) {
    let mut random = Random(shape.seed * 2 + 23, shape.round);
    let (rows, hidden) = (shape.rows(), shape.hidden);
    for mlp in MLPS {
        let stride = hidden * hidden_columns(mlp);
        let len = rows.len() * stride;
        let values: Vec<f64> = random.values(len).iter().map(|v| (shape.round)((v * 3.0) as f32 as f64)).collect();
        let mut h = filled(backend, &values);
        let dg = filled(backend, &random.values(rows.len() * hidden));
        let mut dh = backend.buffer(len).unwrap();
        backend.activation_vjp(rows.len(), hidden, mlp, &h, &dg, &mut dh).unwrap();
        results.push((format!("activation_vjp {mlp:?}"), contents(backend, &dh, len)));
        backend.activation(&rows, hidden, mlp, &mut h).unwrap();
        // Only the first half of a SwiGLU row is a result.
        let mut out = contents(backend, &h, len);
        out.chunks_exact_mut(stride).for_each(|row| row[hidden..].fill(0.0));
        results.push((format!("activation {mlp:?}"), out));
    }
}

/// Both heads under the cross entropy, of an odd number of classes.
fn heads<B: Backend>(backend: &B, shape: &Shape, results: &mut Results) {
    let mut random = Random(shape.seed * 2 + 31, |v| v);
    let (width, planes, examples) = (shape.width(), 1 + shape.tangents, shape.examples);
    let classes = 1 + shape.hidden % 50;
    let mut narrow = |n: usize| random.values(n).into_iter().map(|v| v as f32).collect::<Vec<f32>>();
    let size = 1.0 / (width as f32).sqrt();
    let mut matrix = || Array2::from_shape_vec((classes, width), narrow(classes * width)).unwrap() * size;
    let (weight, means) = (matrix(), matrix());
    let (bias, center) = (Array1::from(narrow(classes)), Array1::from(narrow(width)));
    let labels: Vec<u32> = (0..examples).map(|_| random.below(classes) as u32).collect();
    let mut random = Random(shape.seed * 2 + 37, shape.round);
    let f = filled(backend, &random.values(planes * examples * width));
    for (name, head) in
        [("linear", Head::Linear { weight, bias }), ("prototype", Head::Prototype { center, means, tau: 3.5 })]
    {
        // Room for an example at least, and for all in f32.
        let mut work = backend.buffer(2 * planes * (width + classes)).unwrap();
        let mut judged = Judged::default();
        judged.inputs = Some(Vec::new());
        backend.judge(&head, &labels, shape.tangents, &f, &mut work, &mut judged).unwrap();
        let Judged { losses, best, derivatives, slopes, inputs, .. } = judged;
        let values = |values: Vec<B::Elem>| values.into_iter().map(|v| v.f64()).collect::<Vec<f64>>();
        // Differences of logits, beside the size of one.
        let beside = |values: Vec<f64>| values.into_iter().chain([1.0]).collect();
        results.push((format!("loss {name}"), beside(values(losses))));
        results.push((format!("top class {name}"), best.into_iter().map(f64::from).collect()));
        results.push((format!("loss tangents {name}"), beside(values(derivatives))));
        results.push((format!("loss slopes {name}"), beside(values(slopes))));
        results.push((format!("head inputs {name}"), values(inputs.unwrap())));
    }
}

/// The largest error of an operation on a shape, over the largest value that was expected.
pub(crate) struct Worst {
    pub name: String,
    pub error: f64,
    /// The largest error itself.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "f32 is told by the error alone"))]
    pub gap: f64,
}

/// Every operation of `backend` on `shape` beside what the reference makes of it.
pub(crate) fn compare<B: Backend>(backend: &B, shape: &Shape) -> Vec<Worst> {
    let expected = run(&Reference::<f64>::new(), shape);
    let both = run(backend, shape).into_iter().zip(expected);
    both.map(|((name, found), (_, expected))| {
        assert_eq!(found.len(), expected.len());
        let size = expected.iter().fold(0.0_f64, |a, v| a.max(v.abs()));
        let gap = found.iter().zip(&expected).fold(0.0, |a: f64, (f, e)| {
            let gap = (f - e).abs();
            if gap <= a { a } else { gap }
        });
        Worst { name, error: if gap == 0.0 { 0.0 } else { gap / size }, gap }
    })
    .collect()
}

/// Planes `[1+K, B, rest]` of one example.
fn example(values: &[f64], planes: usize, examples: usize, b: usize) -> Vec<f64> {
    let len = values.len() / planes / examples;
    (0..planes).flat_map(|plane| &values[(plane * examples + b) * len..][..len]).copied().collect()
}

/// Checks that an example's results have the same bits whichever others it is computed with.
pub(crate) fn check_independence<B: Backend>(backend: &B, shape: &Shape) {
    let shape = Shape { examples: 3, ..shape.clone() };
    let planes = 1 + shape.tangents;
    let mut random = Random(shape.seed * 2 + 29, shape.round);
    let (d, hidden) = (shape.width(), shape.hidden);
    let (layer, fc) = (norm(backend, &mut random, d), linear(backend, &mut random, hidden, d, true));
    let inputs = random.values(shape.stream());
    let qkv = random.values(3 * shape.stream());
    // Norm, linear, activation and attention of some examples together.
    let chain = |shape: &Shape, input: &[f64], q: &[f64], kv: &[f64]| {
        let full = shape.full();
        let (x, q, kv) = (filled(backend, input), filled(backend, q), filled(backend, kv));
        let (rows, d) = (full.len(), shape.width());
        let [mut y, mut h, mut a] = [d, hidden, d].map(|n| backend.buffer(rows * n).unwrap());
        backend.norm(&full, &layer, &x, &mut y).unwrap();
        let from = At::start(&y, d);
        backend.linear(rows, full.primal_len(), &fc, 0..hidden, from, &mut h, 0).unwrap();
        backend.activation(&full, hidden, Mlp::Plain(Activation::Gelu), &mut h).unwrap();
        let (q, kv) = (At::start(&q, d), At::start(&kv, 2 * d));
        backend.attention(shape.heads, &full, &full, &full, q, kv, &mut a).unwrap();
        (contents(backend, &h, rows * hidden), contents(backend, &a, rows * d))
    };
    let (q, kv) = qkv.split_at(shape.stream());
    let (h, a) = chain(&shape, &inputs, q, kv);
    for b in 0..3 {
        let one = Shape { examples: 1, ..shape.clone() };
        let part = |values: &[f64]| example(values, planes, 3, b);
        let (h1, a1) = chain(&one, &part(&inputs), &part(q), &part(kv));
        assert!(h1 == part(&h) && a1 == part(&a), "example {b}, {shape:?}");
    }
}
