//! Images to tokens: patches are flattened channel by channel (im2col of a stride-p convolution), projected by a linear
//! layer, and placed with the class and extra tokens and the position embedding.

use super::Real;
use crate::backend::{PatchGrid, Rows};

/// `images` `[B, c, H, W]` → `out` `[B·patches, c·ph·pw]`, patches in row-major order.
pub fn patches<T: Real>(grid: PatchGrid, examples: usize, images: &[T], out: &mut [T]) {
    let PatchGrid { channels, image: [height, width], patch: [ph, pw] } = grid;
    let [gh, gw] = [height / ph, width / pw];
    let mut to = out.chunks_exact_mut(pw);
    for b in 0..examples {
        for gy in 0..gh {
            for gx in 0..gw {
                for c in 0..channels {
                    for y in 0..ph {
                        let from = ((b * channels + c) * height + gy * ph + y) * width + gx * pw;
                        let Some(to) = to.next() else { return };
                        to.copy_from_slice(&images[from..][..pw]);
                    }
                }
            }
        }
    }
}

/// `x[0, b, t] = constant[t]` (+ projected patch); see [`crate::backend::Backend::embed`].
pub fn embed<T: Real>(rows: &Rows, patches: usize, width: usize, projected: &[T], constant: &[T], x: &mut [T]) {
    let leading = rows.primal().len() - patches;
    for b in 0..rows.examples {
        for (i, &t) in rows.primal().iter().enumerate() {
            let to = &mut x[rows.stream_row(0, b, t) * width..][..width];
            to.copy_from_slice(&constant[i * width..][..width]);
            if i >= leading {
                let from = &projected[(b * patches + i - leading) * width..][..width];
                to.iter_mut().zip(from).for_each(|(to, &p)| *to += p);
            }
        }
    }
}
