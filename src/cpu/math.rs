//! Vectorised elementary functions, written once for every instruction set.
//!
//! Errors are bounded by the tests below against f64.

use pulp::Simd;

/// Horner's rule, highest coefficient first: `horner!(simd, x; a, b, c)` = (a·x + b)·x + c.
macro_rules! horner {
    ($simd: expr, $x: expr; $first: expr $(, $next: expr)*) => {{
        let p = $simd.splat_f32s($first);
        $(let p = $simd.mul_add_e_f32s(p, $x, $simd.splat_f32s($next));)*
        p
    }};
}

/// e^x for x ≤ 0, within 2 ulp; 0 below −87.3 (results that would be subnormal are flushed), NaN stays NaN.
#[inline(always)]
pub fn exp_nonpositive<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Adding 1.5·2²³ rounds to an integer and leaves it in the low bits of the mantissa.
    let round = simd.splat_f32s(12_582_912.0);
    let shifted = simd.mul_add_e_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E), round);
    let n = simd.sub_f32s(shifted, round);
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-0.693_359_4), x);
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(2.121_944_4e-4), r);
    let p = horner!(simd, r; 1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5);
    let y = simd.add_f32s(simd.mul_add_e_f32s(simd.mul_f32s(r, r), p, r), simd.splat_f32s(1.0));
    let bits = simd.transmute_u32s_f32s(shifted);
    let exponent = simd.wrapping_dyn_shl_u32s(simd.add_u32s(bits, simd.splat_u32s(127)), simd.splat_u32s(23));
    let y = simd.mul_f32s(y, simd.transmute_f32s_u32s(exponent));
    simd.select_f32s(simd.less_than_f32s(x, simd.splat_f32s(-87.3)), simd.splat_f32s(0.0), y)
}

/// (σ(x), σ(−x)), each within 4 ulp, for any x.
#[inline(always)]
pub fn sigmoid_pair<S: Simd>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
    let e = exp_nonpositive(simd, neg_abs(simd, x));
    let large = simd.div_f32s(simd.splat_f32s(1.0), simd.add_f32s(simd.splat_f32s(1.0), e));
    let small = simd.mul_f32s(e, large);
    let negative = simd.less_than_f32s(x, simd.splat_f32s(0.0));
    (simd.select_f32s(negative, small, large), simd.select_f32s(negative, large, small))
}

/// Standard normal distribution and density (Φ(x), φ(x)) from one exponential, for any x.
///
/// Φ(−t) = e^{−t²/2}·R(t), R a rational function fitted to Mills' ratio on [0, 13.5] (relative error 5e-9).
#[inline(always)]
pub fn normal_cdf_pdf<S: Simd>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
    let zero = simd.splat_f32s(0.0);
    let one = simd.splat_f32s(1.0);
    let e = exp_nonpositive(simd, simd.mul_f32s(simd.mul_f32s(x, simd.splat_f32s(-0.5)), x));
    let t = simd.abs_f32s(x);
    let p = horner!(simd, t; 4.036_884_8e-3, 4.009_735_6e-2, 1.816_438_3e-1, 4.361_436_7e-1, 0.5);
    let q = horner!(simd, t; 1.011_883_1e-2, 1.005_163_8e-1, 4.652_699e-1, 1.195_888, 1.670_172_2, 1.0);
    let tail = simd.mul_f32s(e, simd.div_f32s(p, q));
    let tail = simd.select_f32s(simd.greater_than_f32s(t, simd.splat_f32s(13.2)), zero, tail);
    let cdf = simd.select_f32s(simd.less_than_f32s(x, zero), tail, simd.sub_f32s(one, tail));
    (cdf, simd.mul_f32s(e, simd.splat_f32s(0.398_942_3)))
}

