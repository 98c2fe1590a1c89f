//! VJP of attention. A task owns one head of one example and goes through tiles of queries in order, holding the
//! probabilities of one tile; queries run along the vector.

use super::attention::Inputs;
use super::gemm::{Across, Along, Kernels};
use super::math::exp_nonpositive;
use super::memory::Shared;
use pulp::{Simd, WithSimd};

/// Queries of a tile: whole vectors of every instruction set.
const QUERIES: usize = 64;

/// One head of one example; rows are `inputs.q_rows`.
pub(super) struct Head<'a> {
    pub inputs: Inputs<'a>,
    pub kernels: &'a Kernels,
    pub example: usize,
    pub head: usize,
    pub dy: &'a [f32],
    pub scratch: &'a mut [f32],
    /// [rows, d].
    pub dq: Shared<'a>,
    /// [rows, 2d].
    pub dkv: Shared<'a>,
}

/// Scratch values a task needs.
pub(super) fn scratch_len(kernels: &Kernels, dim: usize, tokens: usize) -> usize {
    QUERIES * (2 * tokens + 3 * dim + 2 * kernels.padded(dim) + 1)
}

impl WithSimd for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Head { inputs, kernels, example: b, head, dy, scratch, dq, dkv } = self;
        let rows = inputs.q_rows;
        let (tokens, dim, d) = (rows.primal().len(), inputs.heads.dim, inputs.width());
        let padded_dim = kernels.padded(dim);
        let (p, rest) = scratch.split_at_mut(tokens * QUERIES);
        let (ds, rest) = rest.split_at_mut(tokens * QUERIES);
        let (q, rest) = rest.split_at_mut(dim * QUERIES);
        let (g, rest) = rest.split_at_mut(dim * QUERIES);
        let (dq_tile, rest) = rest.split_at_mut(dim * QUERIES);
        let (q_rows, rest) = rest.split_at_mut(padded_dim * QUERIES);
        let (g_rows, rest) = rest.split_at_mut(padded_dim * QUERIES);
        let scale_row = &mut rest[..QUERIES];
        let scale = inputs.scale();
        let first = rows.primal_row(b, 0);
        let key = inputs.keys(first, head);
        let value = inputs.values(first, head);
        // As keys: (element of the head, key); and keys as values: (key, element).
        let value = Across { depth: value.across, across: value.depth, ..value };
        let key_by_depth = Across { depth: key.across, across: key.depth, ..key };

        for start in (0..tokens).step_by(QUERIES) {
            let count = QUERIES.min(tokens - start);
            let padded = kernels.padded(count);
            let query = |i: usize| inputs.query(first + start + i, head);
            let gradient = |i: usize| &dy[(first + start + i) * d + head * dim..][..dim];
            transpose_in(q, padded, scale, (0..count).map(query));
            transpose_in(g, padded, 1.0, (0..count).map(gradient));
            for (i, (q, g)) in q_rows.chunks_exact_mut(padded_dim).zip(g_rows.chunks_exact_mut(padded_dim)).enumerate()
            {
                if i < count {
                    q[..dim].iter_mut().zip(query(i)).for_each(|(to, v)| *to = scale * v);
                    g[..dim].copy_from_slice(gradient(i));
                }
            }
            // SAFETY: scratch rows of QUERIES or `padded_dim`; `tokens` rows of keys and values.
            unsafe {
                kernels.multiply([padded, tokens, dim], along(kernels, q), key, false, p.as_mut_ptr(), QUERIES);
                kernels.multiply([padded, tokens, dim], along(kernels, g), value, false, ds.as_mut_ptr(), QUERIES);
            }
            probabilities(simd, padded, p, scale_row);
            score_gradients(simd, padded, p, ds);
            let tile = |rows: &[f32]| Across { data: rows.as_ptr(), depth: 1, across: QUERIES };
            let by_rows = |rows: &[f32]| Along { data: rows.as_ptr(), depth: padded_dim, panel: kernels.panel() };
            let add = start > 0;
            // dqᵀ = Kᵀ·dsᵀ; dk = ds·q, dv = p·g, summed over the tiles. SAFETY: every (row, head) belongs to one task.
            unsafe {
                kernels.multiply(
                    [padded, dim, tokens],
                    along(kernels, ds),
                    key_by_depth,
                    false,
                    dq_tile.as_mut_ptr(),
                    QUERIES,
                );
                let dk = dkv.at(first * 2 * d + head * dim);
                kernels.multiply([dim, tokens, count], by_rows(q_rows), tile(ds), add, dk, 2 * d);
                let dv = dkv.at(first * 2 * d + d + head * dim);
                kernels.multiply([dim, tokens, count], by_rows(g_rows), tile(p), add, dv, 2 * d);
            }
            for i in 0..count {
                // SAFETY: as above.
                let to = unsafe { dq.slice_mut((first + start + i) * d + head * dim, dim) };
                to.iter_mut().zip(dq_tile[i..].iter().step_by(QUERIES)).for_each(|(to, v)| *to = scale * v);
            }
        }
    }
}

