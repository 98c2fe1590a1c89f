//! Every operation of a ViT-B/16 block on its own, over 8 images of 201 tokens (four prompts), with K tangents.
//!
//! `cargo bench --bench ops [-- FILTER]`; FORETUNE_ISA forces an instruction set, FORETUNE_THREADS the number of threads
//! (default 1, which tells most about a kernel). FLOPs and bytes of each operation, in the order of `foretune bench --ops`,
//! are in its header in `src/ops`.

use divan::{Bencher, counter::ItemsCount};
use foretune::backend::{At, Backend, Heads, Linear, Norm, Rows};
use foretune::cpu::memory::Buffer;
use foretune::cpu::{CpuBackend, CpuOptions, Matrix, Vector};
use foretune::model::{Activation, Mlp};
use std::sync::LazyLock;

const EXAMPLES: usize = 8;
const TOKENS: usize = 201;
const WIDTH: usize = 768;
const HIDDEN: usize = 3072;
const HEADS: Heads = Heads { count: 12, dim: 64 };
const TANGENTS: [usize; 4] = [0, 1, 4, 8];

static BACKEND: LazyLock<CpuBackend> = LazyLock::new(|| {
    let threads = std::env::var("FORETUNE_THREADS").map_or(1, |n| n.parse().expect("FORETUNE_THREADS is a number"));
    CpuBackend::new(CpuOptions::threads(threads)).unwrap_or_else(|e| panic!("{e}"))
});

fn main() {
    divan::main();
}

fn buffer(len: usize) -> Buffer {
    let mut buffer = BACKEND.buffer(len).unwrap_or_else(|e| panic!("{e}"));
    buffer.iter_mut().enumerate().for_each(|(i, v)| *v = ((i % 251) as f32 - 125.0) / 100.0);
    buffer
}

fn layer(n: usize, k: usize) -> Linear<Matrix, Vector> {
    let weight = Matrix::from_values(n, k, (0..n * k).map(|i| ((i % 127) as f32 - 63.0) / 1000.0).collect());
    Linear { weight, bias: Some(vec![0.1; n].into()) }
}

fn norm() -> Norm<Vector> {
    Norm { gamma: vec![1.0; WIDTH].into(), beta: vec![0.0; WIDTH].into(), eps: 1e-6 }
}

fn rows(tangents: usize) -> Rows {
    Rows::full(EXAMPLES, tangents, TOKENS)
}

/// One of the block's linear layers; items are FLOPs.
fn linear(bencher: Bencher, tangents: usize, n: usize, k: usize) {
    let rows = rows(tangents);
    let (layer, x, mut y) = (layer(n, k), buffer(rows.len() * k), buffer(rows.len() * n));
    bencher
        .counter(ItemsCount::new(2 * rows.len() * n * k))
        .bench_local(|| BACKEND.linear(rows.len(), rows.primal_len(), &layer, 0..n, At::start(&x, k), &mut y, 0));
}

#[divan::bench(args = TANGENTS, max_time = 2)]
fn linear_qkv(bencher: Bencher, tangents: usize) {
    linear(bencher, tangents, 3 * WIDTH, WIDTH);
}

#[divan::bench(args = TANGENTS, max_time = 2)]
fn linear_proj(bencher: Bencher, tangents: usize) {
    linear(bencher, tangents, WIDTH, WIDTH);
}

#[divan::bench(args = TANGENTS, max_time = 2)]
fn linear_fc1(bencher: Bencher, tangents: usize) {
    linear(bencher, tangents, HIDDEN, WIDTH);
}

#[divan::bench(args = TANGENTS, max_time = 2)]
fn linear_fc2(bencher: Bencher, tangents: usize) {
    linear(bencher, tangents, WIDTH, HIDDEN);
}

/// Items are FLOPs.
#[divan::bench(args = TANGENTS, max_time = 2)]
fn attention(bencher: Bencher, tangents: usize) {
    let rows = rows(tangents);
    let (q, kv) = (buffer(rows.len() * WIDTH), buffer(rows.len() * 2 * WIDTH));
    let mut y = buffer(rows.len() * WIDTH);
    let flops = foretune::encoder::attention_flops(&rows, &rows, &rows, WIDTH);
    bencher.counter(ItemsCount::new(flops)).bench_local(|| {
        let (q, kv) = (At::start(&q, WIDTH), At::start(&kv, 2 * WIDTH));
        BACKEND.attention(HEADS, &rows, &rows, &rows, q, kv, &mut y)
    });
}

/// Items are elements, as in all that follow.
#[divan::bench(args = TANGENTS, max_time = 2)]
fn activation_gelu(bencher: Bencher, tangents: usize) {
    let rows = rows(tangents);
    let len = rows.len() * HIDDEN;
    // Anew each time: what is activated again and again becomes subnormal.
    bencher
        .counter(ItemsCount::new(len))
        .with_inputs(|| buffer(len))
        .bench_local_refs(|h| BACKEND.activation(&rows, HIDDEN, Mlp::Plain(Activation::Gelu), h));
}

#[divan::bench(args = TANGENTS, max_time = 2)]
fn activation_swiglu(bencher: Bencher, tangents: usize) {
    let rows = rows(tangents);
    let len = rows.len() * 2 * HIDDEN;
    bencher
        .counter(ItemsCount::new(len))
        .with_inputs(|| buffer(len))
        .bench_local_refs(|h| BACKEND.activation(&rows, HIDDEN, Mlp::SwiGlu, h));
}

#[divan::bench(args = TANGENTS, max_time = 2)]
fn layer_norm(bencher: Bencher, tangents: usize) {
    let rows = rows(tangents);
    let (norm, x, mut y) = (norm(), buffer(rows.len() * WIDTH), buffer(rows.len() * WIDTH));
    bencher.counter(ItemsCount::new(x.len())).bench_local(|| BACKEND.norm(&rows, &norm, &x, &mut y));
}

#[divan::bench(args = TANGENTS, max_time = 2)]
fn residual_norm(bencher: Bencher, tangents: usize) {
    let rows = rows(tangents);
    let (norm, f) = (norm(), buffer(rows.len() * WIDTH));
    let (mut x, mut y) = (buffer(rows.len() * WIDTH), buffer(rows.len() * WIDTH));
    bencher
        .counter(ItemsCount::new(x.len()))
        .bench_local(|| BACKEND.residual_norm(&rows, None, &norm, Some(&f), &mut x, &mut y));
}
