//! `foretune compare` from outside: what it writes, that no run is made twice, and that an interrupted one goes on.

use crate::common::{command, failure, foretune, listing, success, text};
use foretune::demo::{CONFIG, Subset, WEIGHTS, write_cub};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// The demo's model and a few of its images.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Bench(tempfile::tempdir().expect("a temporary folder"));
        let model = bench.path("model");
        fs::create_dir(&model).expect("a folder");
        fs::write(model.join("model.safetensors"), WEIGHTS).expect("weights");
        fs::write(model.join("config.json"), CONFIG).expect("a configuration");
        let train = Subset { set: 2, per_class: 4, train: true };
        let test = Subset { set: 3, per_class: 2, train: false };
        write_cub(&bench.path("data"), 0, &[train, test], true).expect("images");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A comparison of 4 steps into `out`, but for what `more` has otherwise.
    fn compare(&self, out: &str, more: &[&str]) -> Vec<String> {
        let [model, data, out] = ["model", "data", out].map(|name| self.path(name).to_str().expect("UTF-8").to_owned());
        let mut args = vec!["compare", "--model", &model, "--data", &data, "--format", "cub", "--out", &out];
        let short = "--device cpu --head pretrained --steps 4 --warmup 1 --batch 8 --augment none --val-fraction 0.25 \
                     --eval-every 2 --prompts 2 --tangents 1 --insert-at 4 --lrs 0.1,0.3 --seeds 0,1";
        let words: Vec<&str> = short.split_whitespace().collect();
        args.extend(words.chunks(2).filter(|pair| !more.contains(&pair[0])).flatten());
        args.extend(more);
        args.into_iter().map(str::to_owned).collect()
    }

    fn runs(&self, out: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(out).join("runs.jsonl")).expect("runs");
        text.lines().map(|line| serde_json::from_str(line).expect("a run")).collect()
    }

    fn summary(&self, out: &str) -> BTreeMap<String, Value> {
        let text = fs::read_to_string(self.path(out).join("compare.json")).expect("a summary");
        let summary: Value = serde_json::from_str(&text).expect("JSON");
        let rows = summary["methods"].as_array().expect("rows").clone();
        rows.into_iter().map(|row| (row["method"].as_str().expect("a name").to_owned(), row)).collect()
    }
}

const OWN: &str = "wt-p1=--guess weight-transpose --prompts 1 --tangents 3 --lr 0.2";
const OUTPUTS: [&str; 5] = ["accuracy.svg", "compare.csv", "compare.json", "loss.svg", "runs.jsonl"];

/// A run's scores without what depends on the machine.
fn scores(run: &Value) -> Value {
    let mut run = run.clone();
    run.as_object_mut().expect("an object").remove("images_per_second");
    run
}

