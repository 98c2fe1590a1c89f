//! What a copy of a data set consists of.

use super::target::NOTE;
use crate::Result;
use crate::data::dataset::{Dataset, data_error};
use crate::data::folder::{is_image, sorted};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// Folders within folders that are followed; links could make a circle.
const DEPTH: usize = 32;

/// Paths relative to `base`.
pub(super) struct Plan {
    pub base: PathBuf,
    /// Listed images, without repetitions, in the order of their paths.
    pub images: Vec<PathBuf>,
    /// What is copied as it is, in the order of its paths.
    pub files: Vec<PathBuf>,
    /// Images that are not listed.
    pub unlisted: usize,
}

impl Plan {
    /// The plan of a copy of `dataset`.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) when an image lies elsewhere, [`Error::Io`](crate::Error::Io) when a folder cannot be
    /// listed.
    pub fn new(dataset: &Dataset) -> Result<Plan> {
        let root = &dataset.root;
        // A table by itself, whose paths are relative to its folder.
        let table = root.is_file().then(|| root.file_name().map(PathBuf::from)).flatten();
        let base = match &table {
            Some(_) => root.parent().unwrap_or(Path::new("")).to_owned(),
            None => root.clone(),
        };
        let mut images = BTreeSet::new();
        for item in dataset.items.iter() {
            images.insert(relative(&item.path, &base)?);
        }
        let (mut files, mut unlisted) = (Vec::new(), 0);
        match table {
            Some(table) => files.push(table),
            None => walk(&base, DEPTH, &mut |path| {
                let path = relative(&path, &base)?;
                // The note is that of the copy, should the source be one too.
                if images.contains(&path) || path == Path::new(NOTE) {
                } else if is_image(&path) {
                    unlisted += 1;
                } else {
                    files.push(path);
                }
                Ok(())
            })?,
        }
        files.sort();
        Ok(Plan { base, images: images.into_iter().collect(), files, unlisted })
    }
}

/// `path` from `base` on.
fn relative(path: &Path, base: &Path) -> Result<PathBuf> {
    let here = |part: &Component| *part == Component::CurDir;
    let rest = path.strip_prefix(base).ok();
    let rest = rest.map(|rest| rest.components().filter(|part| !here(part)).collect::<PathBuf>());
    match rest {
        Some(rest) if rest.components().all(|part| matches!(part, Component::Normal(_))) => Ok(rest),
        _ => {
            let base = if base.as_os_str().is_empty() { Path::new(".") } else { base };
            let problem = format!(
                "it lies outside the data set's folder {}, and so has no place in a copy; move it there, or list it by a path \
                 without `..` that is relative to the list",
                base.display()
            );
            Err(data_error(path, problem))
        }
    }
}

/// Every regular file below `folder` that is not hidden.
fn walk(folder: &Path, depth: usize, visit: &mut dyn FnMut(PathBuf) -> Result<()>) -> Result<()> {
    for entry in sorted(folder)? {
        if entry.is_dir() {
            if depth == 0 {
                return Err(data_error(&entry, format!("more than {DEPTH} folders deep; is there a circle of links?")));
            }
            walk(&entry, depth - 1, visit)?;
        } else if entry.is_file() {
            visit(entry)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn paths_in_a_copy_are_the_sources() {
        for (path, base) in [("./a/b.png", ""), ("a/b.png", ""), ("data/./a/b.png", "data"), ("./a//b.png", ".")] {
            assert_eq!(relative(path.as_ref(), base.as_ref()).expect(path), Path::new("a/b.png"), "{path}");
        }
        for (path, base) in [("/a/b.png", ""), ("data/../b.png", "data"), ("../b.png", ""), ("other/b.png", "data")] {
            let error = relative(path.as_ref(), base.as_ref()).expect_err(path);
            assert!(matches!(error, Error::Data { .. }) && error.to_string().contains(path), "{error}");
        }
    }
}
