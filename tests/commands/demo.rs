//! `foretune demo` from outside: the run itself, its folder, and what the other commands make of it.

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn foretune(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_foretune")).args(args).env_remove("RUST_LOG").output().expect("the binary runs")
}

fn success(args: &[&str]) -> String {
    let output = foretune(args);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {message}");
    String::from_utf8(output.stdout).expect("UTF-8 output")
}

fn result(args: &[&str]) -> Value {
    let printed = success(args);
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    let (last, events) = lines.split_last().expect("a result");
    assert!(events.iter().any(|event| event["event"] == "step") || args[0] != "demo");
    assert_eq!(last["event"], "result");
    last.clone()
}

#[test]
fn tunes_what_the_frozen_model_cannot_see_and_leaves_a_usable_folder() {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let out = temporary.path().join("demo-out");
    let at = |name: &str| out.join(name).to_str().expect("UTF-8").to_owned();
    let found = result(&["demo", "--out", &at(""), "--json"]);
    let accuracy = |row: &str| found["test"][row]["accuracy"].as_f64().expect("an accuracy");
    let [clean, frozen, tuned, oracle] = ["clean", "frozen", "tuned", "oracle"].map(accuracy);
    assert!(clean >= 0.9, "the model does not know its own images: {found}");
    assert!(frozen <= clean - 0.2, "the shift does not break the model: {found}");
    assert!(tuned >= frozen + 0.1, "tuning gains too little: {found}");
    assert!(oracle >= frozen + 0.1, "the exact gradient gains too little: {found}");
    assert_eq!(found["test"]["tuned"]["examples"], 500);
    if cfg!(target_os = "linux") {
        assert!(found["peak_memory_bytes"].as_u64().expect("a peak") > 1 << 20);
    }

    // The other commands agree on the folder's figures.
    let (model, shifted, adapter) = (at("model"), at("shifted"), at("adapter.safetensors"));
    let eval = ["eval", "--json", "--model", &model, "--format", "cub", "--data"];
    let eval = |more: &[&str]| result(&[&eval[..], more].concat())["accuracy"].as_f64().expect("an accuracy");
    assert_eq!(eval(&[&at("clean")]), clean);
    assert_eq!(eval(&[&shifted]), frozen);
    assert_eq!(eval(&[&shifted, "--adapter", &adapter]), tuned);
    success(&["data", "verify", "--data", &shifted, "--format", "cub", "--crop-boxes"]);

    // The first command that it suggests tunes the same adapter again, here with another number of threads.
    let next = found["next"][0].as_str().expect("a command");
    let words: Vec<&str> = next.split(' ').skip(1).chain(["--threads", "1", "--quiet"]).collect();
    assert_eq!(words[0], "tune", "{next}");
    success(&words);
    let [first, again] = [&adapter, &at("again.safetensors")].map(|path| fs::read(path).expect("an adapter"));
    assert!(first == again, "another adapter: {next}");
}

#[test]
fn a_folder_that_holds_something_else_is_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("notes.txt"), "mine").expect("a written file");
    let out = folder.path().to_str().expect("UTF-8");
    let output = foretune(&["demo", "--out", out]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.starts_with("error: ") && message.contains(out) && message.contains("--out"), "{message}");
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
}

#[test]
#[cfg(unix)]
fn an_interrupted_demo_ends_cleanly_and_can_be_started_anew() {
    use std::io::{BufRead, BufReader};

    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("demo-out");
    let mut child = Command::new(env!("CARGO_BIN_EXE_foretune"))
        .args([Path::new("demo"), Path::new("--json"), Path::new("--out"), &out])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let stepped = lines.by_ref().map_while(Result::ok).any(|line| line.contains("\"event\":\"step\""));
    assert!(stepped, "no step was taken");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let output = child.wait_with_output().expect("it ends");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("interrupted") && !message.contains("panicked"), "{message}");
    assert!(!rest.iter().any(|line| line.contains("\"event\":\"result\"")));
    assert!(!out.join("adapter.safetensors").exists());
    assert!(out.join("shifted/images.txt").exists());
}