#[test]
fn compares_once_and_for_all() {
    let bench = Bench::new();
    let args = bench.compare("out", &["--methods", "activation", "--method", OWN]);
    let printed = success(&args);
    let names = ["frozen", "activation", "wt-p1", "exact gradient"];
    let lines: Vec<&str> = printed.lines().collect();
    assert!(names.iter().zip(&lines[1..]).all(|(name, line)| line.starts_with(name)), "{printed}");
    assert!(printed.contains("loss.svg"), "{printed}");
    assert_eq!(listing(&bench.path("out")), OUTPUTS);

    // Frozen once; two rates of two methods with the first seed, the better one with a test score and the second seed too.
    let runs = bench.runs("out");
    let of = |name: &str| runs.iter().filter(|run| run["method"] == name).collect::<Vec<_>>();
    assert_eq!(names.map(|name| of(name).len()), [1, 4, 3, 4]);
    for name in ["activation", "exact gradient"] {
        let runs = of(name);
        let loss = |at: usize| runs[at]["validation"]["loss"].as_f64().expect("a loss");
        assert!(runs[..2].iter().all(|run| run["test"].is_null() && run["seed"] == 0), "{name}: {runs:?}");
        let best = if loss(0) <= loss(1) { 0.1 } else { 0.3 };
        for (run, seed) in runs[2..].iter().zip(0..) {
            assert!(run["lr"] == best && run["seed"] == seed && run["test"]["examples"] == 20, "{name}: {run}");
        }
        let steps: Vec<_> = runs[2]["curve"].as_array().unwrap().iter().map(|point| point["step"].as_u64()).collect();
        assert_eq!(steps, [Some(2), Some(4)]);
        // The last step's prompts are what is scored.
        assert_eq!(runs[2]["curve"][1]["loss"], runs[2]["validation"]["loss"]);
        assert_eq!(runs[2]["identity"]["options"]["keep"], "last");
    }

    let rows = bench.summary("out");
    let share = rows["exact gradient"]["share"]["mean"].as_f64();
    assert!(share.is_none_or(|share| (share - 1.0).abs() < 1e-9), "{share:?}");
    assert_eq!(rows["frozen"]["forwards_per_step"], Value::Null);
    assert_eq!(rows["exact gradient"]["forwards_per_step"], 3.0);
    // The demo's model has 8 blocks.
    assert_eq!(rows["activation"]["forwards_per_step"], 1.5);
    assert_eq!(rows["wt-p1"]["forwards_per_step"], 2.5);
    assert_eq!((&rows["wt-p1"]["lr"], rows["wt-p1"]["sweep"].as_array().unwrap().len()), (&Value::from(0.2), 1));
    let csv = fs::read_to_string(bench.path("out/compare.csv")).expect("a table");
    assert_eq!(csv.lines().count(), 5);
    for picture in ["loss.svg", "accuracy.svg"] {
        let svg = fs::read_to_string(bench.path("out").join(picture)).expect("a picture");
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{picture}");
        assert!(svg.matches('<').count() == svg.matches('>').count() && !svg.contains("NaN"), "{picture}");
        assert!(names.iter().all(|name| svg.contains(name)), "{picture}");
    }

    // Again: no run is made, the files stay as they are.
    let before: Vec<_> = OUTPUTS.map(|name| fs::read(bench.path("out").join(name)).expect("a file")).to_vec();
    let json = success(&[&args[..], &["--json".to_owned()]].concat());
    let events: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert_eq!(events.len(), 1, "{json}");
    assert_eq!((&events[0]["event"], events[0]["methods"].as_array().map(Vec::len)), (&"result".into(), Some(4)));
    let after: Vec<_> = OUTPUTS.map(|name| fs::read(bench.path("out").join(name)).expect("a file")).to_vec();
    assert!(before == after);

    // A last line cut short is taken off, and that run alone made again, with the same numbers.
    let path = bench.path("out/runs.jsonl");
    let bytes = fs::read(&path).expect("runs");
    fs::write(&path, &bytes[..bytes.len() - 40]).expect("a shorter file");
    let output = foretune(&args);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("not whole"), "{}", text(&output.stderr));
    let again = bench.runs("out");
    assert_eq!(again.iter().map(scores).collect::<Vec<_>>(), runs.iter().map(scores).collect::<Vec<_>>());

    // Another option is another set of runs in the same folder.
    success(&bench.compare("out", &["--methods", "activation", "--batch", "6", "--lrs", "0.1", "--seeds", "0"]));
    assert_eq!(bench.runs("out").len(), runs.len() + 5);
}

#[test]
fn numbers_depend_on_the_seed_alone() {
    let bench = Bench::new();
    let methods = ["--methods", "weight-transpose", "--head", "linear", "--seeds", "3", "--json", "--lrs", "0.1"];
    let run = |out: &str, threads: &str, micro_batch: &str| {
        let more = [&methods[..], &["--threads", threads, "--micro-batch", micro_batch]].concat();
        success(&bench.compare(out, &more));
        bench.runs(out).iter().map(scores).collect::<Vec<_>>()
    };
    let one = run("one", "1", "8");
    assert_eq!(one, run("two", "2", "3"));
    // A head that is trained is trained without prompts too.
    let frozen = one.iter().find(|run| run["method"] == "frozen").expect("the frozen model");
    assert_eq!((&frozen["steps"], frozen["curve"].as_array().unwrap().len()), (&Value::from(4), 2));
    assert_eq!(bench.summary("one")["frozen"]["forwards_per_step"], 1.0);
}

#[test]
fn a_run_that_diverges_is_recorded_and_not_made_again() {
    let bench = Bench::new();
    let args =
        bench.compare("out", &["--methods", "activation", "--optimizer", "sgd", "--lrs", "1e38,0.1", "--seeds", "0"]);
    let printed = success(&args);
    let runs = bench.runs("out");
    let failed: Vec<_> = runs.iter().filter(|run| run["failure"].is_string()).collect();
    assert!(failed.len() == 2 && failed.iter().all(|run| run["lr"] == 1e38 && run["test"].is_null()), "{runs:?}");
    assert_eq!(bench.summary("out")["activation"]["lr"], 0.1);
    assert_eq!(success(&args).lines().next(), printed.lines().next());
    assert_eq!(bench.runs("out"), runs);
    assert_eq!(listing(&bench.path("out")), OUTPUTS);

    let all = bench.compare("out", &["--methods", "activation", "--optimizer", "sgd", "--lrs", "1e38"]);
    let printed = success(&all);
    assert!(printed.contains("activation (diverged)"), "{printed}");
}

