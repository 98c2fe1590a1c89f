//! Images to tokens, one example at a time.

use super::memory::Shared;
use super::pool::Pool;
use crate::backend::{PatchGrid, Rows};
use crate::ops::embed;

/// See [`embed::patches`].
pub(super) fn patches(pool: &Pool, grid: PatchGrid, examples: usize, images: &[f32], out: Shared) {
    let (image, patches) = (grid.channels * grid.image[0] * grid.image[1], grid.len() * grid.patch_len());
    pool.for_each(examples, |b, _| {
        // SAFETY: every example has its own patches.
        let out = unsafe { out.slice_mut(b * patches, patches) };
        embed::patches(grid, 1, &images[b * image..][..image], out);
    });
}

/// See [`embed::embed`].
pub(super) fn embed(
    pool: &Pool,
    rows: &Rows,
    patches: usize,
    width: usize,
    projected: &[f32],
    constant: &[f32],
    x: Shared,
) {
    let leading = rows.primal().len() - patches;
    pool.for_each(rows.examples, |b, _| {
        for (i, &t) in rows.primal().iter().enumerate() {
            // SAFETY: every example has its own stream rows.
            let to = unsafe { x.slice_mut(rows.stream_row(0, b, t) * width, width) };
            let constant = &constant[i * width..][..width];
            if i < leading {
                to.copy_from_slice(constant);
            } else {
                let patch = &projected[(b * patches + i - leading) * width..][..width];
                to.iter_mut().zip(constant).zip(patch).for_each(|((to, c), p)| *to = c + p);
            }
        }
    });
}
