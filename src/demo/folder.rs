//! The folder a demo writes: which folders may be written to, and where things lie in it.

use super::cub::{Subset, write_cub};
use super::{CONFIG, WEIGHTS};
use crate::files::write_atomic;
use crate::{Error, Result};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The first line of `README.txt`, by which a demo's own folder is known.
const MARK: &str = "Written by `foretune demo`; it may be overwritten by the next one.\n";

const README: &str = "
clean/      drawn images, as the model was trained on, in the layout of CUB-200-2011
shifted/    the test images of clean/ with low contrast, a colour cast and noise, and training images of that kind
model/      the frozen model: a small ViT of timm's kind, made by models/train.py of Foretune's sources
adapter.safetensors
            the prompts tuned on shifted/; absent until the demo is done
";

/// Images per class in `shifted/` for tuning, validation included.
pub const TRAIN_PER_CLASS: u32 = 40;
/// Test images per class in `clean/` and `shifted/`: the same scenes.
pub const TEST_PER_CLASS: u32 = 50;

/// A folder that is the demo's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Makes `root` the demo's, or takes the one of an earlier demo, whose adapter is removed.
    ///
    /// # Errors
    /// [`Error::Data`] when `root` is a file or holds anything that no demo wrote; [`Error::Io`] when it cannot be written.
    pub fn claim(root: &Path) -> Result<Self> {
        let foreign = |problem: &str| {
            let problem = format!("{problem}; give another folder with --out");
            Err(Error::Data { path: root.to_owned(), problem })
        };
        let folder = Folder { root: root.to_owned() };
        match fs::metadata(root) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(root).map_err(|source| Error::io("create", root, source))?;
            }
            Err(source) => return Err(Error::io("open", root, source)),
            Ok(found) if !found.is_dir() => return foreign("this is a file"),
            Ok(_) => {
                let mut entries = fs::read_dir(root).map_err(|source| Error::io("list", root, source))?;
                if entries.next().is_some() && !folder.is_marked() {
                    return foreign("this folder is not empty and was not written by `foretune demo`");
                }
            }
        }
        let text = MARK.to_owned() + README;
        write_atomic(&folder.readme(), |writer| writer.write_all(text.as_bytes()))?;
        remove(&folder.adapter())?;
        Ok(folder)
    }

    fn is_marked(&self) -> bool {
        let mut start = Vec::new();
        let read = fs::File::open(self.readme()).and_then(|file| file.take(MARK.len() as u64).read_to_end(&mut start));
        read.is_ok() && start == MARK.as_bytes()
    }

    /// Writes the model and both image sets of `seed`.
    ///
    /// # Errors
    /// [`Error::Io`] when something cannot be written.
    pub fn write(&self, seed: u64) -> Result<()> {
        let model = self.model();
        fs::create_dir_all(&model).map_err(|source| Error::io("create", &model, source))?;
        write_atomic(&model.join("model.safetensors"), |writer| writer.write_all(WEIGHTS))?;
        write_atomic(&model.join("config.json"), |writer| writer.write_all(CONFIG))?;
        let train = Subset { set: 2, per_class: TRAIN_PER_CLASS, train: true };
        let test = Subset { set: 3, per_class: TEST_PER_CLASS, train: false };
        write_cub(&self.clean(), seed, &[test], false)?;
        write_cub(&self.shifted(), seed, &[train, test], true)
    }

    fn readme(&self) -> PathBuf {
        self.root.join("README.txt")
    }

    /// The frozen model's folder.
    pub fn model(&self) -> PathBuf {
        self.root.join("model")
    }

    /// Test images as drawn.
    pub fn clean(&self) -> PathBuf {
        self.root.join("clean")
    }

    /// Training and test images under the shift.
    pub fn shifted(&self) -> PathBuf {
        self.root.join("shifted")
    }

    /// The tuned adapter.
    pub fn adapter(&self) -> PathBuf {
        self.root.join("adapter.safetensors")
    }
}

/// Removes the file at `path` if there is one.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, source)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absent_empty_and_own_folders_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("new/inner");
        for _ in 0..2 {
            let claimed = Folder::claim(&own).unwrap();
            fs::write(claimed.adapter(), "stale").unwrap();
        }
        assert!(!Folder::claim(&own).unwrap().adapter().exists());

        let foreign = folder.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        Folder::claim(&foreign).unwrap();
        fs::write(foreign.join("README.txt"), "My birds\n").unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [&foreign, &file] {
            let error = Folder::claim(path).unwrap_err();
            assert!(matches!(error, Error::Data { .. }), "{error}");
            let message = error.to_string();
            assert!(message.contains(path.to_str().unwrap()) && message.contains("--out"), "{message}");
        }
        assert_eq!(fs::read_to_string(foreign.join("README.txt")).unwrap(), "My birds\n");
    }
}
