//! `runs.jsonl`: every run that was made, a line each, appended and synced. Of lines with one key the last counts.

use foretune::tune::{RunIdentity, Score};
use foretune::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Validation scores after so many steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Point {
    pub(super) step: u64,
    /// `None` where it was not finite.
    pub(super) loss: Option<f64>,
    pub(super) accuracy: f64,
}

/// A finished run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Of all that decides the run's bits; the name that it was given is not among it.
    pub(super) key: String,
    pub(super) method: String,
    pub(super) lr: f64,
    pub(super) seed: u64,
    pub(super) steps: u64,
    /// Scores of the last step's prompts; of the test images only where the rate was chosen.
    pub(super) validation: Option<Score>,
    pub(super) test: Option<Score>,
    /// Why there are no scores that mean anything.
    pub(super) failure: Option<String>,
    /// Training throughput; `None` for the frozen model, which is not trained.
    pub(super) images_per_second: Option<f64>,
    /// Steps left out because something was not finite.
    pub(super) skipped: u64,
    pub(super) curve: Vec<Point>,
    /// A [`RunIdentity`], for people.
    pub(super) identity: serde_json::Value,
}

/// The key of a run under `head_from`, the digest of the adapter whose head it uses.
pub(super) fn key(identity: &RunIdentity, head_from: Option<&str>) -> String {
    let mut hasher = blake3::Hasher::new();
    // Plain structs of numbers, names and lists cannot fail to become JSON.
    hasher.update(&serde_json::to_vec(identity).unwrap_or_default());
    hasher.update(head_from.unwrap_or_default().as_bytes());
    hasher.finalize().to_hex()[..32].to_owned()
}

/// The runs of a folder.
pub(super) struct Runs {
    path: PathBuf,
    by_key: BTreeMap<String, Record>,
}

impl Runs {
    /// Reads the runs of `folder`, if there are any. A last line that was not written whole is taken off.
    ///
    /// # Errors
    /// [`Error::Data`] that names a line which is no run; [`Error::Io`].
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("runs.jsonl");
        let mut bytes = match fs::read(&path) {
            Err(source) if source.kind() == ErrorKind::NotFound => Vec::new(),
            read => read.map_err(|source| Error::Io { action: "read", path: path.clone(), source })?,
        };
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if whole < bytes.len() {
            log::warn!("{}: the last line is not whole; it is taken off, and its run made again", path.display());
            bytes.truncate(whole);
            let cut = OpenOptions::new().write(true).open(&path);
            cut.and_then(|file| file.set_len(whole as u64).and_then(|()| file.sync_all()))
                .map_err(|source| Error::Io { action: "write", path: path.clone(), source })?;
        }
        let mut by_key = BTreeMap::new();
        for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')).filter(|(_, line)| !line.is_empty()) {
            let record: Record = serde_json::from_slice(line).map_err(|error| {
                let problem =
                    format!("line {number} is no run: {error}; take it out, or give another folder with --out");
                Error::Data { path: path.clone(), problem }
            })?;
            by_key.insert(record.key.clone(), record);
        }
        Ok(Runs { path, by_key })
    }

    pub(super) fn get(&self, key: &str) -> Option<&Record> {
        self.by_key.get(key)
    }

    /// Appends `record`, on disk when this returns.
    pub(super) fn add(&mut self, record: Record) -> Result<()> {
        let append = || {
            let mut line = serde_json::to_vec(&record)?;
            line.push(b'\n');
            let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            let before = file.metadata()?.len();
            let written = file.write_all(&line).and_then(|()| file.sync_all());
            if written.is_err() {
                // Best effort: the write error is the one to report.
                let _ = file.set_len(before);
            }
            written
        };
        append().map_err(|source| Error::Io { action: "write", path: self.path.clone(), source })?;
        self.by_key.insert(record.key.clone(), record);
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A run of 4 steps.
    pub(in super::super) fn record(key: &str, lr: f64, seed: u64, loss: f64, test: Option<f64>) -> Record {
        let score = |loss: f64| Score { accuracy: 1.0 / (1.0 + loss), loss, examples: 8 };
        let curve = [(2, loss + 0.5), (4, loss)];
        Record {
            key: key.to_owned(),
            method: "activation".into(),
            lr,
            seed,
            steps: 4,
            validation: Some(score(loss)),
            test: test.map(score),
            failure: None,
            images_per_second: Some(100.0),
            skipped: 0,
            curve: curve.map(|(step, loss)| Point { step, loss: Some(loss), accuracy: 0.5 }).to_vec(),
            identity: serde_json::json!({"options": {"lr": lr}}),
        }
    }

    #[test]
    fn what_is_added_is_read_back_and_the_last_line_of_a_key_counts() {
        let folder = tempfile::tempdir().unwrap();
        let mut runs = Runs::open(folder.path()).unwrap();
        let swept = record("a", 0.1 + 0.2, 0, 1.0 / 3.0, None);
        let scored = Record { test: record("a", 0.1, 0, 1.0, Some(2.0)).test, ..swept.clone() };
        let other = record("b", 1e-300, u64::MAX, 2.0, None);
        for record in [&swept, &other, &scored] {
            runs.add(record.clone()).unwrap();
        }
        let again = Runs::open(folder.path()).unwrap();
        assert_eq!(again.get("a"), Some(&scored));
        assert_eq!(again.get("b"), Some(&other));
        assert_eq!(again.get("c"), None);
        assert_eq!(fs::read_to_string(folder.path().join("runs.jsonl")).unwrap().lines().count(), 3);
    }

    #[test]
    fn a_line_cut_short_is_taken_off_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.jsonl");
        let mut runs = Runs::open(folder.path()).unwrap();
        runs.add(record("a", 0.1, 0, 1.0, None)).unwrap();
        let whole = fs::read(&path).unwrap();
        runs.add(record("b", 0.1, 0, 1.0, None)).unwrap();
        let both = fs::read(&path).unwrap();
        for end in whole.len() + 1..both.len() {
            fs::write(&path, &both[..end]).unwrap();
            let mut runs = Runs::open(folder.path()).unwrap();
            assert!(runs.get("a").is_some() && runs.get("b").is_none(), "{end}");
            assert_eq!(fs::read(&path).unwrap(), whole);
            runs.add(record("b", 0.1, 0, 1.0, None)).unwrap();
            assert_eq!(fs::read(&path).unwrap(), both);
        }
    }

    #[test]
    fn a_line_that_is_no_run_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.jsonl");
        for bad in [&b"{}"[..], b"\xff\xfe", b"[[[[", b"null"] {
            let mut runs = Runs { path: path.clone(), by_key: BTreeMap::new() };
            fs::write(&path, b"").unwrap();
            runs.add(record("a", 0.1, 0, 1.0, None)).unwrap();
            fs::write(&path, [&fs::read(&path).unwrap(), bad, b"\n"].concat()).unwrap();
            let message = Runs::open(folder.path()).err().unwrap().to_string();
            assert!(message.contains("runs.jsonl") && message.contains("line 2"), "{message}");
        }
    }
}
