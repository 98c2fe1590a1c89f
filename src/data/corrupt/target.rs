//! The folder a corrupted copy is written to: which folders may be, and the note by which an interrupted run is known.

use super::{Corruption, Kind, Severity};
use crate::data::Format;
use crate::data::dataset::data_error;
use crate::files::write_atomic;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// The note's name.
pub(super) const NOTE: &str = "corrupt.json";

/// What a copy is made of; equal notes mean equal copies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    /// Version of this crate: another one may write other bytes.
    foretune: String,
    kind: Kind,
    severity: Severity,
    seed: u64,
    format: Format,
    /// BLAKE3 of the source's paths and contents, in hexadecimal digits.
    source: String,
}

impl Note {
    pub fn new(corruption: &Corruption, format: Format, source: String) -> Self {
        let Corruption { kind, severity, seed } = *corruption;
        Note { foretune: env!("CARGO_PKG_VERSION").to_owned(), kind, severity, seed, format, source }
    }

    /// Whether the copy that `found` began is the one that this note is of; `source` counts if it is known.
    ///
    /// # Errors
    /// [`Error::Data`] with what is different.
    pub fn continues(&self, found: &Note, out: &Path) -> Result<()> {
        let mut differences = Vec::new();
        let mut compare = |name: &str, found: &dyn ToString, asked: &dyn ToString| {
            let [found, asked] = [found.to_string(), asked.to_string()];
            if found != asked {
                differences.push(format!("{name} {found} there, {asked} asked for"));
            }
        };
        compare("kind", &found.kind, &self.kind);
        compare("severity", &found.severity, &self.severity);
        compare("seed", &found.seed, &self.seed);
        compare("format", &found.format, &self.format);
        compare("version", &found.foretune, &self.foretune);
        if differences.is_empty() && !self.source.is_empty() && found.source != self.source {
            differences.push("the source's files are other ones".to_owned());
        }
        if differences.is_empty() {
            return Ok(());
        }
        let problem = format!(
            "it belongs to another copy: {}; give another folder with --out, or remove this one",
            differences.join(", ")
        );
        Err(data_error(&out.join(NOTE), problem))
    }

    /// Writes the note to `out`, which is made if there is none.
    pub fn claim(&self, out: &Path) -> Result<()> {
        fs::create_dir_all(out).map_err(|source| Error::io("create", out, source))?;
        let path = out.join(NOTE);
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::io("write", &path, error.into()))?;
        write_atomic(&path, |writer| writeln!(writer, "{text}"))
    }
}

/// The note in `out`, or `None` when there is nothing in it.
///
/// # Errors
/// [`Error::Data`] when `out` is a file, or holds something and no note of a copy; [`Error::Io`] when it cannot be read.
pub(super) fn look(out: &Path) -> Result<Option<Note>> {
    let foreign = |problem: &str| Err(data_error(out, format!("{problem}; give another folder with --out")));
    match fs::metadata(out) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::io("open", out, source)),
        Ok(found) if !found.is_dir() => return foreign("this is a file"),
        Ok(_) => {}
    }
    let path = out.join(NOTE);
    match fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(note) => Ok(Some(note)),
            Err(error) => {
                let problem = format!("this is no note of `foretune corrupt`: {error}; give another folder with --out");
                Err(data_error(&path, problem))
            }
        },
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            let mut entries = fs::read_dir(out).map_err(|source| Error::io("list", out, source))?;
            match entries.next() {
                None => Ok(None),
                Some(_) => foreign("this folder is not empty and was not begun by `foretune corrupt`"),
            }
        }
        Err(source) => Err(Error::io("read", &path, source)),
    }
}

/// Refuses folders of which one holds the other.
///
/// # Errors
/// [`Error::Options`] for those; [`Error::Io`] when a path cannot be resolved.
pub(super) fn apart(data: &Path, out: &Path) -> Result<()> {
    let [from, to] = [resolved(data)?, resolved(out)?];
    let (inner, outer) = match (to.starts_with(&from), from.starts_with(&to)) {
        (false, false) => return Ok(()),
        (true, _) => (format!("--out {}", out.display()), format!("--data {}", data.display())),
        _ => (format!("--data {}", data.display()), format!("--out {}", out.display())),
    };
    Err(Error::Options(format!("{inner} lies within {outer}; give a folder beside the data set")))
}

/// `path` without links; what of it does not exist yet is taken as it is written.
fn resolved(path: &Path) -> Result<PathBuf> {
    let fail = |source| Error::io("open", path, source);
    let whole = std::path::absolute(path).map_err(fail)?;
    for known in whole.ancestors() {
        let Ok(mut resolved) = known.canonicalize() else { continue };
        for part in whole.strip_prefix(known).unwrap_or(Path::new("")).components() {
            match part {
                Component::ParentDir => drop(resolved.pop()),
                part => resolved.push(part),
            }
        }
        return Ok(resolved);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_within_each_other_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("data/images")).unwrap();
        for out in ["data", "data/out", "data/images/../new", "", "beside/../data/x", "."] {
            let error = apart(&at("data"), &at(out)).expect_err(out);
            assert!(error.is_usage() && error.to_string().contains("lies within"), "{out}: {error}");
        }
        for out in ["out", "data2", "data/../out", "new/deep/er"] {
            apart(&at("data"), &at(out)).expect(out);
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("data/images"), at("link")).unwrap();
            assert!(apart(&at("data"), &at("link/out")).unwrap_err().is_usage());
        }
    }

    #[test]
    fn only_absent_empty_and_own_folders_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        assert_eq!(look(&out).unwrap(), None);
        let corruption = super::super::tests::corruption(Kind::Fog, 2);
        let note = Note::new(&corruption, Format::Cub, "ab".into());
        note.claim(&out).unwrap();
        assert_eq!(look(&out).unwrap(), Some(note.clone()));
        note.continues(&note, &out).unwrap();

        let other = Corruption { kind: Kind::Jpeg, seed: 9, ..corruption };
        let message = Note::new(&other, Format::Cub, String::new()).continues(&note, &out).unwrap_err().to_string();
        for part in ["corrupt.json", "kind fog there, jpeg asked for", "seed 7 there, 9 asked for", "--out"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(!message.contains("severity"), "{message}");
        Note::new(&corruption, Format::Cub, String::new()).continues(&note, &out).unwrap();
        let moved = Note::new(&corruption, Format::Cub, "cd".into()).continues(&note, &out).unwrap_err();
        assert!(moved.to_string().contains("source's files"), "{moved}");

        fs::write(out.join(NOTE), "{\"mine\": 1}").unwrap();
        fs::create_dir(folder.path().join("foreign")).unwrap();
        fs::write(folder.path().join("foreign/notes.txt"), "").unwrap();
        for path in ["out", "foreign", "foreign/notes.txt"] {
            let error = look(&folder.path().join(path)).unwrap_err();
            assert!(matches!(error, Error::Data { .. }) && error.to_string().contains("--out"), "{path}: {error}");
        }
    }
}
