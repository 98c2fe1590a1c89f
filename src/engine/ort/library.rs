//! Finds ONNX Runtime and loads it, once a process.
//!
//! The library is looked at before the `ort` crate may see it: with one that is absent or too old, `ort` panics or waits for ever.

use crate::{Error, Result};
use libloading::{Library, Symbol};
use ort::environment::Environment;
use std::env;
use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Minor version of the oldest ONNX Runtime that works: `ort` is built for its API, and nothing older has been tried.
pub const OLDEST: u32 = ort::MINOR_VERSION;

#[cfg(target_os = "windows")]
const NAME: &str = "onnxruntime.dll";
#[cfg(target_vendor = "apple")]
const NAME: &str = "libonnxruntime.dylib";
#[cfg(not(any(target_os = "windows", target_vendor = "apple")))]
const NAME: &str = "libonnxruntime.so";

/// The ONNX Runtime that this process uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Where it was loaded from.
    pub path: PathBuf,
    /// Its version, such as 1.22.0.
    pub version: String,
}

static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

/// Loads ONNX Runtime from `path`, a file or its folder; without one from `ORT_DYLIB_PATH`, from beside the program, from where the
/// system finds libraries, or from the Python environment in use, whichever has it first. A process loads one only.
///
/// # Errors
/// [`Error::OnnxRuntime`]: none was found, it is older than [`OLDEST`] or no ONNX Runtime, or another one is in use.
pub fn load(path: Option<&Path>) -> Result<Runtime> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = &*loaded {
        let other = path.map(file_in).filter(|path| !same(path, &runtime.path));
        return match other {
            None => Ok(runtime.clone()),
            Some(other) => Err(Error::OnnxRuntime(format!(
                "{}: this process uses {} already, and can load one only",
                other.display(),
                runtime.path.display()
            ))),
        };
    }
    let (path, source) = match (path, env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty())) {
        (Some(path), _) => (Some(file_in(path)), ""),
        (None, Some(path)) => (Some(file_in(Path::new(&path))), " (ORT_DYLIB_PATH)"),
        (None, None) => (None, ""),
    };
    let runtime = match path {
        Some(path) => {
            probe(&path).map_err(|problem| Error::OnnxRuntime(format!("{}{source}: {problem}", path.display())))?
        }
        None => {
            // What was found and could not be used is worth more than that nothing was found.
            let mut problem = None;
            let found = usual_places().into_iter().find_map(|path| match probe(&path) {
                Ok(runtime) => Some(runtime),
                Err(reason) if path.exists() => {
                    problem.get_or_insert(format!("{}: {reason}", path.display()));
                    None
                }
                Err(_) => None,
            });
            found.ok_or_else(|| Error::OnnxRuntime(problem.unwrap_or_else(|| {
                format!("{NAME} was not found; give its path (--ort-lib, ort_lib) or set ORT_DYLIB_PATH, or install it: `pip install onnxruntime` \
                         brings it within the package, onnxruntime/capi; GitHub's microsoft/onnxruntime has it by itself")
            })))?
        }
    };
    start(&runtime)?;
    Ok(loaded.insert(runtime).clone())
}

/// Tells `ort` what it may load, and where messages go.
fn start(runtime: &Runtime) -> Result<()> {
    let builder = ort::init_from(&runtime.path)
        .map_err(|error| Error::OnnxRuntime(format!("{}: {error}", runtime.path.display())))?;
    let logger = |level, _: &str, _: &str, _: &str, message: &str| {
        use ort::logging::LogLevel;
        // Its own warnings are about how it carries a graph out; nothing in them is for a user to act on.
        match level {
            LogLevel::Fatal | LogLevel::Error => log::warn!("ONNX Runtime: {message}"),
            LogLevel::Warning => log::debug!("ONNX Runtime: {message}"),
            _ => log::trace!("ONNX Runtime: {message}"),
        }
    };
    builder.with_name("foretune").with_telemetry(false).with_logger(Arc::new(logger)).commit();
    // Kept for good: `ort` would release it when the process ends, after what 1.22 and others need for that is gone, which is a
    // crash (pykeio/ort, issue 609).
    static KEPT: OnceLock<Arc<Environment>> = OnceLock::new();
    let environment = Environment::current().map_err(|error| super::failed("start", &error))?;
    KEPT.get_or_init(|| environment);
    Ok(())
}

/// What is at `path`, if it can be used. It stays loaded.
fn probe(path: &Path) -> Result<Runtime, String> {
    #[repr(C)]
    struct ApiBase {
        api: unsafe extern "C" fn(u32) -> *const std::ffi::c_void,
        version: unsafe extern "C" fn() -> *const c_char,
    }
    // SAFETY: loading runs the library's initialisers, which those of an ONNX Runtime allow at any time; the caller chose the file.
    let library = unsafe { Library::new(path) }.map_err(|error| {
        // The loader's own words are in its source.
        std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
    })?;
    // SAFETY: the signature of every ONNX Runtime since 1.0.
    let base: Symbol<unsafe extern "C" fn() -> *const ApiBase> = unsafe { library.get(b"OrtGetApiBase\0") }
        .map_err(|_| "this is a library, and not ONNX Runtime: it has no OrtGetApiBase".to_owned())?;
    // SAFETY: as above; what it returns is static.
    let base = unsafe { base().as_ref() };
    // SAFETY: as above.
    let version = base.map(|base| unsafe { (base.version)() }).filter(|text| !text.is_null());
    // SAFETY: a C string within the library.
    let version = version.map(|text| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned());
    let version = version.ok_or("its OrtGetApiBase returns nothing")?;
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor < OLDEST) {
        return Err(format!("ONNX Runtime {version} is too old; 1.{OLDEST} or newer is needed"));
    }
    // SAFETY: as above.
    if base.is_none_or(|base| unsafe { (base.api)(OLDEST) }.is_null()) {
        return Err(format!("ONNX Runtime {version}, as it calls itself: it has no API of version {OLDEST}"));
    }
    std::mem::forget(library);
    Ok(Runtime { path: path.to_owned(), version })
}

fn same(a: &Path, b: &Path) -> bool {
    let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    canonical(a) == canonical(b)
}

/// The library within a folder; any other path as it is.
fn file_in(path: &Path) -> PathBuf {
    if path.is_dir() { versions(path).pop().unwrap_or_else(|| path.join(NAME)) } else { path.to_owned() }
}

/// `libonnxruntime.so` and `libonnxruntime.so.1.22.0` in a folder, the plain name last.
fn versions(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let stem = NAME.trim_end_matches(".dylib").trim_end_matches(".dll");
    let is = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == NAME || (name.starts_with(&format!("{stem}.")) && !name.contains("providers"))
    };
    let mut found: Vec<PathBuf> = entries.filter(is).collect();
    found.sort_by_key(|path| (path.ends_with(NAME), path.clone()));
    found
}

fn usual_places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(beside) = env::current_exe().ok().as_deref().and_then(Path::parent) {
        places.extend(versions(beside).pop());
    }
    // As the system finds libraries.
    places.push(NAME.into());
    for folder in
        ["/usr/lib", "/usr/local/lib", "/opt/homebrew/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
    {
        places.extend(versions(Path::new(folder)).pop());
    }
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        let Some(root) = env::var_os(variable) else { continue };
        let lib = Path::new(&root).join("lib");
        let pythons = lib.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        let windows = Path::new(&root).join("Lib");
        for python in pythons.chain([windows]) {
            places.extend(versions(&python.join("site-packages/onnxruntime/capi")).pop());
        }
    }
    places
}