#[test]
#[cfg(unix)]
fn an_interrupted_comparison_goes_on_where_it_stopped() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let bench = Bench::new();
    let more = ["--methods", "activation", "--lrs", "0.1", "--seeds", "0", "--steps", "120"];
    let args = bench.compare("out", &more);
    let mut child = command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("step 4: ")), "it never came to step 4");
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(1), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("the same command continues")), "{rest:?}");
    assert_eq!(listing(&bench.path("out")), ["checkpoints", "runs.jsonl"]);
    assert!(bench.runs("out").len() < 3, "the exact gradient is not done");

    let output = foretune(&args);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(listing(&bench.path("out")), OUTPUTS);
    success(&bench.compare("whole", &more));
    let [runs, whole] = ["out", "whole"].map(|out| bench.runs(out).iter().map(scores).collect::<Vec<_>>());
    assert_eq!(runs, whole);
}

/// The rate rises so high that early prompts are the best: those are kept, or with `--keep last` the last.
#[test]
fn tune_keeps_the_best_prompts_or_the_last() {
    let bench = Bench::new();
    let [model, data, out] = ["model", "data", "a.safetensors"].map(|name| bench.path(name).display().to_string());
    let result = |keep: &str| {
        let fixed =
            ["tune", "--model", &model, "--data", &data, "--format", "cub", "--out", &out, "--json", "--no-eval"];
        let short = "--device cpu --head pretrained --steps 6 --warmup 6 --batch 8 --deep --val-fraction 0.5 \
                     --eval-every 1 --lr 1 --keep";
        let args: Vec<&str> = fixed.into_iter().chain(short.split_whitespace()).chain([keep]).collect();
        let printed = success(&args);
        let events: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
        let scores = events.iter().filter(|event| event["event"] == "evaluated").map(|event| event["loss"].clone());
        let result = events.last().expect("a result").clone();
        (
            result["step"].as_u64().expect("a step"),
            result["scores"]["tuned"]["validation"]["loss"].clone(),
            scores.collect(),
        )
    };
    let (best, best_loss, scores): (u64, Value, Vec<Value>) = result("best");
    assert!(best < 6, "{scores:?}");
    assert_eq!(best_loss, scores[best as usize - 1]);
    assert_eq!(result("last"), (6, scores[5].clone(), scores));
}

#[test]
fn wrong_usage_exits_with_2_and_names_the_option() {
    let bench = Bench::new();
    for (more, needles) in [
        (&["--method", "wt-p1=--prompts 1 --tangentz 8"][..], &["--method wt-p1", "--tangentz"][..]),
        (&["--method", "wt-p1=--guess oracle"], &["--method wt-p1", "--guess", "weight-transpose"]),
        (&["--method", "wt-p1=--batch 4"], &["--method wt-p1", "--batch"]),
        (&["--methods", "oracle"], &["--methods", "oracle"]),
        (&["--lr", "0.1"], &["--lr", "--lrs"]),
        (&["--seeds", "one"], &["--seeds", "one"]),
    ] {
        let message = failure(&bench.compare("out", more), 2);
        assert!(needles.iter().all(|needle| message.contains(needle)), "{more:?}: {message}");
        assert!(message.contains("--help"), "{message}");
    }
    assert!(!bench.path("out").exists());
    let message = failure(&bench.compare("out", &["--val-fraction", "0"]), 1);
    assert!(message.contains("--val-fraction"), "{message}");
    assert!(!bench.path("out").exists());
}

#[test]
fn runs_share_a_prefix_cache() {
    let bench = Bench::new();
    let cache = bench.path("cache");
    let more =
        ["--methods", "activation", "--prefix-cache", cache.to_str().expect("UTF-8"), "--lrs", "0.1", "--seeds", "0"];
    success(&bench.compare("out", &more));
    // One file, as all enter ahead of the same block, and the frozen model's passes begin there too.
    assert_eq!(listing(&cache).len(), 1);
    assert!(bench.runs("out").iter().all(|run| run["identity"]["options"]["prefix_f16"] == true));
}
