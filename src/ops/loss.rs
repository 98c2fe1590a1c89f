//! Cross entropy. L = lse(z) − z_y; L̇ = Σ(softmax z − onehot)·ż; ∂L/∂z = softmax z − onehot.
//!
//! 3C FLOPs and C exponentials per example, 2C FLOPs per tangent.

use super::Real;

/// Loss of one example; `dz` `[C]` receives softmax z − onehot.
pub fn cross_entropy<T: Real>(z: &[T], label: usize, dz: &mut [T]) -> T {
    let max = z.iter().copied().fold(T::neg_infinity(), T::max);
    let mut sum = T::zero();
    for (dz, &z) in dz.iter_mut().zip(z) {
        *dz = (z - max).exp();
        sum += *dz;
    }
    dz.iter_mut().for_each(|v| *v /= sum);
    dz[label] -= T::one();
    sum.ln() + max - z[label]
}
