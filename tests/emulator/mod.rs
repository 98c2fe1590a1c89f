//! A GPU for tests on machines without one: the driver's functions and our kernels as host code (`build.sh`), under the driver's
//! name. What runs on it is the library's own code, from the loading of the driver on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Builds the emulator and returns the folder with its `libcuda.so`; `None`, with the reason printed, where that cannot be.
pub fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            eprintln!("SKIPPED: the GPU emulator is for Linux on x86-64");
            return None;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let out = root.join("target/emulator");
        let built = Command::new("bash").arg(root.join("tests/emulator/build.sh")).arg(&out).output();
        match built {
            Ok(done) if done.status.success() => Some(out),
            Ok(done) if done.status.code() == Some(77) => {
                eprintln!("SKIPPED: {}", String::from_utf8_lossy(&done.stderr).trim());
                None
            }
            Ok(done) => panic!("tests/emulator/build.sh: {}", String::from_utf8_lossy(&done.stderr)),
            Err(error) => panic!("tests/emulator/build.sh: {error}"),
        }
    };
    FOLDER.get_or_init(build).as_deref()
}

/// Whether this process has a device: the emulator, loaded ahead of any other driver, or with `FORETUNE_TEST_DEVICE=cuda` the
/// machine's own.
pub fn load() -> bool {
    static LOADED: OnceLock<bool> = OnceLock::new();
    let load = || {
        if std::env::var_os("FORETUNE_TEST_DEVICE").is_some_and(|device| device == "cuda") {
            return true;
        }
        let Some(folder) = folder() else { return false };
        // SAFETY: the emulator has no initialisers. Loaded by path, its name then stands for it.
        let library = unsafe { libloading::Library::new(folder.join("libcuda.so")) };
        std::mem::forget(library.unwrap_or_else(|error| panic!("the emulator does not load: {error}")));
        true
    };
    *LOADED.get_or_init(load)
}
