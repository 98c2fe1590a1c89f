//! Counter-based randomness: every number is a function of where it is used, so it is regenerated instead of stored.
//!
//! The generator is Philox-4x32-10 (Salmon et al. 2011). The layout is fixed; a seed means the same numbers in every
//! version, on every device:
//!
//! | word | content |
//! |---|---|
//! | key 0 | seed, low 32 bits |
//! | key 1 | seed, high 32 bits, xor [purpose](Purpose) constant, xor step's high 32 bits |
//! | counter 0 | element block: elements 4i..4i+4 come from block i |
//! | counter 1 | position of the example in the batch |
//! | counter 2 | tangent in bits 0..16, prompt set in bits 16..32 |
//! | counter 3 | step, low 32 bits |
//!
//! Normals are Box–Muller in f64 over (x + ½)·2⁻³², rounded to f32. Logarithm, sine and cosine are series over
//! `+ − × ÷ √` here, not the platform's, so on any IEEE 754 device that does not contract multiply-adds the bits agree too.

use std::ops::Range;

/// One block of Philox-4x32-10: four words from a counter and a key.
#[inline]
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let a = u64::from(c0) * 0xD251_1F53;
        let b = u64::from(c2) * 0xCD9E_8D57;
        (c0, c1, c2, c3) = ((b >> 32) as u32 ^ c1 ^ k0, b as u32, (a >> 32) as u32 ^ c3 ^ k1, a as u32);
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// What numbers are for. Each purpose has its own key, so that equal counters never give equal numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Noise of the gradient guesses. Its constant is 0: the layout is the bare table above.
    Guess = 0,
    /// Initial prompts.
    Init = 0x494E_4954,
    /// Order of the training examples, and the validation split.
    Shuffle = 0x5348_5546,
    /// Crops and flips.
    Augment = 0x4155_474D,
    /// Synthetic inputs: the self-test's random models, the demo's images.
    Synthetic = 0x5359_4E54,
    /// Noise and fog of corrupted images.
    Corrupt = 0x434F_5252,
}

impl Purpose {
    /// The seed to put into a [`Stream`] whose numbers serve this purpose: xor of the constant into the high word.
    pub const fn seed(self, seed: u64) -> u64 {
        seed ^ ((self as u64) << 32)
    }
}

/// A sequence of random numbers, addressed by where it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Seed, already turned into a purpose's own by [`Purpose::seed`] (for guesses the plain seed).
    pub seed: u64,
    /// Optimizer step, epoch, or whatever counts the uses.
    pub step: u64,
    /// Position in the batch, or index in the data set.
    pub example: u32,
    /// Tangent, below 65 536.
    pub tangent: u32,
    /// Prompt set, below 65 536.
    pub set: u32,
}

impl Stream {
    /// Words 4·`block`..4·`block` + 4 of the sequence.
    #[inline]
    pub fn block(&self, block: u32) -> [u32; 4] {
        debug_assert!(self.tangent < 1 << 16 && self.set < 1 << 16, "tangent and set are 16-bit fields");
        philox4x32(
            [block, self.example, self.tangent | self.set << 16, self.step as u32],
            [self.seed as u32, (self.seed >> 32) as u32 ^ (self.step >> 32) as u32],
        )
    }

    /// Fills `out` with N(0, 1). `out[i]` depends on i alone, not on `out.len()`.
    pub fn normals(&self, out: &mut [f32]) {
        self.normals_from(0, out);
    }

    /// As [`Stream::normals`], from element 4·`first` on.
    pub fn normals_from(&self, first: u32, out: &mut [f32]) {
        for (block, chunk) in out.chunks_mut(4).enumerate() {
            let [a, b, c, d] = self.block(first + block as u32);
            let (n0, n1) = box_muller(a, b);
            let (n2, n3) = box_muller(c, d);
            let normals = [n0 as f32, n1 as f32, n2 as f32, n3 as f32];
            chunk.copy_from_slice(&normals[..chunk.len()]);
        }
    }

    /// Fills `out` with U[0, 1) in multiples of 2⁻²⁴. `out[i]` depends on i alone, not on `out.len()`.
    pub fn uniforms(&self, out: &mut [f32]) {
        for (block, chunk) in out.chunks_mut(4).enumerate() {
            let words = self.block(block as u32);
            for (value, word) in chunk.iter_mut().zip(words) {
                *value = (word >> 8) as f32 * (1.0 / (1 << 24) as f32);
            }
        }
    }