/// A block of rows of scratch as the vector operand of a product.
fn along(kernels: &Kernels, rows: &[f32]) -> Along {
    Along { data: rows.as_ptr(), depth: QUERIES, panel: kernels.panel() }
}

/// Transposes rows into columns of `to`, times `scale`; columns without a row, up to `padded`, are zero.
fn transpose_in<'r>(to: &mut [f32], padded: usize, scale: f32, rows: impl Iterator<Item = &'r [f32]>) {
    let mut filled = 0;
    for (i, row) in rows.enumerate() {
        to[i..].iter_mut().step_by(QUERIES).zip(row).for_each(|(to, v)| *to = scale * v);
        filled = i + 1;
    }
    to.chunks_exact_mut(QUERIES).for_each(|line| line[filled..padded].fill(0.0));
}

/// Starts of the vectors that cover `padded` columns.
#[inline(always)]
fn columns<S: Simd>(padded: usize) -> impl Iterator<Item = usize> {
    (0..padded).step_by(S::F32_LANES)
}

#[inline(always)]
fn get<S: Simd>(x: &[f32], at: usize) -> S::f32s {
    S::as_simd_f32s(&x[at..at + S::F32_LANES]).0[0]
}

#[inline(always)]
fn put<S: Simd>(x: &mut [f32], at: usize, value: S::f32s) {
    S::as_mut_simd_f32s(&mut x[at..at + S::F32_LANES]).0[0] = value;
}

#[inline(always)]
fn shrink<S: Simd>(simd: S, padded: usize, factor: &[f32], rows: &mut [f32]) {
    for at in columns::<S>(padded) {
        let factor = get::<S>(factor, at);
        for row in rows.chunks_exact_mut(QUERIES) {
            put::<S>(row, at, simd.mul_f32s(get::<S>(row, at), factor));
        }
    }
}

/// Scores to probabilities, per column.
#[inline(always)]
fn probabilities<S: Simd>(simd: S, padded: usize, p: &mut [f32], scale: &mut [f32]) {
    for at in columns::<S>(padded) {
        let mut max = simd.splat_f32s(f32::NEG_INFINITY);
        for row in p.chunks_exact(QUERIES) {
            max = simd.max_f32s(max, get::<S>(row, at));
        }
        let mut sum = simd.splat_f32s(0.0);
        for row in p.chunks_exact_mut(QUERIES) {
            let e = exp_nonpositive(simd, simd.sub_f32s(get::<S>(row, at), max));
            sum = simd.add_f32s(sum, e);
            put::<S>(row, at, e);
        }
        put::<S>(scale, at, simd.div_f32s(simd.splat_f32s(1.0), sum));
    }
    shrink(simd, padded, scale, p);
}

/// dp to ds = p ⊙ (dp − Σ p·dp), per column.
#[inline(always)]
fn score_gradients<S: Simd>(simd: S, padded: usize, p: &[f32], ds: &mut [f32]) {
    for at in columns::<S>(padded) {
        let mut mean = simd.splat_f32s(0.0);
        for (p, dp) in p.chunks_exact(QUERIES).zip(ds.chunks_exact(QUERIES)) {
            mean = simd.mul_add_e_f32s(get::<S>(p, at), get::<S>(dp, at), mean);
        }
        for (p, dp) in p.chunks_exact(QUERIES).zip(ds.chunks_exact_mut(QUERIES)) {
            let centred = simd.sub_f32s(get::<S>(dp, at), mean);
            put::<S>(dp, at, simd.mul_f32s(get::<S>(p, at), centred));
        }
    }
}
