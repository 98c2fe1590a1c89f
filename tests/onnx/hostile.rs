//! Libraries that are none, are too old or lie; what reaches the command's standard error of it is one error.

use super::common::{Bench, failure, foretune, text};
use super::runtime;
use ort::sys::OrtApi;
use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles C to a library; `None`, said aloud, without a compiler.
fn library(folder: &Path, name: &str, source: &str) -> Option<PathBuf> {
    let (c, so) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.so")));
    std::fs::write(&c, source).unwrap();
    match Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&so).arg(&c).arg("-ldl").status() {
        Ok(status) if status.success() => Some(so),
        Ok(status) => panic!("cc {name}.c: {status}"),
        Err(error) if std::env::var_os("FORETUNE_NEED_ORT").is_some() => panic!("cc: {error}"),
        Err(error) => {
            eprintln!("SKIPPED: cc: {error}");
            None
        }
    }
}

/// An `OrtGetApiBase` of this version, whose `GetApi` returns nothing.
fn empty(version: &str) -> String {
    format!(
        "static const void *api(unsigned version) {{ return 0; }}
         static const char *version(void) {{ return \"{version}\"; }}
         static const struct {{ const void *(*api)(unsigned); const char *(*version)(void); }} base = {{ api, version }};
         const void *OrtGetApiBase(void) {{ return &base; }}"
    )
}

/// The real library, but for shapes: the last axis is one longer than it is.
fn liar(real: &Path) -> String {
    format!(
        "#include <dlfcn.h>
         #include <stddef.h>
         #include <string.h>
         typedef struct {{ const void *(*api)(unsigned); const char *(*version)(void); }} Base;
         typedef void *(*GetDimensions)(const void *, long long *, size_t);
         static void *table[{functions}];
         static const Base *real;
         static GetDimensions honest;
         static void *lie(const void *info, long long *dims, size_t count) {{
             void *status = honest(info, dims, count);
             if (!status && count) dims[count - 1] += 1;
             return status;
         }}
         static const void *api(unsigned version) {{
             const void *found = real->api(version);
             if (!found) return 0;
             memcpy(table, found, sizeof table);
             honest = (GetDimensions)table[{dimensions}];
             table[{dimensions}] = (void *)lie;
             return table;
         }}
         static const char *version(void) {{ return real->version(); }}
         static const Base base = {{ api, version }};
         const void *OrtGetApiBase(void) {{
             if (!real) {{
                 void *library = dlopen(\"{path}\", RTLD_NOW);
                 real = ((const Base *(*)(void))dlsym(library, \"OrtGetApiBase\"))();
             }}
             return &base;
         }}",
        functions = size_of::<OrtApi>() / size_of::<usize>(),
        dimensions = offset_of!(OrtApi, GetDimensions) / size_of::<usize>(),
        path = real.display(),
    )
}

#[test]
fn libraries_that_cannot_be_used_are_one_error() {
    if !runtime() {
        return;
    }
    let bench = Bench::new(1, 1);
    let folder = bench.path("out");
    std::fs::write(folder.join("text.so"), "not a library").unwrap();
    std::fs::create_dir(folder.join("nothing")).unwrap();
    let Some(old) = library(&folder, "old", &empty("1.19.2")) else { return };
    let none = library(&folder, "none", "const void *OrtGetApiBase(void) { return 0; }").unwrap();
    let other = library(&folder, "other", "int answer(void) { return 42; }").unwrap();
    let hollow = library(&folder, "hollow", &empty("1.22.0")).unwrap();
    let real = foretune::engine::ort::load(None).unwrap().path;
    let liar = library(&folder, "liar", &liar(&real)).unwrap();

    let model = bench.path("model");
    let image = bench.path("data/test/kind0/0.png");
    let predict = |engine: &str, library: &Path| {
        let arguments = ["predict", "--engine", engine, "--ort-lib"].map(PathBuf::from);
        let rest = [library.to_owned(), "--model".into(), model.clone(), image.clone()];
        [&arguments[..], &rest].concat()
    };
    for (library, expected) in [
        (folder.join("absent.so"), "No such file"),
        (folder.join("nothing"), "No such file"),
        (folder.join("text.so"), "file too short"),
        (old, "ONNX Runtime 1.19.2 is too old; 1.20 or newer is needed"),
        (none, "its OrtGetApiBase returns nothing"),
        (other, "it has no OrtGetApiBase"),
        (hollow, "it has no API of version 20"),
        (liar, "of shape"),
    ] {
        let message = failure(&predict("ort", &library), 1);
        assert!(message.contains(expected), "{}: {message}", library.display());
        assert_eq!(message.trim_end().lines().count(), 1, "{}: {message}", library.display());
    }
    let message = failure(&predict("ort:qnn", &real), 1);
    assert!(message.contains("no execution provider `qnn`, only cpu"), "{message}");
    assert!(failure(&predict("ort:npu", &real), 2).contains("`npu`"));

    // The real one: no word, and no crash at exit.
    let done = foretune(&predict("ort", &real));
    assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), String::new()));
}

/// A model cut short fails before ONNX Runtime is asked.
#[test]
fn a_model_cut_short_is_one_error() {
    if !runtime() {
        return;
    }
    let bench = Bench::new(1, 1);
    let weights = bench.path("model/model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let image = bench.path("data/test/kind0/0.png");
    let model = bench.path("model");
    let arguments = ["predict", "--engine", "ort", "--model"].map(PathBuf::from);
    let message = failure(&[&arguments[..], &[model, image]].concat(), 1);
    assert!(message.contains("truncated"), "{message}");
}
