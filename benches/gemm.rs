//! Our matrix product against the `gemm` crate's, in short alternating rounds of one run.
//!
//! `cargo bench --bench gemm -- [--threads N] [--shape MxNxK] [--cpu-time]`. FORETUNE_ISA forces our instruction set;
//! the peer takes the widest. `--cpu-time` measures the process's processor time, for one thread on a busy machine.

use foretune::cpu::gemm::{Gemm, Layout, Matrix, Precision, Start, Strided, StridedMut, Weight};
use foretune::cpu::{isa::Isa, pool::Pool};
use gemm_common::Parallelism;
use std::time::{Duration, Instant};

/// Tokens of 8 images of 197, and of 16 with four prompts, through the linear layers of ViT-B/16 and ViT-Ti/16.
const SHAPES: [[usize; 3]; 12] = [
    [1576, 768, 768],
    [1576, 2304, 768],
    [1576, 3072, 768],
    [1576, 768, 3072],
    [3216, 3072, 768],
    [3216, 768, 3072],
    [1576, 576, 192],
    [1576, 192, 192],
    [1576, 768, 192],
    [1576, 192, 768],
    [197, 768, 768],
    [16, 768, 768],
];
const ROUNDS: usize = 15;
/// Least seconds of a round.
const ROUND: f64 = 0.02;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let threads = value("--threads").map_or(vec![1, 2], |t| vec![t.parse().expect("--threads takes a number")]);
    let shapes = value("--shape").map_or(SHAPES.to_vec(), |shape| {
        let sizes: Vec<usize> = shape.split('x').map(|s| s.parse().expect("--shape takes MxNxK")).collect();
        vec![sizes.try_into().expect("--shape takes MxNxK")]
    });
    let clock = if args.iter().any(|a| a == "--cpu-time") { cpu_time } else { wall_time };
    let isa = Isa::detect().unwrap_or_else(|e| panic!("{e}"));
    println!("{} · GFLOP/s, best (median) of {ROUNDS} rounds · ratio of medians to the gemm crate", isa.name());
    for threads in threads {
        let pool = Pool::new(threads).unwrap_or_else(|e| panic!("{e}"));
        let f32 = Gemm::new(isa, Precision::F32, threads).unwrap_or_else(|e| panic!("{e}"));
        let bf16 = Gemm::new(isa, Precision::Bf16, threads).ok();
        for shape in &shapes {
            compare(&pool, &f32, bf16.as_ref(), *shape, clock);
        }
    }
}

fn compare(pool: &Pool, f32: &Gemm, bf16: Option<&Gemm>, [m, n, k]: [usize; 3], clock: fn() -> f64) {
    let x: Vec<f32> = (0..m * k).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect();
    let w: Vec<f32> = (0..n * k).map(|i| (i % 19) as f32 / 19.0 - 0.5).collect();
    let matrix = Matrix::from_values(n, k, w.clone());
    let mut y = vec![0.0; m * n];
    let parallelism = if pool.threads() == 1 { Parallelism::None } else { Parallelism::Rayon(pool.threads()) };
    let peer = gemm_f32::gemm::f32::get_gemm_fn();
    let mut run = |which: usize| match which {
        0 => pool.install(|| {
            let (n_, k_, y) = (n as isize, k as isize, y.as_mut_ptr());
            // SAFETY: yᵀ [n, m] = W [n, k] · xᵀ [k, m], all slices of that size.
            unsafe {
                let (w, x) = (w.as_ptr(), x.as_ptr());
                peer(n, m, k, y, n_, 1, false, w, 1, k_, x, k_, 1, 0.0, 1.0, false, false, false, parallelism);
            }
        }),
        _ => {
            let gemm = if which == 1 { f32 } else { bf16.expect("only then") };
            let weight = Weight { matrix: &matrix, rows: 0..n, layout: Layout::Transposed };
            let y = StridedMut { data: &mut y, stride: n };
            gemm.run(pool, m, Strided { data: &x, stride: k }, weight, Start::Zero, y);
        }
    };
    let variants = if bf16.is_some() { 3 } else { 2 };
    let flops = 2e-9 * (m * n * k) as f64;
    let mut rates = vec![Vec::new(); variants];
    for _ in 0..ROUNDS {
        for (which, rates) in rates.iter_mut().enumerate() {
            let (start, mut calls) = (clock(), 0);
            let mut elapsed = 0.0;
            while elapsed < ROUND {
                run(which);
                calls += 1;
                elapsed = clock() - start;
            }
            rates.push(flops * f64::from(calls) / elapsed);
        }
    }
    rates.iter_mut().for_each(|rates| rates.sort_by(|a, b| b.total_cmp(a)));
    let median = |which: usize| rates[which][ROUNDS / 2];
    print!("×{} {m}×{n}×{k}:", pool.threads());
    for (which, name) in ["gemm crate", "f32", "bf16"].into_iter().enumerate().take(variants) {
        print!("  {name} {:.0} ({:.0})", rates[which][0], median(which));
        if which > 0 {
            print!(" {:.2}×", median(which) / median(0));
        }
    }
    println!();
}

fn wall_time() -> f64 {
    use std::sync::LazyLock;
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_secs_f64()
}

#[cfg(unix)]
fn cpu_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours to write.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32).as_secs_f64()
}

#[cfg(not(unix))]
fn cpu_time() -> f64 {
    panic!("--cpu-time needs a Unix system")
}
