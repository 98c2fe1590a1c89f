use super::*;

/// Reproducible values in [−1, 1].
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn product(gemm: &Gemm, pool: &Pool, [m, n, k]: [usize; 3], x: &[f32], w: &[f32], layout: Weight) -> Vec<f32> {
    let mut y = vec![f32::NAN; m * n];
    let (x, out) = (Strided { data: x, stride: k }, StridedMut { data: &mut y, stride: n });
    gemm.run(pool, [m, n, k], x, w, layout, Start::Zero, out);
    y
}

#[test]
fn a_row_has_the_same_bits_whatever_it_is_computed_with() {
    const ROWS: usize = 200;
    for isa in Isa::available() {
        let setups: Vec<_> = [1, 2].map(|t| (Pool::new(t).unwrap(), Gemm::new(isa, t).unwrap())).into();
        // Whole sets of shapes on the fastest kernels, corners of them on the slow scalar ones.
        let (widths, depths): (&[usize], &[usize]) = match isa {
            Isa::Scalar => (&[7, 65, 192], &[12, 300]),
            _ => (&[7, 48, 64, 65, 96, 192, 576, 768, 1000], &[12, 48, 192, 768]),
        };
        for &k in depths {
            let x = values(ROWS * k, k as u64);
            for &n in widths {
                let w = values(n * k, n as u64);
                let expected = product(&setups[0].1, &setups[0].0, [ROWS, n, k], &x, &w, Weight::Transposed);
                for (pool, gemm) in &setups {
                    for m in (1..=20).chain([31, 64, 65, 96, 97, 128, 191, 192, 199, 200]) {
                        let y = product(gemm, pool, [m, n, k], &x[..m * k], &w, Weight::Transposed);
                        assert!(y == expected[..m * n], "{isa:?} {} threads, {m}×{n}×{k}", pool.threads());
                    }
                    for size in [1, 3, 50, 111] {
                        for (rows, want) in x.chunks(size * k).zip(expected.chunks(size * n)) {
                            let y = product(gemm, pool, [rows.len() / k, n, k], rows, &w, Weight::Transposed);
                            assert!(y == want, "{isa:?} {} threads, chunks of {size}, {n}×{k}", pool.threads());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn fused_instruction_sets_agree_to_the_bit() {
    let [m, n, k] = [37, 101, 700];
    let (x, w) = (values(m * k, 1), values(n * k, 2));
    let pool = Pool::new(1).unwrap();
    let results: Vec<_> = Isa::available()
        .filter(|&isa| isa != Isa::Scalar)
        .map(|isa| product(&Gemm::new(isa, 1).unwrap(), &pool, [m, n, k], &x, &w, Weight::Transposed))
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn agrees_with_f64_in_both_layouts_with_strides_bias_and_accumulation() {
    for isa in Isa::available() {
        let pool = Pool::new(2).unwrap();
        let gemm = Gemm::new(isa, 2).unwrap();
        for [m, n, k] in [[1, 1, 1], [2, 5, 3], [13, 64, 7], [50, 33, 257], [150, 400, 513], [6, 10, 0]] {
            let (xs, ys) = (k + 3, n + 5);
            let (x, w, before, bias) = (values(m * xs, 3), values(n * k, 4), values(m * ys, 5), values(n, 6));
            for layout in [Weight::Transposed, Weight::Plain] {
                for (mode, biased) in [(0, 0), (1, 0), (2, 0), (2, m / 2), (2, m)] {
                    let start = match mode {
                        0 => Start::Zero,
                        1 => Start::Keep,
                        _ => Start::Bias { bias: &bias, rows: biased },
                    };
                    let mut y = before.clone();
                    let out = StridedMut { data: &mut y, stride: ys };
                    gemm.run(&pool, [m, n, k], Strided { data: &x, stride: xs }, &w, layout, start, out);
                    for i in 0..m {
                        for j in 0..ys {
                            let found = y[i * ys + j];
                            if j >= n {
                                assert_eq!(found, before[i * ys + j], "wrote beyond the row");
                                continue;
                            }
                            let weight = |p| if layout == Weight::Transposed { w[j * k + p] } else { w[p * n + j] };
                            let sum: f64 = (0..k).map(|p| x[i * xs + p] as f64 * weight(p) as f64).sum();
                            let base = match mode {
                                1 => before[i * ys + j] as f64,
                                2 if i < biased => bias[j] as f64,
                                _ => 0.0,
                            };
                            let tolerance = 4e-8 * (10 + k) as f64;
                            let gap = (found as f64 - sum - base).abs();
                            assert!(gap < tolerance, "{isa:?} {m}×{n}×{k} {layout:?} {mode}: off by {gap:e}");
                        }
                    }
                }
            }
        }
    }
}
