//! Dual attention in one online-softmax sweep over key tiles.
//!
//! A task owns one tile of [`QUERIES`] queries of one head of one example. Inside it everything is transposed: queries run
//! along the vector, so that the products read keys and values where they stand, the softmax needs no horizontal
//! reduction, and every query sees the same operations in the same order whatever tile it is in.

use super::gemm::{Across, Along, Kernels};
use super::math::exp_nonpositive;
use super::memory::Shared;
use crate::backend::{Heads, Rows};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// Queries of a tile: whole vectors of every instruction set.
pub(super) const QUERIES: usize = 64;
/// Keys of a tile.
const KEYS: usize = 60;
/// Tangents one sweep carries; more take further sweeps that recompute the scores.
const TANGENTS: usize = 8;

/// Queries, keys and values of a call.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub heads: Heads,
    pub q_rows: &'a Rows,
    pub kv_rows: &'a Rows,
    pub q: &'a [f32],
    pub q_stride: usize,
    pub kv: &'a [f32],
    pub kv_stride: usize,
}

impl Inputs<'_> {
    pub(super) fn width(&self) -> usize {
        self.heads.count * self.heads.dim
    }

    pub(super) fn scale(&self) -> f32 {
        (1.0 / (self.heads.dim as f64).sqrt()) as f32
    }

    pub(super) fn query(&self, row: usize, head: usize) -> &[f32] {
        &self.q[row * self.q_stride + head * self.heads.dim..][..self.heads.dim]
    }

    /// Keys from `row` on, [`Inputs::kv_stride`] apart.
    fn key_rows(&self, row: usize, head: usize) -> &[f32] {
        &self.kv[row * self.kv_stride + head * self.heads.dim..]
    }

    /// Values from `row` on, [`Inputs::kv_stride`] apart.
    fn value_rows(&self, row: usize, head: usize) -> &[f32] {
        &self.kv[row * self.kv_stride + self.width() + head * self.heads.dim..]
    }

    /// Keys from `row` on, to be read `keys` rows down: (element of the head, key).
    pub(super) fn keys(&self, row: usize, head: usize) -> Across {
        Across {
            data: self.kv[row * self.kv_stride + head * self.heads.dim..].as_ptr(),
            depth: 1,
            across: self.kv_stride,
        }
    }

    /// Values from `row` on: (key, element of the head).
    pub(super) fn values(&self, row: usize, head: usize) -> Across {
        let start = row * self.kv_stride + self.width() + head * self.heads.dim;
        Across { data: self.kv[start..].as_ptr(), depth: self.kv_stride, across: 1 }
    }
}

/// Tiles that `queries` queries make.
pub(super) fn tiles(queries: usize) -> usize {
    queries.div_ceil(QUERIES)
}

/// Scratch values a task needs.
pub(super) fn scratch_len(dim: usize, tangents: usize) -> usize {
    let planes = 1 + tangents.min(TANGENTS);
    QUERIES * (2 * planes * dim + 2 * KEYS + 3 + planes) + 3 * KEYS * dim
}

/// One tile of queries of one head of one example.
pub(super) struct Tile<'a> {
    pub inputs: Inputs<'a>,
    pub out_rows: &'a Rows,
    pub kernels: &'a Kernels,
    pub example: usize,
    pub head: usize,
    pub tile: usize,
    pub scratch: &'a mut [f32],
    pub y: Shared<'a>,
}

/// The parts of a task's scratch, each row [`QUERIES`] long.
struct Scratch<'a> {
    /// Scaled queries [1 + tangents, dim].
    q: &'a mut [f32],
    /// Weighted sums of values [1 + tangents, dim].
    out: &'a mut [f32],
    /// Scores, then their exponentials [KEYS].
    p: &'a mut [f32],
    /// Score tangents, then times p [KEYS].
    w: &'a mut [f32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
    /// What a new maximum multiplies earlier sums by.
    shrink: &'a mut [f32],
    /// Σ p·ṡ [tangents].
    mean: &'a mut [f32],
    /// The tile's keys and values, and those of a tangent, [KEYS, dim] each: where they stand they are so far apart that few
    /// of them fit into the same sets of L1.
    key: &'a mut [f32],
    value: &'a mut [f32],
    moving: &'a mut [f32],
}

