//! Matrix products: cuBLASLt where it can be loaded, else `kernels/linear.cu` and, for f32, `kernels/linear_f32.cu`.

use super::memory::Buffer;
use super::module::{Kernel, Launch, Module};
use super::{CudaBackend, Matrix, Storage, Vector, narrow};
use crate::Result;
use crate::backend::{At, Linear};
use std::ops::Range;

/// Twin of `LinearArgs`.
#[repr(C)]
struct LinearArgs {
    x: u64,
    w: u64,
    bias: u64,
    y: u64,
    x_stride: u64,
    y_stride: u64,
    w_stride: u64,
    count: u32,
    biased: u32,
    n: u32,
    k: u32,
    accumulate: u32,
    unused: u32,
}
