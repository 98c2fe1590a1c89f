//! Stanford Dogs.

use super::cars::{label, read, variable};
use super::dataset::{Item, Listing, Problem, Split, data_error};
use super::mat::Value;
use crate::Result;
use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Breeds of the whole set.
const BREEDS: usize = 120;

/// Lists the set at `root`; the lists may lie in `lists/`.
pub(super) fn list(root: &Path, boxes: bool) -> Result<Listing> {
    let find = |name: &str| [root.join(name), root.join("lists").join(name)].into_iter().find(|path| path.is_file());
    let folder = ["Images", "images"].into_iter().map(|name| root.join(name)).find(|path| path.is_dir());
    let folder = folder.ok_or_else(|| {
        data_error(root, "there is no folder Images, which the dogs format needs; unpack images.tar here")
    })?;
    let mut rows = Vec::new();
    for (name, split) in [("train_list.mat", Split::Train), ("test_list.mat", Split::Test)] {
        let Some(path) = find(name) else {
            log::warn!("{}: there is no {name} here or in lists/: its images are left out", root.display());
            continue;
        };
        let variables = read(&path)?;
        let texts = |name| variable(&variables, name).and_then(Value::texts);
        let files = texts("file_list").ok_or_else(|| data_error(&path, "it has no cell array of text `file_list`"))?;
        let Some(Value::Numbers(labels)) = variable(&variables, "labels") else {
            return Err(data_error(&path, "it has no numbers `labels`; use the data set's original file"));
        };
        if labels.len() != files.len() {
            let problem =
                format!("{} labels for {} files; use the data set's original file", labels.len(), files.len());
            return Err(data_error(&path, problem));
        }
        rows.extend(files.into_iter().zip(labels).map(|(file, &label)| (file.to_owned(), label, split)));
    }
    if rows.is_empty() {
        return Err(data_error(root, "neither train_list.mat nor test_list.mat, here or in lists/, lists any image"));
    }
    let folders: HashSet<&str> = rows.iter().map(|(file, ..)| breed(file)).collect();
    let most = folders.len().max(BREEDS);
    let mut listing = Listing::default();
    for (file, class, split) in &rows {
        let path = folder.join(file);
        let item = label(*class, most).and_then(|label| {
            let crop = if boxes { Some(annotated_box(root, file)?) } else { None };
            Ok((label, crop))
        });
        match item {
            Ok((label, crop)) => {
                // The lists name breeds only by their folders; in a subset some labels may never occur.
                for class in listing.classes.len()..=label as usize {
                    listing.classes.push(format!("class {}", class + 1));
                }
                listing.classes[label as usize] = breed(file).to_owned();
                listing.items.push(Item { path, label, split: *split, crop });
            }
            Err(what) => listing.problems.push(Problem::new(path, what)),
        }
    }
    Ok(listing)
}

fn breed(file: &str) -> &str {
    file.split_once('/').map_or(file, |(folder, _)| folder)
}

/// The first dog's box in `Annotation/<breed>/<image>`, an XML file in PASCAL VOC's manner.
fn annotated_box(root: &Path, file: &str) -> Result<[f32; 4], String> {
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let path = root.join("Annotation").join(stem);
    let text = fs::read_to_string(&path)
        .map_err(|source| format!("its box cannot be read from {}: {source}", path.display()))?;
    let number = |tag: &str| -> Option<f32> {
        let (_, rest) = text.split_once("<bndbox>")?;
        let (_, rest) = rest.split_once(&format!("<{tag}>"))?;
        rest.split_once('<')?.0.trim().parse().ok()
    };
    match ["xmin", "ymin", "xmax", "ymax"].map(number) {
        [Some(x0), Some(y0), Some(x1), Some(y1)] => Ok([x0, y0, x1 - x0, y1 - y0]),
        _ => Err(format!("{} has no complete <bndbox>", path.display())),
    }
}
