//! How the rows of an operation are shared out to tasks.

use super::pool::Pool;
use crate::backend::Rows;
use std::iter::StepBy;
use std::ops::Range;

/// Rows below which a task is not worth starting.
const MIN_ROWS: usize = 8;

/// Runs `f` over `0..count` in contiguous ranges, in parallel.
pub(super) fn for_ranges(pool: &Pool, count: usize, f: impl Fn(Range<usize>) + Sync) {
    let block = count.div_ceil(4 * pool.threads()).max(MIN_ROWS);
    pool.for_each(count.div_ceil(block), |task, _| f(task * block..((task + 1) * block).min(count)));
}

/// (compact row, stream row) of primal row `r` (counted over examples and tokens), then of its tangents.
pub(super) fn planes(rows: &Rows, r: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
    let (b, i) = (r / rows.primal().len(), r % rows.primal().len());
    let t = rows.primal()[i];
    let tangents = rows.pair(i).map_or(0..0, |_| 0..rows.tangents);
    let pair = rows.pair(i).unwrap_or(0);
    let tangents = tangents.map(move |k| (rows.tangent_row(k, b, pair), rows.stream_row(1 + k, b, t)));
    std::iter::once((r, rows.stream_row(0, b, t))).chain(tangents)
}

/// Compact rows of the tangents of primal row `r`.
pub(super) fn tangents(rows: &Rows, r: usize) -> StepBy<Range<usize>> {
    let step = (rows.examples * rows.tangent().len()).max(1);
    match rows.pair(r % rows.primal().len()) {
        None => (0..0).step_by(step),
        Some(pair) => {
            let first = rows.tangent_row(0, r / rows.primal().len(), pair);
            (first..first + rows.tangents * step).step_by(step)
        }
    }
}
