//! Dual attention: softmax over tiles of keys, online where there are several.
//!
//! Per head and query against T keys: 4T·dim FLOPs and T exponentials primal, 8T·dim per tangent. Per head and token q, k
//! and v are read once per plane (12·dim bytes) and y is written once (4·dim), and read and written again per tile of keys.
//!
//! A task owns a block of queries of one head of one example. Per tile of keys it packs K transposed and V as it stands
//! into panels of a micro-kernel's width, then goes through tiles of queries whose scores stay in L1. Keys run along the
//! vectors of the scores and the head's elements along those of the output: queries are read and outputs written in their
//! own order, and a softmax row is contiguous. The probabilities of the block stay in L2 and serve one tangent after the
//! other, whose keys and values are packed once; sums over tiles of keys live in the output itself. A tangent's keys follow
//! the primal ones in each panel, so that ṡ = [q̇, q]·[k; k̇] is one product of depth 2·dim.
//!
//! Every row goes through the same operations in the same order, whatever the tile and the task it is in: terms that a tile
//! leaves out are zeros in every other.

mod keys;
mod rows;
mod scratch;

use super::gemm::{Across, Along, Kernels};
use super::isa::Isa;
use super::memory::Shared;
use crate::backend::{Heads, Rows};
use keys::{Keys, hull, runs};
use pulp::{Simd, WithSimd};
use rows::{centre, scale, scaled, softmax, weigh};
pub(super) use scratch::scratch_len;
use scratch::{KEYS, LINE, QUERIES, Scratch, Sizes, TILE, score_stride};
use std::ops::Range;

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

    /// Keys of `count` rows from `row` on, [`Inputs::kv_stride`] apart.
    fn key_rows(&self, row: usize, count: usize, head: usize) -> &[f32] {
        &self.kv[row * self.kv_stride + head * self.heads.dim..][..(count - 1) * self.kv_stride + self.heads.dim]
    }

    /// Values of `count` rows from `row` on, [`Inputs::kv_stride`] apart.
    fn value_rows(&self, row: usize, count: usize, head: usize) -> &[f32] {
        let start = row * self.kv_stride + self.width() + head * self.heads.dim;
        &self.kv[start..][..(count - 1) * self.kv_stride + self.heads.dim]
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

/// Queries of each task: fewer than [`QUERIES`] where there are few (example, head) pairs for the threads. Bits do not
/// depend on it.
pub(super) fn block(kernels: &Kernels, queries: usize, pairs: usize, threads: usize) -> usize {
    let wanted = if threads == 1 { 1 } else { (4 * threads).div_ceil(pairs.max(1)) };
    let blocks = queries.div_ceil(QUERIES).max(wanted).max(1);
    queries.div_ceil(blocks).next_multiple_of(kernels.rows())
}

/// A block of queries of one head of one example.
pub(super) struct Task<'a> {
    pub inputs: Inputs<'a>,
    pub out_rows: &'a Rows,
    pub isa: Isa,
    pub kernels: &'a Kernels,
    pub example: usize,
    pub head: usize,
    pub queries: Range<usize>,
    pub scratch: &'a mut [f32],
    pub y: Shared<'a>,
}

