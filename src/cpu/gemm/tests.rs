use super::*;
use crate::weights::{Checkpoint, TensorRef};
use half::{bf16, f16};
use std::path::Path;

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

/// Everything that multiplies on this CPU, with a name, for `threads` threads.
fn gemms(threads: usize) -> Vec<(String, Gemm)> {
    let mut all: Vec<_> =
        Isa::available().map(|isa| (isa.name().to_owned(), Gemm::new(isa, Precision::F32, threads).unwrap())).collect();
    #[cfg(target_arch = "x86_64")]
    {
        let bf16 = |kernels| Gemm::with_kernels(Isa::Avx512, kernels, Precision::Bf16, threads).unwrap();
        if Kernels::has_dot() {
            all.push(("vdpbf16ps".to_owned(), bf16(Kernels::dot())));
            all.extend(Kernels::amx().map(|kernels| ("tdpbf16ps".to_owned(), bf16(kernels))));
        }
    }
    all
}

fn is_bf16(gemm: &Gemm) -> bool {
    gemm.kernels.format() != Format::F32
}

fn whole(matrix: &Matrix, layout: Layout) -> Weight<'_> {
    Weight { matrix, rows: 0..matrix.rows(), layout }
}

/// x·W or x·Wᵀ.
fn product(gemm: &Gemm, pool: &Pool, m: usize, x: &[f32], weight: Weight) -> Vec<f32> {
    let [n, k] = weight.shape();
    let mut y = vec![f32::NAN; m * n];
    let out = StridedMut { data: &mut y, stride: n };
    gemm.run(pool, m, Strided { data: x, stride: k }, weight, Start::Zero, out);
    y
}

