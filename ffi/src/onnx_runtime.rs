//! What was found of ONNX Runtime.

use crate::argument::{self, versioned};
use crate::guard::call;
#[cfg(not(feature = "ort"))]
use crate::status::{FORETUNE_ONNX_RUNTIME, Failure};
use crate::status::{Result, foretune_status};
use std::ffi::c_char;
use std::ptr::null;

/// An ONNX Runtime. Its texts are UTF-8 and hold until the process ends.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct foretune_onnx_runtime_info {
    /// sizeof, set by the caller.
    pub struct_size: usize,
    /// The oldest version that is supported, "1.20"; null in a build without ONNX Runtime.
    pub oldest: *const c_char,
    /// Where it was loaded from; null if it was not.
    pub path: *const c_char,
    /// Its version, "1.22.1"; null if it was not loaded.
    pub version: *const c_char,
    /// The execution providers that it was built with, as "ort:PROVIDER" names them, between commas: "cpu,xnnpack"; null if it was not
    /// loaded.
    pub providers: *const c_char,
}

versioned!(foretune_onnx_runtime_info);

/// Loads ONNX Runtime from `ort_lib`, UTF-8: the file or its folder; null: from `ORT_DYLIB_PATH`, from beside the program, from where the
/// system finds libraries, or from the Python environment in use. Describes it in `*info`, whose size is set. A process loads one for
/// good: later calls, sessions and predictors get the same one, and another path is refused. Any thread.
///
/// Errors: `FORETUNE_ONNX_RUNTIME` when there is none, it is too old, or the library was built without it (`*info` has `oldest` then);
/// `FORETUNE_INVALID_ARGUMENT`.
///
/// # Safety
/// Pointers are null or valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foretune_onnx_runtime_get(
    ort_lib: *const c_char,
    info: *mut foretune_onnx_runtime_info,
) -> foretune_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        let library = argument::optional_text("ort_lib", ort_lib)?;
        let empty = foretune_onnx_runtime_info {
            struct_size: 0,
            oldest: oldest(),
            path: null(),
            version: null(),
            providers: null(),
        };
        argument::write(info, empty)?;
        argument::write(info, find(library, empty)?)
    })
}

#[cfg(feature = "ort")]
fn oldest() -> *const c_char {
    use foretune::engine::ort::OLDEST;
    use std::ffi::CString;
    use std::sync::OnceLock;
    static TEXT: OnceLock<CString> = OnceLock::new();
    TEXT.get_or_init(|| crate::output::c_text(&format!("1.{OLDEST}"))).as_ptr()
}

#[cfg(feature = "ort")]
fn find(library: Option<&str>, empty: foretune_onnx_runtime_info) -> Result<foretune_onnx_runtime_info> {
    use crate::output::Texts;
    use foretune::engine::ort::{Provider, load};
    use std::sync::OnceLock;
    static FOUND: OnceLock<Texts> = OnceLock::new();
    let runtime = load(library.map(std::path::Path::new))?;
    let mut providers = Vec::new();
    for provider in Provider::all() {
        if provider.is_built_in()? {
            providers.push(provider.to_string());
        }
    }
    let path = runtime.path.to_string_lossy().into_owned();
    let texts = FOUND.get_or_init(|| Texts::new(&[path, runtime.version, providers.join(",")]));
    Ok(foretune_onnx_runtime_info { path: texts.get(0), version: texts.get(1), providers: texts.get(2), ..empty })
}

#[cfg(not(feature = "ort"))]
fn oldest() -> *const c_char {
    null()
}

#[cfg(not(feature = "ort"))]
fn find(_: Option<&str>, _: foretune_onnx_runtime_info) -> Result<foretune_onnx_runtime_info> {
    Err(absent())
}

#[cfg(not(feature = "ort"))]
pub(crate) fn absent() -> Failure {
    Failure::new(FORETUNE_ONNX_RUNTIME, "this build has no ONNX Runtime (feature `ort`)")
}
