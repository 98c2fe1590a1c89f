//! The fast CPU backend: SIMD kernels on a private thread pool.

pub mod gemm;
pub mod isa;
pub mod math;
pub mod pool;
