//! Speed of the CPU kernels: `cargo bench --bench cpu`, optionally with FORETUNE_ISA and a thread count as argument.

use foretune::cpu::gemm::{Gemm, Layout, Matrix, Precision, Start, Strided, StridedMut, Weight};
use foretune::cpu::{isa::Isa, pool::Pool};
use std::time::Instant;

/// Shortest seconds of a call, over half a second of calls.
fn seconds(mut f: impl FnMut()) -> f64 {
    f();
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed().as_secs_f64() < 0.5 || times.len() < 3 {
        let t = Instant::now();
        f();
        times.push(t.elapsed().as_secs_f64());
    }
    times.into_iter().fold(f64::INFINITY, f64::min)
}

fn main() {
    let isa = Isa::detect().unwrap_or_else(|e| panic!("{e}"));
    for threads in std::env::args().skip(1).find_map(|a| a.parse().ok()).map_or(vec![1, 2], |t: usize| vec![t]) {
        let pool = Pool::new(threads).unwrap_or_else(|e| panic!("{e}"));
        let gemm = Gemm::new(isa, Precision::F32, threads).unwrap_or_else(|e| panic!("{e}"));
        for [m, n, k] in [
            [6400, 576, 192],
            [6400, 192, 192],
            [6400, 768, 192],
            [6400, 192, 768],
            [3152, 768, 768],
            [197, 576, 192],
            [50, 576, 192],
            [8, 200, 192],
        ] {
            let (x, w, mut y) = (vec![0.5; m * k], vec![0.25; n * k], vec![0.0; m * n]);
            for layout in [Weight::Transposed, Weight::Plain] {
                let time = seconds(|| {
                    let (x, y) = (Strided { data: &x, stride: k }, StridedMut { data: &mut y, stride: n });
                    gemm.run(&pool, [m, n, k], x, &w, layout, Start::Zero, y);
                });
                let rate = 2e-9 * (m * n * k) as f64 / time;
                println!(
                    "{} ×{threads} gemm {m}×{n}×{k} {layout:?}: {:.3} ms, {rate:.1} GFLOP/s",
                    isa.name(),
                    time * 1e3
                );
            }
        }
    }
}