    /// The sequence's words, one after another.
    pub fn words(self) -> impl Iterator<Item = u32> {
        (0..=u32::MAX).flat_map(move |block| self.block(block))
    }
}

/// Noise of a prompt set in a step: a row for every tangent and example, tangents outermost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// As [`Stream::seed`].
    pub seed: u64,
    /// Optimizer step.
    pub step: u64,
    /// Prompt set.
    pub set: usize,
    /// Tangents.
    pub tangents: Range<usize>,
    /// Positions in the batch.
    pub examples: Range<usize>,
    /// All examples have example 0's noise.
    pub shared: bool,
}

impl Draw {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.tangents.len() * self.examples.len()
    }

    /// The numbers of row `row`, below [`Draw::rows`].
    pub fn stream(&self, row: usize) -> Stream {
        let examples = self.examples.len();
        self.of(self.examples.start + row % examples, self.tangents.start + row / examples)
    }

    /// The numbers of an example and tangent.
    pub fn of(&self, example: usize, tangent: usize) -> Stream {
        let example = if self.shared { 0 } else { example as u32 };
        Stream { seed: self.seed, step: self.step, example, tangent: tangent as u32, set: self.set as u32 }
    }
}

/// A uniformly random order of 0..n, the same for the same `(seed, epoch)`: Fisher–Yates with unbiased indices (Lemire
/// 2019). `n` must fit in 32 bits.
pub fn permutation(seed: u64, epoch: u64, n: usize) -> Vec<usize> {
    debug_assert!(u32::try_from(n).is_ok(), "a data set has fewer than 2³² examples");
    let stream = Stream { seed: Purpose::Shuffle.seed(seed), step: epoch, example: 0, tangent: 0, set: 0 };
    let mut words = stream.words();
    let mut below = |bound: u32| {
        let unfair = bound.wrapping_neg() % bound;
        loop {
            // 4·2³² words: the sequence cannot run dry before an order of fewer than 2³² elements is complete.
            let scaled = u64::from(words.next().unwrap_or(u32::MAX)) * u64::from(bound);
            if scaled as u32 >= unfair {
                return (scaled >> 32) as usize;
            }
        }
    };
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, below(i as u32 + 1));
    }
    order
}

/// Two independent normals from two words.
#[inline]
fn box_muller(a: u32, b: u32) -> (f64, f64) {
    let radius = (-2.0 * ln((f64::from(a) + 0.5) * 2f64.powi(-32))).sqrt();
    let (sin, cos) = sin_cos_turn(b);
    (radius * cos, radius * sin)
}

/// ln x of a positive normal x: x = 2ᵉ·m with m in [√½, √2), ln m = 2·atanh((m − 1)/(m + 1)).
#[inline]
fn ln(x: f64) -> f64 {
    const SQRT_HALF_MANTISSA: u64 = 0x6_A09E_667F_3BCD;
    let bits = x.to_bits();
    let mantissa = bits & ((1 << 52) - 1);
    // A mantissa beyond √2 belongs to the next power of two.
    let up = i64::from(mantissa >= SQRT_HALF_MANTISSA);
    let exponent = (bits >> 52) as i64 - 1023 + up;
    let m = f64::from_bits(mantissa | ((1023 - up) as u64) << 52);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut sum = 1.0 / 23.0;
    for odd in [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * z + 1.0 / odd;
    }
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * sum
}

