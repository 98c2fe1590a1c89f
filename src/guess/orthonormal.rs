//! What may be done to an example's directions once they are drawn.

/// Makes the directions `y` `[K, N]` of an example orthogonal, each of length √N, by Gram–Schmidt twice over (enough to the last bit:
/// Giraud et al. 2005). Then ĝ = 1/K·ΣL̇y is N/K times the gradient's projection on their span, and with K = N the gradient itself.
/// A direction that depends on those before it becomes zero. `dots`: overwritten.
pub fn orthonormalise(y: &mut [f32], parameters: usize, dots: &mut Vec<f64>) {
    let length = (parameters as f64).sqrt();
    for k in 0..y.len() / parameters {
        let (done, rest) = y.split_at_mut(k * parameters);
        let own = &mut rest[..parameters];
        let before = norm(own);
        for _ in 0..2 {
            dots.clear();
            dots.extend(done.chunks_exact(parameters).map(|other| dot(other, own) / parameters as f64));
            for (other, &share) in done.chunks_exact(parameters).zip(&*dots) {
                own.iter_mut().zip(other).for_each(|(v, &o)| *v = (f64::from(*v) - share * f64::from(o)) as f32);
            }
        }
        let left = norm(own);
        let scale = if left > 1e-5 * before { length / left } else { 0.0 };
        own.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
    }
}

/// Scales every prompt token of `y` `[.., d]` to a root mean square of 1; zero stays zero.
pub fn unit_rms(y: &mut [f32], width: usize) {
    for token in y.chunks_exact_mut(width) {
        let norm = norm(token);
        let scale = if norm > 0.0 { (width as f64).sqrt() / norm } else { 0.0 };
        token.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
    }
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

pub(super) fn norm(v: &[f32]) -> f64 {
    dot(v, v).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn normals(len: usize) -> Vec<f32> {
        let mut out = vec![0f32; len];
        Stream { seed: 5, step: 1, example: 2, tangent: 3, set: 0 }.normals(&mut out);
        out
    }

    #[test]
    fn as_many_directions_as_parameters_give_the_gradient_itself() {
        let (n, mut dots) = (24, Vec::new());
        let (mut y, gradient) = (normals(n * n), &normals(n * n + n)[n * n..]);
        orthonormalise(&mut y, n, &mut dots);
        let mut estimate = vec![0f64; n];
        for y in y.chunks_exact(n) {
            let derivative = dot(gradient, y) / n as f64;
            estimate.iter_mut().zip(y).for_each(|(e, &v)| *e += derivative * f64::from(v));
        }
        for (e, &g) in estimate.iter().zip(gradient) {
            assert!((e - f64::from(g)).abs() < 1e-5, "{e} {g}");
        }
    }

    #[test]
    fn a_gradient_within_the_span_is_found_and_one_outside_is_not_seen() {
        let (n, k, mut dots) = (40, 3, Vec::new());
        let drawn = normals(k * n);
        let mut y = drawn.clone();
        orthonormalise(&mut y, n, &mut dots);
        for (a, first) in y.chunks_exact(n).enumerate() {
            for (b, second) in y.chunks_exact(n).enumerate() {
                let expected = if a == b { n as f64 } else { 0.0 };
                assert!((dot(first, second) - expected).abs() < 1e-4 * n as f64);
            }
        }
        // What was drawn is a combination of what it became.
        for drawn in drawn.chunks_exact(n) {
            let projected: f64 = y.chunks_exact(n).map(|y| dot(drawn, y).powi(2) / n as f64).sum();
            assert!((projected.sqrt() / norm(drawn) - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn dependent_directions_become_zero() {
        let mut y = vec![1.0, 2.0, 0.0, 2.0, 4.0, 0.0, 0.0, 0.0, 3.0];
        orthonormalise(&mut y, 3, &mut Vec::new());
        assert_eq!(y[3..6], [0.0; 3]);
        assert!((y[8] - 3f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn tokens_have_unit_rms() {
        let mut y = [3.0, 4.0, 0.0, 0.0];
        unit_rms(&mut y, 2);
        assert!((y[0].powi(2) + y[1].powi(2) - 2.0).abs() < 1e-6 && y[2..] == [0.0, 0.0]);
    }
}