#[test]
fn a_row_has_the_same_bits_whatever_it_is_computed_with() {
    const ROWS: usize = 300;
    let pools = [1, 2, 3].map(|threads| Pool::new(threads).unwrap());
    let gemms = [1, 2, 3].map(gemms);
    for (index, (name, reference)) in gemms[0].iter().enumerate() {
        // Whole sets of shapes on the fastest kernels, corners of them on the slow ones.
        let (widths, depths): (&[usize], &[usize]) = match name.as_str() {
            "scalar" => (&[7, 65], &[12, 300]),
            "avx2" | "neon" => (&[7, 65, 192], &[12, 192, 768]),
            _ => (&[1, 7, 64, 65, 96, 192, 576, 768, 1000], &[1, 12, 192, 768, 769]),
        };
        for &k in depths {
            let x = values(ROWS * k, k as u64);
            for &n in widths {
                let w = Matrix::from_values(n, k, values(n * k, n as u64));
                let w = || whole(&w, Layout::Transposed);
                let expected = product(reference, &pools[0], ROWS, &x, w());
                for (pool, gemms) in pools.iter().zip(&gemms) {
                    let gemm = &gemms[index].1;
                    for m in (1..=17).chain([31, 32, 33, 64, 65, 127, 128, 256, 300]) {
                        let y = product(gemm, pool, m, &x[..m * k], w());
                        assert!(y == expected[..m * n], "{name} {} threads, {m}×{n}×{k}", pool.threads());
                    }
                    for size in [1, 50, 111] {
                        for (rows, want) in x.chunks(size * k).zip(expected.chunks(size * n)) {
                            let y = product(gemm, pool, rows.len() / k, rows, w());
                            assert!(y == want, "{name} {} threads, chunks of {size}, {n}×{k}", pool.threads());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn tasks_cover_the_product_and_split_columns_first() {
    for blocking in [F32, BF16] {
        for tile in [[8, 48], [6, 16], [32, 32], [4, 8]] {
            for m in [1, 7, 128, 1576, 30_000] {
                for n in [1, 33, 192, 400, 768, 3072] {
                    for threads in [1, 2, 3, 16] {
                        let [rows, columns] = blocking.task([m, n], threads, tile);
                        assert!(columns <= blocking.columns && columns.is_multiple_of(tile[1]));
                        assert!(rows.is_multiple_of(tile[0]) && m.div_ceil(rows) <= threads * blocking.tasks);
                        assert!(threads > 1 || rows >= m, "rows need no tasks of their own on one thread");
                    }
                }
            }
        }
    }
    assert_eq!(F32.task([1576, 3072], 2, [8, 48]), [1576, 384]);
    assert_eq!(BF16.task([1576, 768], 2, [32, 32]), [1600, 384]);
}

#[test]
fn blocks_of_the_depth_depend_on_it_alone_and_cover_it() {
    for blocking in [F32, BF16] {
        for k in (0..1000).chain([3072, 4096, 5120]) {
            let mut end = 0;
            for depth in blocking.depths(k) {
                assert!(depth.start == end && depth.len() <= blocking.depth);
                end = depth.end;
            }
            assert_eq!(end, k);
        }
    }
}

#[test]
fn fused_instruction_sets_agree_to_the_bit() {
    let [m, n, k] = [37, 101, 700];
    let (x, w) = (values(m * k, 1), Matrix::from_values(n, k, values(n * k, 2)));
    let pool = Pool::new(1).unwrap();
    let results: Vec<_> = Isa::available()
        .filter(|&isa| isa != Isa::Scalar)
        .map(|isa| Gemm::new(isa, Precision::F32, 1).unwrap())
        .map(|gemm| product(&gemm, &pool, m, &x, whole(&w, Layout::Transposed)))
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

/// What bf16 products see of a value.
fn seen(gemm: &Gemm, value: f32) -> f64 {
    if is_bf16(gemm) { bf16::from_f32(value).to_f64() } else { value.into() }
}

#[test]
fn agrees_with_f64_in_both_layouts_with_strides_bias_and_accumulation() {
    let pool = Pool::new(2).unwrap();
    for (name, gemm) in gemms(2) {
        for [m, n, k] in [
            [1, 1, 1],
            [2, 5, 3],
            [13, 64, 7],
            [33, 31, 33],
            [50, 33, 257],
            [150, 400, 513],
            [15, 40, 1537],
            [6, 10, 0],
        ] {
            let (xs, ys) = (k + 3, n + 5);
            let (x, w, before, bias) = (values(m * xs, 3), values(n * k, 4), values(m * ys, 5), values(n, 6));
            for layout in [Layout::Transposed, Layout::Plain] {
                let (rows, cols) = if layout == Layout::Transposed { (n, k) } else { (k, n) };
                let matrix = Matrix::from_values(rows, cols, w.clone());
                for (mode, biased) in [(0, 0), (1, 0), (2, 0), (2, m / 2), (2, m)] {
                    let start = match mode {
                        0 => Start::Zero,
                        1 => Start::Keep,
                        _ => Start::Bias { bias: &bias, rows: biased },
                    };
                    let mut y = before.clone();
                    let out = StridedMut { data: &mut y, stride: ys };
                    gemm.run(&pool, m, Strided { data: &x, stride: xs }, whole(&matrix, layout), start, out);
                    for i in 0..m {
                        for j in 0..ys {
                            let found = y[i * ys + j];
                            if j >= n {
                                assert_eq!(found, before[i * ys + j], "wrote beyond the row");
                                continue;
                            }
                            let weight = |p| if layout == Layout::Transposed { w[j * k + p] } else { w[p * n + j] };
                            let term = |p| seen(&gemm, x[i * xs + p]) * seen(&gemm, weight(p));
                            let sum: f64 = (0..k).map(term).sum();
                            let base = match mode {
                                1 => before[i * ys + j] as f64,
                                2 if i < biased => bias[j] as f64,
                                _ => 0.0,
                            };
                            let tolerance = 8e-8 * (10 + k) as f64;
                            let gap = (found as f64 - sum - base).abs();
                            assert!(gap < tolerance, "{name} {m}×{n}×{k} {layout:?} {mode}: off by {gap:e}");
                        }
                    }
                }
            }
        }
    }
}

/// Tensors of `rows` × `cols` in F32, F16 and BF16 that start at odd addresses of one file.
fn tensors(rows: [usize; 3], cols: usize) -> [TensorRef; 3] {
    let values = rows.map(|rows| values(rows * cols, rows as u64));
    let data = [
        values[0].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
        values[1].iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        values[2].iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
    ];
    let mut header = String::from("{");
    let mut at = 0;
    for (i, dtype) in ["F32", "F16", "BF16"].into_iter().enumerate() {
        let end = at + data[i].len();
        header += &format!(r#""{i}":{{"dtype":"{dtype}","shape":[{},{cols}],"data_offsets":[{at},{end}]}},"#, rows[i]);
        at = end;
    }
    header.pop();
    header.push('}');
    // The data start at an odd offset.
    header += if header.len().is_multiple_of(2) { " " } else { "" };
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data.concat());
    let checkpoint = Checkpoint::from_bytes(Path::new("test.safetensors"), file).unwrap();
    ["0", "1", "2"].map(|name| checkpoint.get(name).unwrap().clone())
}

#[test]
fn stored_dtypes_give_the_bits_of_their_values_in_f32() {
    let pool = Pool::new(1).unwrap();
    for (name, gemm) in gemms(1) {
        for (rows, cols) in [([40, 21, 37], 300), ([1, 2, 3], 19), ([64, 32, 96], 64)] {
            let tensors = tensors(rows, cols);
            let mapped = Matrix::mapped(&tensors, cols).unwrap();
            let read: Vec<f32> = tensors.iter().flat_map(|t| t.read::<f32>().unwrap()).collect();
            let read = Matrix::from_values(rows.iter().sum(), cols, read);
            assert_eq!((mapped.rows(), mapped.cols()), (read.rows(), cols));
            for layout in [Layout::Transposed, Layout::Plain] {
                for range in [0..read.rows(), 1..read.rows() - 1, rows[0]..read.rows(), 0..1] {
                    let weight = |matrix| Weight { matrix, rows: range.clone(), layout };
                    let x = values(5 * weight(&read).shape()[1], 7);
                    let found = product(&gemm, &pool, 5, &x, weight(&mapped));
                    assert!(found == product(&gemm, &pool, 5, &x, weight(&read)), "{name} {layout:?} {range:?}");
                }
            }
        }
    }
}

#[test]
fn tensors_that_are_not_finite_are_refused_with_the_element() {
    for (dtype, bytes) in [("F32", &f32::INFINITY.to_le_bytes()[..]), ("F16", &[0, 0x7e]), ("BF16", &[0x80, 0xff])] {
        let mut data = vec![0; 6000 * bytes.len()];
        data[5000 * bytes.len()..][..bytes.len()].copy_from_slice(bytes);
        let header = format!(r#"{{"w":{{"dtype":"{dtype}","shape":[60,100],"data_offsets":[0,{}]}}}}"#, data.len());
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(data);
        let checkpoint = Checkpoint::from_bytes(Path::new("test.safetensors"), file).unwrap();
        let tensor = checkpoint.get("w").unwrap().clone();
        let Err(error) = Matrix::mapped(&[tensor], 100) else { panic!("accepted {dtype}") };
        assert!(error.to_string().contains("element 5000 is not finite"), "{error}");
    }
}

#[test]
fn bf16_is_refused_where_there_is_none() {
    let Err(error) = Gemm::new(Isa::Scalar, Precision::Bf16, 1) else { panic!("accepted") };
    assert!(error.is_usage() && error.to_string().contains("bf16"), "{error}");
}

#[test]
fn resident_weights_give_the_bits_of_packed_ones() {
    let pool = Pool::new(2).unwrap();
    for (name, gemm) in gemms(2) {
        for [n, k] in [[192, 192], [65, 385], [7, 1], [768, 769]] {
            let (x, values) = (values(40 * k, 3), values(n * k, 4));
            let mut packed = Matrix::from_values(n, k, values.clone());
            let split = n / 3;
            gemm.pack(&pool, &mut packed, &[0..n, 0..split, split..n]).unwrap();
            let mapped = Matrix::from_values(n, k, values);
            for rows in [0..n, 0..split, split..n, 1..n] {
                let product = |matrix| {
                    product(&gemm, &pool, 40, &x, Weight { matrix, rows: rows.clone(), layout: Layout::Transposed })
                };
                assert!(product(&packed) == product(&mapped), "{name} {n}×{k}, rows {rows:?}");
            }
            let bytes: usize = packed.panels.iter().map(|panels| panels.len() * size_of::<f32>()).sum();
            let planned = [n, split, n - split].map(|n| Gemm::resident_bytes(gemm.precision(), [n, k]));
            assert!(bytes as u64 <= planned.iter().sum(), "{name} {n}×{k}: {bytes} of {planned:?}");
        }
    }
}