/// −|x|.
#[inline(always)]
fn neg_abs<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    simd.or_f32s(x, simd.splat_f32s(-0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;
    use pulp::WithSimd;

    /// Applies `f` to every element of a slice, under one instruction set.
    macro_rules! map {
        ($isa: expr, $x: expr, $f: ident, $pick: expr) => {{
            struct Map<'a>(&'a [f32]);
            impl WithSimd for Map<'_> {
                type Output = Vec<f32>;
                #[inline(always)]
                fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
                    let mut out = self.0.to_vec();
                    for chunk in out.chunks_mut(S::F32_LANES) {
                        let y = $pick($f(simd, simd.partial_load_f32s(chunk)));
                        simd.partial_store_f32s(chunk, y);
                    }
                    out
                }
            }
            $isa.dispatch(Map(&$x))
        }};
    }

    /// Many magnitudes of both signs, subnormals included, and a dense grid where the functions bend.
    fn inputs() -> Vec<f32> {
        let mut x = vec![0.0, -0.0, f32::MIN_POSITIVE, 1e-45, 3e-42, f32::MAX, 1e30, 1e10, 700.0];
        x.extend((0..400_000).map(|i| i as f32 * 1e-4));
        x.extend((0..2000).map(|i| (i as f32 * 0.05 - 95.0).exp2()));
        let negated: Vec<f32> = x.iter().map(|v| -v).collect();
        x.extend(negated);
        x
    }

    fn erfc(x: f64) -> f64 {
        // Continued fraction for the tail, Taylor series near zero: both to 1e-15.
        if x < 0.0 {
            return 2.0 - erfc(-x);
        }
        if x < 2.5 {
            let (mut term, mut sum) = (x, x);
            for n in 1..100 {
                term *= -x * x / n as f64;
                sum += term / (2 * n + 1) as f64;
            }
            return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
        }
        let mut f = 0.0;
        for n in (1..200).rev() {
            f = n as f64 / 2.0 / (x + f);
        }
        (-x * x).exp() / (x + f) / std::f64::consts::PI.sqrt()
    }

    fn worst(x: &[f32], y: &[f32], mut error: impl FnMut(f64, f64) -> f64) -> f64 {
        x.iter().zip(y).map(|(&x, &y)| error(x as f64, y as f64)).fold(0.0, |a, e| if e <= a { a } else { e })
    }

    const ULP: f64 = f32::EPSILON as f64;

    #[test]
    fn exponential() {
        let x: Vec<f32> = inputs().into_iter().filter(|&v| v <= 0.0).collect();
        for isa in Isa::available() {
            let y = map!(isa, x, exp_nonpositive, |y| y);
            let e = worst(&x, &y, |x, y| if x < -87.3 { y } else { (y / x.exp() - 1.0).abs() });
            assert!(e < 1.0 * ULP, "{isa:?}: {e:e}");
            assert!(map!(isa, [f32::NAN], exp_nonpositive, |y| y)[0].is_nan());
            assert_eq!(map!(isa, [f32::NEG_INFINITY], exp_nonpositive, |y| y)[0], 0.0);
        }
    }

    #[test]
    fn sigmoid() {
        let x = inputs();
        for isa in Isa::available() {
            let error = |x: f64, y: f64| if x < -87.3 { y } else { (y * (1.0 + (-x).exp()) - 1.0).abs() };
            let e = worst(&x, &map!(isa, x, sigmoid_pair, |(y, _)| y), error);
            assert!(e < 2.0 * ULP, "{isa:?}: {e:e}");
            let e = worst(&x, &map!(isa, x, sigmoid_pair, |(_, y)| y), |x, y| error(-x, y));
            assert!(e < 2.0 * ULP, "{isa:?}: {e:e}");
        }
    }

    #[test]
    fn normal_distribution() {
        let x = inputs();
        for isa in Isa::available() {
            let cdf = map!(isa, x, normal_cdf_pdf, |(y, _)| y);
            let reference = |x: f64| 0.5 * erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            let e = worst(&x, &cdf, |x, y| (y - reference(x)).abs());
            assert!(e < 1.0 * ULP, "absolute, {isa:?}: {e:e}");
            // The tail keeps relative accuracy: an error of half an ulp in x²/2 is x²/2 of them in e^{−x²/2}.
            let e = worst(&x, &cdf, |x, y| {
                if !(-13.0..0.0).contains(&x) { 0.0 } else { (y / reference(x) - 1.0).abs() / (4.0 + x * x) }
            });
            assert!(e < 1.0 * ULP, "relative, {isa:?}: {e:e}");
            let pdf = map!(isa, x, normal_cdf_pdf, |(_, y)| y);
            let e = worst(&x, &pdf, |x, y| (y - (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()).abs());
            assert!(e < 0.5 * ULP, "density, {isa:?}: {e:e}");
            assert!(map!(isa, [f32::NAN], normal_cdf_pdf, |(y, _)| y)[0].is_nan());
        }
    }
}