impl<'a> Scratch<'a> {
    fn new(scratch: &'a mut [f32], dim: usize, tangents: usize) -> Self {
        let planes = (1 + tangents) * dim * QUERIES;
        let (q, rest) = scratch.split_at_mut(planes);
        let (out, rest) = rest.split_at_mut(planes);
        let (p, rest) = rest.split_at_mut(KEYS * QUERIES);
        let (w, rest) = rest.split_at_mut(KEYS * QUERIES);
        let (max, rest) = rest.split_at_mut(QUERIES);
        let (sum, rest) = rest.split_at_mut(QUERIES);
        let (shrink, rest) = rest.split_at_mut(QUERIES);
        let (mean, rest) = rest.split_at_mut(tangents * QUERIES);
        let (key, rest) = rest.split_at_mut(KEYS * dim);
        let (value, rest) = rest.split_at_mut(KEYS * dim);
        Scratch { q, out, p, w, max, sum, shrink, mean, key, value, moving: &mut rest[..KEYS * dim] }
    }
}

/// A block of rows of scratch as the vector operand of a product.
pub(super) fn along(kernels: &Kernels, rows: &[f32]) -> Along {
    Along { data: rows.as_ptr(), depth: QUERIES, panel: kernels.panel() }
}

/// Transposes rows into columns of `to`, times `scale`; columns without a row, up to `padded`, are zero.
pub(super) fn transpose_in<'r>(
    to: &mut [f32],
    padded: usize,
    scale: f32,
    rows: impl Iterator<Item = Option<&'r [f32]>>,
) {
    let mut filled = 0;
    for (i, row) in rows.enumerate() {
        let column = to[i..].iter_mut().step_by(QUERIES);
        match row {
            Some(row) => column.zip(row).for_each(|(to, v)| *to = scale * v),
            None => column.for_each(|to| *to = 0.0),
        }
        filled = i + 1;
    }
    to.chunks_exact_mut(QUERIES).for_each(|line| line[filled..padded].fill(0.0));
}

/// `[count, dim]` from rows of the kv buffer.
fn copy_rows(from: &[f32], stride: usize, count: usize, dim: usize, to: &mut [f32]) {
    for (to, from) in to.chunks_exact_mut(dim).zip(from.chunks(stride)).take(count) {
        to.copy_from_slice(&from[..dim]);
    }
}

/// Rows `[keys, dim]` as (element of the head, key).
fn dense_keys(rows: &[f32], dim: usize) -> Across {
    Across { data: rows.as_ptr(), depth: 1, across: dim }
}

/// Rows `[keys, dim]` as (key, element of the head).
fn dense_values(rows: &[f32], dim: usize) -> Across {
    Across { data: rows.as_ptr(), depth: dim, across: 1 }
}

/// The run of keys from `key` on whose tangents are consecutive: (first key, first tangent, length).
fn next_run(rows: &Rows, mut key: usize, end: usize) -> Option<(usize, usize, usize)> {
    while key < end {
        if let Some(tangent) = rows.pair(key) {
            let len = (1..end - key).take_while(|&n| rows.pair(key + n) == Some(tangent + n)).count() + 1;
            return Some((key, tangent, len));
        }
        key += 1;
    }
    None
}