impl<'a> Task<'a> {
    /// Output of compact row `row`.
    fn output(&self, row: usize) -> &'a mut [f32] {
        let dim = self.inputs.heads.dim;
        // SAFETY: every (row, head) belongs to one task, which makes no two references to it at a time.
        unsafe { self.y.slice_mut(row * self.inputs.width() + self.head * dim, dim) }
    }

    /// Packed values from line `line` on as the vector operand.
    fn values(&self, packed: &[f32], lines: usize, line: usize) -> Along {
        let width = self.kernels.panel();
        Along { data: packed[line * width..].as_ptr(), depth: width, panel: lines * width }
    }

    /// Probabilities and outputs against a tile of keys; keeps the probabilities of the whole block if `keep`.
    #[inline(always)]
    fn primal<S: Simd>(&self, simd: S, s: &mut Scratch, keys: &Keys, keep: bool) {
        let Task { inputs, kernels, example, head, ref queries, .. } = *self;
        let (dim, d, len) = (inputs.heads.dim, inputs.width(), keys.range.len());
        let (first, last) = (keys.range.start == 0, keys.range.end == inputs.kv_rows.primal().len());
        let (padded, stride) = (len.next_multiple_of(LINE), score_stride(len));
        let width = kernels.panel();
        let tile = TILE - TILE % kernels.rows();
        for start in queries.clone().step_by(tile) {
            let count = tile.min(queries.end - start);
            let at = start - queries.start;
            for i in 0..count {
                let query = inputs.query(inputs.q_rows.primal_row(example, start + i), head);
                scaled(simd, inputs.scale(), query, &mut s.q[i * dim..][..dim]);
            }
            let p = &mut s.p[if keep { at } else { 0 } * stride..][..count * stride];
            for (index, column) in (0..padded).step_by(width).enumerate() {
                self.prefetch(keys, 0, start..start + count, index, padded.div_ceil(width));
                let along = Along { data: s.keys[index * keys.panel..].as_ptr(), depth: width, panel: 0 };
                let shape = [width.min(padded - column), count, dim];
                let across = Across { data: s.q.as_ptr(), depth: 1, across: dim };
                // SAFETY: a panel of keys, zero beyond the last, and `count` rows of queries and scores.
                unsafe { kernels.multiply(shape, along, across, false, p[column..].as_mut_ptr(), stride) };
            }
            let outputs = self.out_rows.primal_row(example, start);
            for i in 0..count {
                let row = &mut p[i * stride..][..padded];
                let shrink = softmax(simd, row, s.tail, &mut s.max[at + i], &mut s.sum[at + i]);
                s.shrink[at + i] = shrink;
                if !first {
                    scale(simd, shrink, self.output(outputs + i));
                }
            }
            let across = Across { data: p.as_ptr(), depth: 1, across: stride };
            // SAFETY: `len` lines of values; outputs as in `output`.
            unsafe {
                let y = self.y.at(outputs * d + head * dim);
                kernels.multiply([dim, count, len], self.values(s.values, len, 0), across, !first, y, d);
            }
            if last {
                for i in 0..count {
                    scale(simd, 1.0 / s.sum[at + i], self.output(outputs + i));
                }
            }
        }
    }

    /// Tangent `k` of the outputs against a tile of keys, after [`Task::primal`].
    #[inline(always)]
    fn tangent<S: Simd>(&self, simd: S, s: &mut Scratch, keys: &Keys, k: usize) {
        let Task { inputs, out_rows, kernels, example, head, ref queries, .. } = *self;
        let (dim, d, len) = (inputs.heads.dim, inputs.width(), keys.range.len());
        let (first, last) = (keys.range.start == 0, keys.range.end == inputs.kv_rows.primal().len());
        let (padded, stride) = (len.next_multiple_of(LINE), score_stride(len));
        let width = kernels.panel();
        let tile = TILE - TILE % kernels.rows();
        let q_rows = inputs.q_rows;
        let mean = k * s.max.len();
        // Panels that hold keys with tangents.
        let panels = keys.moving.start / width..keys.moving.end.div_ceil(width);
        for (from, pair, run) in runs(out_rows, queries.clone()) {
            for start in (from..from + run).step_by(tile) {
                let count = tile.min(from + run - start);
                let at = start - queries.start;
                let moving = (start..start + count).any(|i| q_rows.pair(i).is_some());
                for i in 0..count {
                    let (dot, q) = s.q[i * 2 * dim..][..2 * dim].split_at_mut(dim);
                    scaled(simd, inputs.scale(), inputs.query(q_rows.primal_row(example, start + i), head), q);
                    match q_rows.pair(start + i) {
                        Some(pair) => {
                            let tangent = inputs.query(q_rows.tangent_row(k, example, pair), head);
                            scaled(simd, inputs.scale(), tangent, dot);
                        }
                        None => dot.fill(0.0),
                    }
                }
                // Columns whose score tangents are not all zero.
                let columns = if moving {
                    0..padded
                } else {
                    (panels.start * width).min(padded)..(panels.end * width).min(padded)
                };
                for column in columns.clone().step_by(width) {
                    let index = column / width;
                    self.prefetch(keys, 1 + k, start..start + count, index, padded.div_ceil(width));
                    let terms = if moving { 0 } else { dim }..if panels.contains(&index) { 2 * dim } else { dim };
                    let along = Along {
                        data: s.keys[index * keys.panel + terms.start * width..].as_ptr(),
                        depth: width,
                        panel: 0,
                    };
                    let shape = [width.min(padded - column), count, terms.len()];
                    let across = Across { data: s.q[terms.start..].as_ptr(), depth: 1, across: 2 * dim };
                    // SAFETY: as in `primal`.
                    unsafe { kernels.multiply(shape, along, across, false, s.w[column..].as_mut_ptr(), stride) };
                }
                let outputs = out_rows.tangent_row(k, example, pair + start - from);
                for i in 0..count {
                    let p = &s.p[(at + i) * stride..][columns.clone()];
                    let total = weigh(simd, p, &mut s.w[i * stride..][columns.clone()]);
                    let mean = &mut s.mean[mean + at + i];
                    if first {
                        *mean = total;
                    } else {
                        *mean = *mean * s.shrink[at + i] + total;
                        scale(simd, s.shrink[at + i], self.output(outputs + i));
                    }
                }
                let weighed = columns.start.min(len)..columns.end.min(len);
                let moved = keys.moving.clone();
                let row = &s.p[at * stride..];
                // SAFETY: `len` lines of values, those of `moved` of their tangents; outputs as in `output`.
                unsafe {
                    let y = self.y.at(outputs * d + head * dim);
                    let across = |row: &[f32]| Across { data: row.as_ptr(), depth: 1, across: stride };
                    let values = self.values(s.values, len, weighed.start);
                    let w = across(&s.w[weighed.start..]);
                    kernels.multiply([dim, count, weighed.len()], values, w, !first, y, d);
                    let values = self.values(s.moving, len, moved.start);
                    kernels.multiply([dim, count, moved.len()], values, across(&row[moved.start..]), true, y, d);
                }
                if last {
                    for i in 0..count {
                        let y = self.output(out_rows.primal_row(example, start + i));
                        let dot = self.output(outputs + i);
                        centre(simd, 1.0 / s.sum[at + i], s.mean[mean + at + i], y, dot);
                    }
                }
            }
        }
    }
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let scratch = std::mem::take(&mut self.scratch);
        let Task { inputs, out_rows, kernels, example, .. } = self;
        let (kv_rows, dim, width) = (inputs.kv_rows, inputs.heads.dim, kernels.panel());
        let wanted = self.queries.clone().any(|i| out_rows.pair(i).is_some());
        let tangents = if wanted { out_rows.tangents } else { 0 };
        let total = kv_rows.primal().len();
        let tile = total.div_ceil(total.div_ceil(KEYS).max(1)).next_multiple_of(LINE);
        let mut s = Scratch::new(scratch, Sizes::new(dim, self.queries.len(), tile.min(total), tangents));
        s.max.fill(f32::NEG_INFINITY);
        s.sum.fill(0.0);
        for start in (0..total).step_by(tile.max(1)) {
            let range = start..(start + tile).min(total);
            let len = range.len();
            let planes = 1 + usize::from(tangents > 0);
            let keys = Keys { panel: planes * dim * width, moving: hull(kv_rows, range.clone()), tangents, range };
            for (i, tail) in s.tail.iter_mut().enumerate() {
                *tail = if (len - 1) / LINE * LINE + i < len { 0.0 } else { f32::NEG_INFINITY };
            }
            // Columns beyond the last key, and keys without tangents, are zero.
            for panel in len / width..len.next_multiple_of(LINE).div_ceil(width) {
                s.keys[panel * keys.panel..][..dim * width].fill(0.0);
            }
            let row = kv_rows.primal_row(example, start);
            self.pack_keys(s.keys, keys.panel, 0, 0, row, len);
            self.pack_values(simd, s.values, len, 0, row, len);
            self.primal(simd, &mut s, &keys, tangents > 0);
            let moving = keys.moving.clone();
            for k in 0..tangents {
                if k == 0 {
                    for panel in moving.start / width..moving.end.div_ceil(width) {
                        s.keys[panel * keys.panel + dim * width..][..dim * width].fill(0.0);
                    }
                    for panel in s.moving.chunks_mut(len * width) {
                        let end = (moving.end * width).min(panel.len());
                        panel[(moving.start * width).min(end)..end].fill(0.0);
                    }
                }
                for (at, tangent, count) in runs(kv_rows, keys.range.clone()) {
                    let row = kv_rows.tangent_row(k, example, tangent);
                    self.pack_keys(s.keys, keys.panel, 1, at - start, row, count);
                    self.pack_values(simd, s.moving, len, at - start, row, count);
                }
                self.tangent(simd, &mut s, &keys, k);
            }
        }
    }
}