/// sin and cos of 2π·(x + ½)·2⁻³². The nearest quarter turn is taken off in integers, the rest is a Taylor series.
#[inline]
fn sin_cos_turn(x: u32) -> (f64, f64) {
    let quarter = (u64::from(x) + (1 << 29)) >> 30;
    let rest = (i64::from(x) - (quarter << 30) as i64) as f64 + 0.5;
    let angle = rest * (2f64.powi(-31) * std::f64::consts::PI);
    let z = angle * angle;
    let (mut sin, mut cos) = (1.0, 1.0);
    for n in [18.0, 16.0, 14.0, 12.0, 10.0, 8.0, 6.0, 4.0, 2.0] {
        sin = 1.0 - sin * z / (n * (n + 1.0));
        cos = 1.0 - cos * z / (n * (n - 1.0));
    }
    sin *= angle;
    match quarter & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: Stream = Stream { seed: 7, step: 3, example: 2, tangent: 1, set: 4 };

    /// Known answers of Random123 1.14, `kat_vectors`, philox4x32 10.
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn layout_is_the_documented_one() {
        let stream = Stream { seed: 0x1122_3344_5566_7788, step: 0x9_0000_0005, example: 6, tangent: 2, set: 3 };
        let expected = philox4x32([1, 6, 0x0003_0002, 5], [0x5566_7788, 0x1122_3344 ^ 9]);
        assert_eq!(stream.block(1), expected);
        assert_eq!(stream.words().skip(4).take(4).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn series_agree_with_the_platform() {
        let corner =
            [0, 1, 2, (1 << 29) - 1, 1 << 29, 1 << 30, (3 << 29) - 1, 3 << 29, 1 << 31, u32::MAX - 1, u32::MAX];
        for x in corner.into_iter().chain(STREAM.words().take(20_000)) {
            let u = (f64::from(x) + 0.5) * 2f64.powi(-32);
            let (ours, theirs) = (ln(u), u.ln());
            assert!((ours - theirs).abs() <= 4e-16 * theirs.abs().max(1e-300) + 1e-26, "ln {u}: {ours} {theirs}");
            let (sin, cos) = (std::f64::consts::TAU * u).sin_cos();
            let (s, c) = sin_cos_turn(x);
            assert!((s - sin).abs() < 2e-15 && (c - cos).abs() < 2e-15, "{x}: {s} {sin} {c} {cos}");
            assert!((s * s + c * c - 1.0).abs() < 1e-15);
        }
    }

    #[test]
    fn normals_have_normal_moments_and_do_not_depend_on_length() {
        let mut long = vec![0f32; 1 << 18];
        STREAM.normals(&mut long);
        let moment = |k| long.iter().map(|&v| f64::from(v).powi(k)).sum::<f64>() / long.len() as f64;
        assert!(moment(1).abs() < 0.01, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.015, "{}", moment(2));
        assert!(moment(3).abs() < 0.03, "{}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.1, "{}", moment(4));
        let mut short = [0f32; 7];
        STREAM.normals(&mut short);
        assert_eq!(short[..], long[..7]);
    }

    #[test]
    fn fields_and_purposes_are_independent_streams() {
        let draw = |stream: Stream| {
            let mut out = vec![0f32; 4096];
            stream.normals(&mut out);
            out
        };
        let base = draw(STREAM);
        for other in [
            Stream { seed: 8, ..STREAM },
            Stream { seed: Purpose::Augment.seed(7), ..STREAM },
            Stream { step: 4, ..STREAM },
            Stream { step: 3 + (1 << 32), ..STREAM },
            Stream { example: 3, ..STREAM },
            Stream { tangent: 2, ..STREAM },
            Stream { set: 5, ..STREAM },
        ] {
            let dot: f32 = draw(other).iter().zip(&base).map(|(a, b)| a * b).sum();
            assert!((dot / 4096.0).abs() < 0.08, "{other:?}: correlation {}", dot / 4096.0);
        }
    }

    #[test]
    fn uniforms_stay_in_range() {
        let mut out = vec![0f32; 1 << 16];
        STREAM.uniforms(&mut out);
        assert!(out.iter().all(|&v| (0.0..1.0).contains(&v)));
        let mean = out.iter().sum::<f32>() / out.len() as f32;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }

    #[test]
    fn permutations_are_permutations_and_change_with_the_epoch() {
        for n in [0, 1, 2, 3, 1000] {
            let mut order = permutation(5, 1, n);
            assert_eq!(order, permutation(5, 1, n));
            order.sort_unstable();
            assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
        assert_ne!(permutation(5, 1, 1000), permutation(5, 2, 1000));
        assert_ne!(permutation(5, 1, 1000), permutation(6, 1, 1000));
    }

    /// Chi-square over the 24 orders of four elements.
    #[test]
    fn permutations_are_uniform() {
        let mut counts = std::collections::HashMap::new();
        let trials = 24_000;
        for epoch in 0..trials {
            *counts.entry(permutation(1, epoch, 4)).or_insert(0u64) += 1;
        }
        assert_eq!(counts.len(), 24);
        let chi2: f64 = counts.values().map(|&c| (c as f64 - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi2 < 52.0, "chi-square of 23 degrees of freedom: {chi2}");
    }
}