impl Tile<'_> {
    fn queries(&self) -> Range<usize> {
        let start = self.tile * QUERIES;
        start..(start + QUERIES).min(self.inputs.q_rows.primal().len())
    }

    /// The sweep that carries `tangents`; writes the primal output if `primal`.
    #[inline(always)]
    fn sweep<S: Simd>(&mut self, simd: S, tangents: Range<usize>, primal: bool) {
        let Tile { inputs, out_rows, kernels, example: b, head, ref mut scratch, y, .. } = *self;
        let queries = self.tile * QUERIES..((self.tile + 1) * QUERIES).min(inputs.q_rows.primal().len());
        let (dim, kv_rows) = (inputs.heads.dim, inputs.kv_rows);
        let padded = kernels.padded(queries.len());
        let plane = dim * QUERIES;
        let s = Scratch::new(scratch, dim, tangents.len());

        let rows = queries.clone().map(|i| Some(inputs.query(inputs.q_rows.primal_row(b, i), head)));
        transpose_in(&mut s.q[..plane], padded, inputs.scale(), rows);
        let moving = queries.clone().any(|i| inputs.q_rows.pair(i).is_some());
        if moving {
            for (k, q) in tangents.clone().zip(s.q[plane..].chunks_exact_mut(plane)) {
                let rows = queries.clone().map(|i| {
                    let pair = inputs.q_rows.pair(i)?;
                    Some(inputs.query(inputs.q_rows.tangent_row(k, b, pair), head))
                });
                transpose_in(q, padded, inputs.scale(), rows);
            }
        }
        s.max.fill(f32::NEG_INFINITY);
        s.sum.fill(0.0);
        s.mean.fill(0.0);

        let keys = kv_rows.primal().len();
        for start in (0..keys).step_by(KEYS) {
            let end = (start + KEYS).min(keys);
            let (len, first) = (end - start, start == 0);
            let row = kv_rows.primal_row(b, start);
            copy_rows(inputs.key_rows(row, head), inputs.kv_stride, len, dim, s.key);
            copy_rows(inputs.value_rows(row, head), inputs.kv_stride, len, dim, s.value);
            let (key, value) = (dense_keys(s.key, dim), dense_values(s.value, dim));
            // SAFETY (here and below): `padded` ≤ QUERIES columns of scratch rows; `len` rows of keys and values.
            unsafe {
                kernels.multiply([padded, len, dim], along(kernels, s.q), key, false, s.p.as_mut_ptr(), QUERIES);
            }
            softmax(simd, padded, &mut s.p[..len * QUERIES], s.max, s.sum, s.shrink);
            if !first {
                s.out.chunks_exact_mut(plane).for_each(|out| shrink(simd, padded, s.shrink, out));
                s.mean.chunks_exact_mut(QUERIES).for_each(|mean| shrink(simd, padded, s.shrink, mean));
            }
            unsafe {
                kernels.multiply([padded, dim, len], along(kernels, s.p), value, !first, s.out.as_mut_ptr(), QUERIES);
            }
            for (index, k) in tangents.clone().enumerate() {
                if moving {
                    let q = &s.q[(1 + index) * plane..];
                    unsafe {
                        kernels.multiply([padded, len, dim], along(kernels, q), key, false, s.w.as_mut_ptr(), QUERIES);
                    }
                } else {
                    s.w[..len * QUERIES].fill(0.0);
                }
                let mut next = next_run(kv_rows, start, end);
                while let Some((at, tangent, count)) = next {
                    copy_rows(
                        inputs.key_rows(kv_rows.tangent_row(k, b, tangent), head),
                        inputs.kv_stride,
                        count,
                        dim,
                        s.moving,
                    );
                    let key = dense_keys(s.moving, dim);
                    let w = s.w[(at - start) * QUERIES..].as_mut_ptr();
                    unsafe { kernels.multiply([padded, count, dim], along(kernels, s.q), key, true, w, QUERIES) };
                    next = next_run(kv_rows, at + count, end);
                }
                weigh(simd, padded, &s.p[..len * QUERIES], s.w, &mut s.mean[index * QUERIES..][..QUERIES]);
                let out = s.out[(1 + index) * plane..].as_mut_ptr();
                unsafe { kernels.multiply([padded, dim, len], along(kernels, s.w), value, !first, out, QUERIES) };
                let mut next = next_run(kv_rows, start, end);
                while let Some((at, tangent, count)) = next {
                    copy_rows(
                        inputs.value_rows(kv_rows.tangent_row(k, b, tangent), head),
                        inputs.kv_stride,
                        count,
                        dim,
                        s.moving,
                    );
                    let value = dense_values(s.moving, dim);
                    let p = along(kernels, &s.p[(at - start) * QUERIES..]);
                    unsafe { kernels.multiply([padded, dim, count], p, value, true, out, QUERIES) };
                    next = next_run(kv_rows, at + count, end);
                }
            }
        }

        let (out, rest) = s.out.split_at_mut(plane);
        finish(simd, padded, s.sum, out);
        for (dot, mean) in rest.chunks_exact_mut(plane).zip(s.mean.chunks_exact(QUERIES)) {
            finish_tangent(simd, padded, s.sum, mean, out, dot);
        }
        let width = inputs.width();
        let write = |row: usize, from: &[f32], i: usize| {
            // SAFETY: every (row, head) belongs to one task.
            let y = unsafe { y.slice_mut(row * width + head * dim, dim) };
            y.iter_mut().zip(from[i..].iter().step_by(QUERIES)).for_each(|(y, v)| *y = *v);
        };
        for (i, query) in queries.enumerate() {
            if primal {
                write(out_rows.primal_row(b, query), out, i);
            }
            if let Some(pair) = out_rows.pair(query) {
                for (k, dot) in tangents.clone().zip(rest.chunks_exact(plane)) {
                    write(out_rows.tangent_row(k, b, pair), dot, i);
                }
            }
        }
    }
}

