//! Matrix products by cuBLASLt, loaded at run time.
//!
//! Row-major y = x·Wᵀ is column-major yᵀ = W·xᵀ, whose operands are the same memory. Sums are f32 without split-K and without
//! TF32, so that a product has the same bits every time. No workspace: all device memory is the plan's.

use super::Storage;
use super::device::Device;
use super::stream::Stream;
use crate::Result;
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use std::ffi::c_void;
use std::ptr::{from_ref, null_mut};
use std::sync::{Arc, Mutex, PoisonError};

/// What a product is, as far as an algorithm is chosen by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Rows of x and y.
    pub count: usize,
    /// Columns of y.
    pub n: usize,
    /// Depth.
    pub k: usize,
    pub x_stride: usize,
    pub y_stride: usize,
    pub w_stride: usize,
    /// y = x·Wᵀ with W `[n, k]`, else y = x·W with W `[k, n]`.
    pub transposed: bool,
    pub bias: bool,
    pub accumulate: bool,
}

/// Device addresses of a product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operands {
    pub x: u64,
    pub w: u64,
    pub bias: u64,
    pub y: u64,
}

/// A handle, and the products it has met.
pub(super) struct Blas {
    device: Arc<Device>,
    handle: sys::cublasLtHandle_t,
    storage: Storage,
    products: Mutex<Vec<Met>>,
}

/// A shape, the alignments of W, x and y, and the product, unless there is no algorithm for it.
type Met = (Shape, [u32; 3], Option<Product>);

/// Descriptors of a product and the algorithm that was chosen for it.
struct Product {
    operation: sys::cublasLtMatmulDesc_t,
    /// Of W, x and y.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: handles may be used from any thread, one at a time: the lock sees to that.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

impl Blas {
    /// `None` where the library cannot be loaded or does not start.
    pub(super) fn load(device: &Arc<Device>, storage: Storage) -> Option<Blas> {
        // SAFETY: looks for the library.
        if !unsafe { sys::is_culib_present() } {
            return None;
        }
        let _current = device.enter().ok()?;
        match result::create_handle() {
            Ok(handle) => Some(Blas { device: device.clone(), handle, storage, products: Mutex::default() }),
            Err(error) => {
                log::warn!("cuBLASLt is there and does not start ({error:?}): our own kernels compute matrix products");
                None
            }
        }
    }

    /// Computes a product in `stream`; false where cuBLASLt has no algorithm for it.
    ///
    /// # Safety
    /// The operands are live device memory of the shape's sizes.
    pub(super) unsafe fn run(&self, stream: &Stream, shape: Shape, operands: Operands) -> Result<bool> {
        let Operands { x, w, bias, y } = operands;
        // An algorithm for well aligned operands fails on others.
        let aligned = [w, x, y].map(|address| 1u32 << address.trailing_zeros().min(8));
        let mut products = self.products.lock().unwrap_or_else(PoisonError::into_inner);
        let _current = self.device.enter()?;
        let at = match products.iter().position(|(s, a, _)| *s == shape && *a == aligned) {
            Some(at) => at,
            None => {
                let product = match Product::new(self.handle, self.storage, shape, aligned) {
                    Ok(product) => Some(product),
                    Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => None,
                    Err(error) => {
                        return Err(self.device.problem("describe a product to cuBLASLt", format!("{error:?}")));
                    }
                };
                products.push((shape, aligned, product));
                products.len() - 1
            }
        };
        let Some(product) = &products[at].2 else { return Ok(false) };
        let pointer = |address: u64| address as *mut c_void;
        let (one, beta) = (1f32, if shape.accumulate { 1f32 } else { 0f32 });
        let run = || -> Result<(), CublasError> {
            if shape.bias {
                set(product.operation, sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
            }
            let [w_layout, x_layout, y_layout] = product.layouts;
            // SAFETY: the caller's promise; descriptors are alive.
            unsafe {
                result::matmul(
                    self.handle,
                    product.operation,
                    from_ref(&one).cast(),
                    from_ref(&beta).cast(),
                    pointer(w),
                    w_layout,
                    pointer(x),
                    x_layout,
                    pointer(y),
                    y_layout,
                    pointer(y),
                    y_layout,
                    &product.algorithm,
                    null_mut(),
                    0,
                    stream.handle().cast(),
                )
            }
        };
        run()
            .map(|()| true)
            .map_err(|error| self.device.problem("multiply matrices with cuBLASLt", format!("{error:?}")))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        if let Ok(_current) = self.device.enter() {
            self.products.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
            // SAFETY: made here.
            unsafe { result::destroy_handle(self.handle) }.ok();
        }
    }
}

fn set<T>(
    operation: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Result<(), CublasError> {
    // SAFETY: the attribute is of the type that the caller gives.
    unsafe { result::set_matmul_desc_attribute(operation, attribute, from_ref(value).cast(), size_of::<T>()) }
}

/// Rows, columns and leading dimension of a column-major matrix.
fn layout(
    kind: sys::cudaDataType,
    [rows, columns, stride]: [usize; 3],
) -> Result<sys::cublasLtMatrixLayout_t, CublasError> {
    result::create_matrix_layout(kind, rows as u64, columns as u64, stride as i64)
}

impl Product {
    fn new(
        handle: sys::cublasLtHandle_t,
        storage: Storage,
        shape: Shape,
        aligned: [u32; 3],
    ) -> Result<Product, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let Shape { count, n, k, x_stride, y_stride, w_stride, .. } = shape;
        let kind = match storage {
            Storage::F32 => sys::cudaDataType::CUDA_R_32F,
            Storage::F16 => sys::cudaDataType::CUDA_R_16F,
            Storage::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        };
        let operation =
            result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F)?;
        // From here on the product's drop gives back what has been made.
        let mut product =
            Product { operation, layouts: [null_mut(); 3], algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] } };
        let transposed = i32::from(shape.transposed);
        set(operation, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &transposed)?;
        if shape.bias {
            set(operation, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS)?;
        }
        let weights = if shape.transposed { [k, n, w_stride] } else { [n, k, w_stride] };
        product.layouts[0] = layout(kind, weights)?;
        product.layouts[1] = layout(kind, [k, count, x_stride])?;
        product.layouts[2] = layout(kind, [n, count, y_stride])?;

        let preference = result::create_matmul_pref()?;
        let prefer = |attribute, value: &dyn Fn() -> (*const c_void, usize)| {
            let (value, size) = value();
            // SAFETY: the attribute is of that size.
            unsafe { result::set_matmul_pref_attribute(preference, attribute, value, size) }
        };
        let (workspace, whole) = (0u64, 0u32);
        let choose = || {
            prefer(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &|| (from_ref(&workspace).cast(), 8))?;
            prefer(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &|| (from_ref(&whole).cast(), 4))?;
            let [w, x, y] = &aligned;
            for (attribute, bytes) in [
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, w),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, x),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, y),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, y),
            ] {
                prefer(attribute, &|| (from_ref(bytes).cast(), 4))?;
            }
            let [w, x, y] = product.layouts;
            // SAFETY: all descriptors are alive.
            unsafe { result::get_matmul_algo_heuristic(handle, operation, w, x, y, y, preference) }
        };
        let chosen = choose();
        // SAFETY: made above.
        unsafe { result::destroy_matmul_pref(preference) }.ok();
        product.algorithm = chosen?.algo;
        Ok(product)
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: made with the product, and not used any more.
        unsafe {
            result::destroy_matmul_desc(self.operation).ok();
            for layout in self.layouts {
                if !layout.is_null() {
                    result::destroy_matrix_layout(layout).ok();
                }
            }
        }
    }
}
