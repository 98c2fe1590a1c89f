//! A tile of keys and values on its way into panels.

use super::Inputs;
use super::Task;
use super::rows::{scaled, vectors, vectors_mut};
use crate::backend::Rows;
use crate::cpu::gemm::transpose;
use crate::cpu::lanes::prefetch;
use pulp::Simd;
use std::ops::Range;

/// The run from `at` on of rows whose tangents are consecutive: (first row, first tangent, length).
fn next_run(rows: &Rows, mut at: usize, end: usize) -> Option<(usize, usize, usize)> {
    while at < end {
        if let Some(tangent) = rows.pair(at) {
            let len = (1..end - at).take_while(|&n| rows.pair(at + n) == Some(tangent + n)).count() + 1;
            return Some((at, tangent, len));
        }
        at += 1;
    }
    None
}

/// As [`next_run`], all of them.
pub(super) fn runs(rows: &Rows, range: Range<usize>) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let run = next_run(rows, at, range.end)?;
        at = run.0 + run.2;
        Some(run)
    })
}

/// The least range that holds every row with tangents, relative to `range`.
pub(super) fn hull(rows: &Rows, range: Range<usize>) -> Range<usize> {
    let start = range.clone().find(|&i| rows.pair(i).is_some()).unwrap_or(range.start);
    let end = range.clone().rfind(|&i| rows.pair(i).is_some()).map_or(start, |i| i + 1);
    start - range.start..end - range.start
}

/// A tile of keys, packed.
pub(super) struct Keys {
    pub range: Range<usize>,
    /// Elements from one panel of keys to the next.
    pub panel: usize,
    /// Keys among which all tangents are.
    pub moving: Range<usize>,
    /// Tangents the task carries.
    pub tangents: usize,
}

impl Task<'_> {
    /// Transposes `count` keys into the panels from column `column` on; `plane` 1 for a tangent.
    pub(super) fn pack_keys(
        &self,
        to: &mut [f32],
        panel: usize,
        plane: usize,
        column: usize,
        row: usize,
        count: usize,
    ) {
        let (width, dim) = (self.kernels.panel(), self.inputs.heads.dim);
        let mut done = 0;
        while done < count {
            let (index, at) = ((column + done) / width, (column + done) % width);
            let part = (width - at).min(count - done);
            let from = self.inputs.key_rows(row + done, part, self.head);
            let to = &mut to[index * panel + plane * dim * width..][..dim * width];
            // SAFETY: `part` rows, and columns `at..at + part` of lines of `width`.
            unsafe {
                let to = to.as_mut_ptr().add(at);
                transpose(self.isa, from.as_ptr(), self.inputs.kv_stride, [part, dim], to, width);
            }
            done += part;
        }
    }

    /// Copies `count` values into panels of `lines` lines from line `line` on.
    #[inline(always)]
    pub(super) fn pack_values<S: Simd>(
        &self,
        simd: S,
        to: &mut [f32],
        lines: usize,
        line: usize,
        row: usize,
        count: usize,
    ) {
        let (width, dim) = (self.kernels.panel(), self.inputs.heads.dim);
        let from = self.inputs.value_rows(row, count, self.head);
        for (index, at) in (0..dim).step_by(width).enumerate() {
            let part = width.min(dim - at);
            let to = &mut to[(index * lines + line) * width..][..count * width];
            for (i, to) in to.chunks_exact_mut(width).enumerate() {
                let from = &from[i * self.inputs.kv_stride + at..][..part];
                if part == width {
                    for (to, from) in vectors_mut::<S>(to).iter_mut().zip(vectors::<S>(from)) {
                        *to = *from;
                    }
                } else {
                    scaled(simd, 1.0, from, to);
                }
            }
        }
    }

    /// Prefetches rows that follow the work of `plane` on tile `tile` of the block's queries, of which this is part `part`
    /// of `parts`. They are too far apart for the hardware to foresee, and too many to wait for at once.
    #[inline(always)]
    pub(super) fn prefetch(&self, keys: &Keys, plane: usize, tile: Range<usize>, part: usize, parts: usize) {
        let Task { inputs: Inputs { heads, q_rows, kv_rows, .. }, example, head, .. } = *self;
        let share = |n: usize| n * part / parts..n * (part + 1) / parts;
        for i in share(tile.len()) {
            // Queries of the next tile, which may be the first of the next tangent.
            let (i, plane) = match tile.end + i {
                i if i < self.queries.end => (i, plane),
                i => (i - self.queries.len(), plane + 1),
            };
            if plane == 0 {
                prefetch(self.inputs.query(q_rows.primal_row(example, i), head));
            } else if plane <= q_rows.tangents
                && let Some(pair) = q_rows.pair(i)
            {
                prefetch(self.inputs.query(q_rows.tangent_row(plane - 1, example, pair), head));
            }
        }
        // Keys and values: of the next tangent, the next tile, or the next head, whose task probably follows here.
        let total = kv_rows.primal().len();
        let moving = keys.range.start + keys.moving.start..keys.range.start + keys.moving.end;
        let (row, count, head) = if plane < keys.tangents {
            let [first, last] = match moving.is_empty() {
                true => return,
                false => [moving.start, moving.end - 1].map(|i| kv_rows.pair(i).unwrap_or(0)),
            };
            (kv_rows.tangent_row(plane, example, first), last + 1 - first, head)
        } else if keys.range.end < total {
            (kv_rows.primal_row(example, keys.range.end), (total - keys.range.end).min(keys.range.len()), head)
        } else if head + 1 < heads.count {
            (kv_rows.primal_row(example, 0), keys.range.len(), head + 1)
        } else {
            return;
        };
        let at = (tile.start - self.queries.start) * parts + tile.len() * part;
        let all = self.queries.len() * parts;
        for i in count * at / all..count * (at + tile.len()) / all {
            prefetch(self.inputs.key_rows(row + i, 1, head));
            prefetch(self.inputs.value_rows(row + i, 1, head));
        }
    }
}
