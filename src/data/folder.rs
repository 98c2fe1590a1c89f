//! One folder per class, perhaps within a folder per split.

use super::dataset::{Item, Listing, Problem, Split, data_error};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Folders within a class that are followed; links could make a circle.
const DEPTH: usize = 8;
const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp"];

/// Lists `root/<class>/…` or `root/<split>/<class>/…`.
pub(super) fn list(root: &Path) -> Result<Listing> {
    let entries = sorted(root)?;
    let folders: Vec<&PathBuf> = entries.iter().filter(|path| path.is_dir()).collect();
    let splits: Option<Vec<Split>> = folders.iter().map(|path| split(&name(path))).collect();
    let parts: Vec<(&Path, Split)> = match &splits {
        // A single class may be called `train`: only folders of folders are splits.
        Some(splits) if !folders.is_empty() && folders.iter().all(|folder| has_folder(folder)) => {
            folders.iter().map(|folder| folder.as_path()).zip(splits.iter().copied()).collect()
        }
        _ => vec![(root, Split::Train)],
    };
    let mut found: BTreeMap<String, Vec<(Split, PathBuf)>> = BTreeMap::new();
    let mut ignored = 0;
    let mut loose = 0;
    for (part, split) in parts {
        for entry in sorted(part)? {
            if entry.is_dir() {
                let images = found.entry(name(&entry)).or_default();
                walk(&entry, DEPTH, &mut |path| images.push((split, path)), &mut ignored)?;
            } else {
                loose += usize::from(is_image(&entry));
            }
        }
    }
    if found.is_empty() {
        let hint = if loose > 0 { "there are images, but no folder per class" } else { "there are no class folders" };
        return Err(data_error(root, format!("{hint}; the folder format needs <class>/<image> below it")));
    }
    // One class cannot be tuned on; the data set's own folder of images is taken for it.
    if let [folder] = folders.as_slice()
        && found.len() == 1
        && sorted(folder)?.iter().filter(|entry| entry.is_dir()).count() > 1
        && !sorted(folder)?.iter().any(|entry| is_image(entry))
    {
        let folder = folder.display();
        return Err(data_error(root, format!("its only folder holds folders, not images; give {folder} instead")));
    }
    if ignored + loose > 0 {
        log::warn!(
            "{}: {} files ignored: outside class folders, or neither JPEG, PNG nor WebP by their names",
            root.display(),
            ignored + loose
        );
    }
    let mut listing = Listing { classes: found.keys().cloned().collect(), declared: true, ..Listing::default() };
    for (label, images) in found.into_values().enumerate() {
        listing.items.extend(images.into_iter().map(|(split, path)| Item {
            path,
            label: label as u32,
            split,
            crop: None,
        }));
    }
    // Two folders whose names differ only in what cannot be shown as text would be one class.
    let shown: BTreeSet<_> =
        listing.classes.iter().filter(|class| class.contains(char::REPLACEMENT_CHARACTER)).collect();
    listing
        .problems
        .extend(shown.into_iter().map(|class| Problem::new(root.join(class), "the folder's name is not UTF-8")));
    Ok(listing)
}

fn split(name: &str) -> Option<Split> {
    match name.to_ascii_lowercase().as_str() {
        "train" | "training" => Some(Split::Train),
        "val" | "valid" | "validation" => Some(Split::Val),
        "test" | "testing" => Some(Split::Test),
        _ => None,
    }
}

fn has_folder(path: &Path) -> bool {
    sorted(path).is_ok_and(|entries| entries.iter().any(|entry| entry.is_dir()))
}

fn walk(folder: &Path, depth: usize, found: &mut dyn FnMut(PathBuf), ignored: &mut usize) -> Result<()> {
    for entry in sorted(folder)? {
        if entry.is_dir() {
            if depth == 0 {
                return Err(data_error(&entry, format!("more than {DEPTH} folders deep; is there a circle of links?")));
            }
            walk(&entry, depth - 1, found, ignored)?;
        } else if is_image(&entry) {
            found(entry);
        } else {
            *ignored += 1;
        }
    }
    Ok(())
}

/// The entries of a folder by name, without hidden ones.
pub(super) fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let fail = |source| Error::io("list", folder, source);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            entries.push(entry.path());
        }
    }
    entries.sort();
    Ok(entries)
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether the name is that of an image this crate reads.
pub(super) fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}