impl WithSimd for Tile<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let wanted = self.queries().any(|i| self.out_rows.pair(i).is_some());
        let tangents = if wanted { self.out_rows.tangents } else { 0 };
        self.sweep(simd, 0..tangents.min(TANGENTS), true);
        for start in (TANGENTS..tangents).step_by(TANGENTS) {
            self.sweep(simd, start..(start + TANGENTS).min(tangents), false);
        }
    }
}

/// Starts of the vectors that cover `padded` columns.
#[inline(always)]
pub(super) fn columns<S: Simd>(padded: usize) -> impl Iterator<Item = usize> {
    (0..padded).step_by(S::F32_LANES)
}

#[inline(always)]
pub(super) fn get<S: Simd>(x: &[f32], at: usize) -> S::f32s {
    S::as_simd_f32s(&x[at..at + S::F32_LANES]).0[0]
}

#[inline(always)]
pub(super) fn put<S: Simd>(x: &mut [f32], at: usize, value: S::f32s) {
    S::as_mut_simd_f32s(&mut x[at..at + S::F32_LANES]).0[0] = value;
}

/// Scores of a key tile to e^{s − max}, with the running maximum and sum.
#[inline(always)]
fn softmax<S: Simd>(simd: S, padded: usize, p: &mut [f32], max: &mut [f32], sum: &mut [f32], shrink: &mut [f32]) {
    for at in columns::<S>(padded) {
        let old = get::<S>(max, at);
        let mut new = old;
        for row in p.chunks_exact(QUERIES) {
            new = simd.max_f32s(new, get::<S>(row, at));
        }
        let factor = exp_nonpositive(simd, simd.sub_f32s(old, new));
        let mut total = simd.mul_f32s(get::<S>(sum, at), factor);
        for row in p.chunks_exact_mut(QUERIES) {
            let e = exp_nonpositive(simd, simd.sub_f32s(get::<S>(row, at), new));
            total = simd.add_f32s(total, e);
            put::<S>(row, at, e);
        }
        put::<S>(max, at, new);
        put::<S>(sum, at, total);
        put::<S>(shrink, at, factor);
    }
}

#[inline(always)]
pub(super) fn shrink<S: Simd>(simd: S, padded: usize, factor: &[f32], rows: &mut [f32]) {
    for at in columns::<S>(padded) {
        let factor = get::<S>(factor, at);
        for row in rows.chunks_exact_mut(QUERIES) {
            put::<S>(row, at, simd.mul_f32s(get::<S>(row, at), factor));
        }
    }
}

/// w = p·ṡ, and its sum onto `mean`.
#[inline(always)]
fn weigh<S: Simd>(simd: S, padded: usize, p: &[f32], w: &mut [f32], mean: &mut [f32]) {
    for at in columns::<S>(padded) {
        let mut total = get::<S>(mean, at);
        for (p, w) in p.chunks_exact(QUERIES).zip(w.chunks_exact_mut(QUERIES)) {
            let product = simd.mul_f32s(get::<S>(p, at), get::<S>(w, at));
            total = simd.add_f32s(total, product);
            put::<S>(w, at, product);
        }
        put::<S>(mean, at, total);
    }
}

/// o = Σpv / Σp.
#[inline(always)]
fn finish<S: Simd>(simd: S, padded: usize, sum: &[f32], out: &mut [f32]) {
    for at in columns::<S>(padded) {
        let scale = simd.div_f32s(simd.splat_f32s(1.0), get::<S>(sum, at));
        for row in out.chunks_exact_mut(QUERIES) {
            put::<S>(row, at, simd.mul_f32s(get::<S>(row, at), scale));
        }
    }
}

/// ȯ = (Σp(ṡv + v̇) − Σpṡ·o) / Σp.
#[inline(always)]
fn finish_tangent<S: Simd>(simd: S, padded: usize, sum: &[f32], mean: &[f32], out: &[f32], dot: &mut [f32]) {
    for at in columns::<S>(padded) {
        let scale = simd.div_f32s(simd.splat_f32s(1.0), get::<S>(sum, at));
        let mean = simd.sub_f32s(simd.splat_f32s(0.0), get::<S>(mean, at));
        for (o, dot) in out.chunks_exact(QUERIES).zip(dot.chunks_exact_mut(QUERIES)) {
            let centred = simd.mul_add_e_f32s(mean, get::<S>(o, at), get::<S>(dot, at));
            put::<S>(dot, at, simd.mul_f32s(centred, scale));
        }
    }
}
