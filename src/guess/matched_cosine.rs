//! `matched-cosine`: the exact gradient, turned away from itself in a random direction by the angle that the guess `weight-transpose`
//! has to it. Its error has no preferred direction, so that what it learns more than the guess is what the guess's bias costs
//! (arXiv 2312.04709). An oracle: it needs the exact gradient.

use super::orthonormal::{dot, norm};

/// Replaces the exact gradient `gradient` `[N]` of an example by one of the length of, and with the cosine to it that 1/K·ΣL̇y has, for
/// directions `y` `[K, N]`. `noise` `[N]`, N(0, I), decides where it turns; it is overwritten.
pub fn turn(gradient: &mut [f32], y: &[f32], noise: &mut [f32]) {
    let length = norm(gradient);
    let (count, parameters) = (y.len() / gradient.len(), gradient.len());
    let mut guess = vec![0f64; parameters];
    for y in y.chunks_exact(parameters) {
        let derivative = dot(gradient, y) / count as f64;
        guess.iter_mut().zip(y).for_each(|(sum, &v)| *sum += derivative * f64::from(v));
    }
    let guessed = guess.iter().map(|v| v * v).sum::<f64>().sqrt();
    if length == 0.0 || guessed == 0.0 {
        return gradient.fill(0.0);
    }
    let along: f64 = guess.iter().zip(&*gradient).map(|(a, &g)| a * f64::from(g)).sum::<f64>() / length;
    let cosine = (along / guessed).clamp(-1.0, 1.0);
    let share = dot(noise, gradient) / (length * length);
    noise.iter_mut().zip(&*gradient).for_each(|(n, &g)| *n = (f64::from(*n) - share * f64::from(g)) as f32);
    let across = (guessed * (1.0 - cosine * cosine).max(0.0).sqrt()) / norm(noise).max(f64::MIN_POSITIVE);
    let along = guessed * cosine / length;
    for (g, &n) in gradient.iter_mut().zip(&*noise) {
        *g = (along * f64::from(*g) + across * f64::from(n)) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    #[test]
    fn length_and_cosine_are_the_guesss_and_the_error_has_no_bias() {
        let (n, k) = (16, 4);
        let stream = |step| Stream { seed: 9, step, example: 0, tangent: 0, set: 0 };
        let (mut y, mut exact) = (vec![0f32; k * n], vec![0f32; n]);
        stream(0).normals(&mut y);
        stream(1).normals(&mut exact);
        // A biased guess: all but the first coordinates are hardly ever tried.
        y.chunks_exact_mut(n).for_each(|y| y[4..].iter_mut().for_each(|v| *v *= 0.1));
        let mut guess = vec![0f32; n];
        for y in y.chunks_exact(n) {
            let l = dot(&exact, y) / k as f64;
            guess.iter_mut().zip(y).for_each(|(g, &v)| *g += (l * f64::from(v)) as f32);
        }
        let cosine = |a: &[f32]| dot(a, &exact) / norm(a) / norm(&exact);
        let (mut mean, trials) = (vec![0f64; n], 4000);
        for trial in 0..trials {
            let (mut turned, mut noise) = (exact.clone(), vec![0f32; n]);
            stream(2 + trial).normals(&mut noise);
            turn(&mut turned, &y, &mut noise);
            assert!((norm(&turned) / norm(&guess) - 1.0).abs() < 1e-5);
            assert!((cosine(&turned) - cosine(&guess)).abs() < 1e-5);
            mean.iter_mut().zip(turned).for_each(|(m, t)| *m += f64::from(t) / trials as f64);
        }
        let mean: Vec<f32> = mean.into_iter().map(|v| v as f32).collect();
        assert!(cosine(&mean) > 0.995 && cosine(&guess) < 0.9, "{} {}", cosine(&mean), cosine(&guess));
    }
}
