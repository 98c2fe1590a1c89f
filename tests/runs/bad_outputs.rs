//! Places that cannot be written: one error, no half-written file, and what was there survives.

use crate::common::{Bench, command, failure, listing, success, text};
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn places_where_nothing_can_be_written() {
    let bench = Bench::new(2, 1);
    fs::write(bench.path("file"), "in the way").unwrap();
    let [model, data] = ["model", "data"].map(|name| bench.arg(name));
    let mut places = vec![(bench.arg("file/a.safetensors"), 1), (bench.arg("absent/a.safetensors"), 1)];
    places.extend([(bench.arg("out"), 2), (format!("{}/", bench.arg("out")), 2)]);
    if cfg!(target_os = "linux") {
        // Where not even root can create a file.
        places.push(("/proc/a.safetensors".into(), 1));
    }
    for (out, code) in places {
        let arguments = ["tune", "--model", &model, "--data", &data, "--format", "folder", "--out", &out];
        let message = failure(&arguments, code);
        assert!(message.contains(&out), "{message}");
    }
    assert_eq!(fs::read(bench.path("file")).unwrap(), b"in the way");
    assert!(bench.outputs().is_empty());
}

#[test]
#[cfg(unix)]
fn a_read_only_folder() {
    use std::os::unix::fs::PermissionsExt;

    if rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: root may write into read-only folders");
    }
    let bench = Bench::new(2, 1);
    let arguments = bench.tune("a.safetensors", "--steps 1 --batch 4 --quiet");
    success(&arguments);
    let before = fs::read(bench.path("out/a.safetensors")).unwrap();
    fs::set_permissions(bench.path("out"), fs::Permissions::from_mode(0o555)).unwrap();
    let message = failure(&arguments, 1);
    fs::set_permissions(bench.path("out"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(message.contains(&bench.arg("out/a.safetensors")), "{message}");
    assert!(fs::read(bench.path("out/a.safetensors")).unwrap() == before);
}

/// `--out` does not take the place of files that are not adapters: a slip of the keyboard must not cost the weights.
#[test]
fn other_files_are_not_replaced() {
    let bench = Bench::new(2, 1);
    let [model, data] = ["model", "data"].map(|name| bench.arg(name));
    fs::write(bench.path("notes.txt"), "mine").unwrap();
    success(&bench.tune("a.safetensors", "--steps 1 --batch 4 --quiet"));
    for out in ["model/model.safetensors", "notes.txt", "out/a.checkpoint.safetensors"] {
        let before = fs::read(bench.path(out)).unwrap();
        let out = bench.arg(out);
        let message = failure(&["tune", "--model", &model, "--data", &data, "--format", "folder", "--out", &out], 1);
        assert!(message.contains(&out) && message.contains("not an adapter"), "{message}");
        assert!(fs::read(&out).unwrap() == before);
    }
    // An empty file, as mktemp makes, and an adapter are replaced.
    fs::write(bench.path("out/b.safetensors"), "").unwrap();
    success(&bench.tune("b.safetensors", "--steps 1 --batch 4 --quiet"));
    success(&bench.tune("b.safetensors", "--steps 1 --batch 4 --quiet"));
}

/// A tiny file system, unmounted in the end.
#[cfg(target_os = "linux")]
struct SmallDisk<'a>(&'a Path);

#[cfg(target_os = "linux")]
impl<'a> SmallDisk<'a> {
    /// `None`, said aloud, where mounting is not allowed.
    fn mount(at: &'a Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(SmallDisk(at)),
            other => {
                eprintln!("SKIPPED: a full disk: tmpfs cannot be mounted here: {other:?}");
                None
            }
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk() {
    let bench = Bench::new(2, 1);
    let at = bench.path("out");
    let Some(_disk) = SmallDisk::mount(&at) else { return };
    let options = "--steps 1 --batch 4 --quiet --prompts 8 --deep";
    success(&bench.tune("a.safetensors", options));
    let [adapter, checkpoint] = ["out/a.safetensors", "out/a.checkpoint.safetensors"].map(|name| bench.path(name));
    let before = [&adapter, &checkpoint].map(|path| fs::read(path).unwrap());
    fill(&at.join("filler"));
    let names = listing(&at);

    // The checkpoint does not fit any more, then the adapter of the finished run does not.
    for (more, path) in [("--seed 5", &checkpoint), ("--resume", &adapter)] {
        let message = failure(&bench.tune("a.safetensors", &format!("{options} {more}")), 1);
        assert!(message.contains(path.to_str().unwrap()) && message.contains("No space left"), "{more}: {message}");
        assert_eq!(listing(&at), names, "{more}: nothing is left behind");
        assert!([&adapter, &checkpoint].map(|path| fs::read(path).unwrap()) == before, "{more}");
    }
    fs::remove_file(at.join("filler")).unwrap();
    success(&bench.tune("a.safetensors", &format!("{options} --resume")));
    assert!(fs::read(&adapter).unwrap() == before[0]);
}

/// Writes until there is no space, to the byte.
#[cfg(target_os = "linux")]
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    while file.write(&[0; 512]).is_ok_and(|written| written > 0) {}
}

/// The same where no file may grow beyond a limit, which needs no privileges.
#[test]
#[cfg(unix)]
fn a_file_that_may_not_grow() {
    let bench = Bench::new(2, 1);
    let options = "--steps 1 --batch 4 --quiet --prompts 8 --deep";
    success(&bench.tune("a.safetensors", options));
    let names = bench.outputs();
    let [adapter, checkpoint] = ["out/a.safetensors", "out/a.checkpoint.safetensors"].map(|name| bench.path(name));
    let before = [&adapter, &checkpoint].map(|path| fs::read(path).unwrap());
    for (more, path) in [("--seed 5", &checkpoint), ("--resume", &adapter)] {
        // The signal that would end the process is ignored, so that writing fails instead.
        let run = command(&bench.tune("a.safetensors", &format!("{options} {more}")));
        let limited = "ulimit -f 1 && trap '' XFSZ && exec \"$0\" \"$@\"";
        let output =
            Command::new("sh").args(["-c", limited]).arg(run.get_program()).args(run.get_args()).output().unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(path.to_str().unwrap()) && message.contains("cannot write"), "{more}: {message}");
        assert_eq!(bench.outputs(), names, "{more}: nothing is left behind");
        assert!([&adapter, &checkpoint].map(|path| fs::read(path).unwrap()) == before, "{more}");
    }
}
