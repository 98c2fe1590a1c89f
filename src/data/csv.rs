//! A table `path,label[,split]`, with or without a header.

use super::dataset::{Item, Listing, Problem, Split, data_error};
use crate::Result;
use ::csv::{ReaderBuilder, StringRecord, Trim};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Largest integer label.
const MAX_LABEL: i64 = 999_999;
const PATHS: [&str; 8] = ["path", "file", "filename", "file_name", "filepath", "image", "image_path", "img"];
const LABELS: [&str; 6] = ["label", "labels", "class", "class_id", "class_name", "target"];
const SPLITS: [&str; 4] = ["split", "subset", "set", "partition"];
/// Tables preferred where a folder holds several.
const NAMES: [&str; 6] = ["split.csv", "labels.csv", "dataset.csv", "annotations.csv", "data.csv", "index.csv"];

struct Row {
    path: PathBuf,
    label: String,
    split: Split,
}

/// Lists the table at `root`, or the table or tables in the folder `root`.
pub(super) fn list(root: &Path) -> Result<Listing> {
    let mut listing = Listing::default();
    let mut rows = Vec::new();
    for (table, split) in tables(root)? {
        read(&table, split, &mut rows, &mut listing.problems)?;
    }
    // Integers are labels as they stand; anything else makes all of them names, numbered in alphabetical order.
    let integers: Option<Vec<i64>> = rows.iter().map(|row| row.label.parse().ok()).collect();
    let labels: Vec<i64> = match integers {
        Some(integers) => {
            let used: BTreeSet<i64> =
                integers.iter().copied().filter(|label| (0..=MAX_LABEL).contains(label)).collect();
            listing.classes = (0..used.last().map_or(0, |last| last + 1)).map(|class| class.to_string()).collect();
            if used.len() < listing.classes.len() {
                log::warn!(
                    "{}: integer labels start at 0; {} of {} classes have no images",
                    root.display(),
                    listing.classes.len() - used.len(),
                    listing.classes.len()
                );
            }
            integers
        }
        None => {
            let mut names: BTreeMap<&str, i64> = rows.iter().map(|row| (row.label.as_str(), 0)).collect();
            for (label, number) in names.values_mut().zip(0..) {
                *label = number;
            }
            listing.classes = names.keys().map(|&name| name.to_owned()).collect();
            rows.iter().map(|row| names[row.label.as_str()]).collect()
        }
    };
    for (row, label) in rows.into_iter().zip(labels) {
        if (0..=MAX_LABEL).contains(&label) {
            listing.items.push(Item { path: row.path, label: label as u32, split: row.split, crop: None });
        } else {
            listing.problems.push(Problem::new(row.path, format!("has label {label}, outside 0..={MAX_LABEL}")));
        }
    }
    Ok(listing)
}

/// The tables of a set, and the split of their rows where they have no column for it.
fn tables(root: &Path) -> Result<Vec<(PathBuf, Split)>> {
    if root.is_file() {
        return Ok(vec![(root.to_owned(), Split::Train)]);
    }
    let entries = fs::read_dir(root).map_err(|source| crate::Error::io("list", root, source))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) && path.is_file()
        })
        .collect();
    found.sort();
    let named = |name: &str| found.iter().find(|path| path.file_name().is_some_and(|file| file == name)).cloned();
    let preferred: Vec<PathBuf> = NAMES.into_iter().filter_map(named).collect();
    match (found.as_slice(), preferred.as_slice()) {
        ([only], _) | (_, [only]) => return Ok(vec![(only.clone(), Split::Train)]),
        _ => {}
    }
    let parts =
        [("train.csv", Split::Train), ("val.csv", Split::Val), ("valid.csv", Split::Val), ("test.csv", Split::Test)];
    let parts: Vec<_> = parts.into_iter().filter_map(|(name, split)| Some((named(name)?, split))).collect();
    if preferred.is_empty() && parts.iter().any(|(_, split)| *split == Split::Train) {
        return Ok(parts);
    }
    let problem = if found.is_empty() {
        "there is no .csv file; give a table path,label[,split] or the folder that holds it".to_owned()
    } else {
        let names: Vec<_> =
            found.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy()).collect();
        format!("there are several .csv files ({}); give the one that lists the images", names.join(", "))
    };
    Err(data_error(root, problem))
}

fn read(table: &Path, default: Split, rows: &mut Vec<Row>, problems: &mut Vec<Problem>) -> Result<()> {
    let folder = table.parent().unwrap_or(Path::new(""));
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(Trim::All)
        .from_path(table)
        .map_err(|error| data_error(table, format!("cannot be read: {error}")))?;
    let mut columns = None;
    for record in reader.records() {
        let record = record.map_err(|error| data_error(table, format!("{error}; save the table as UTF-8 CSV")))?;
        let line = record.position().map_or(0, |position| position.line());
        let (path, label, split) = match columns {
            Some(columns) => columns,
            None => {
                let header = header(&record);
                let found = *columns.insert(header.unwrap_or((0, 1, Some(2))));
                if header.is_some() {
                    continue;
                }
                found
            }
        };
        if record.iter().all(str::is_empty) {
            continue;
        }
        let (Some(file), Some(label)) = (record.get(path), record.get(label)) else {
            let what = format!("line {line} has {} columns; path and label expected", record.len());
            problems.push(Problem::new(table, what));
            continue;
        };
        if file.is_empty() || label.is_empty() {
            problems.push(Problem::new(table, format!("line {line} lacks a path or a label")));
            continue;
        }
        let path = folder.join(file);
        let split = match split.and_then(|split| record.get(split)).map(str::to_ascii_lowercase).as_deref() {
            None | Some("") => default,
            Some("train" | "training") => Split::Train,
            Some("val" | "valid" | "validation" | "dev") => Split::Val,
            Some("test" | "testing") => Split::Test,
            Some(other) => {
                problems.push(Problem::new(
                    path,
                    format!("has split `{other}` in line {line}; train, val or test expected"),
                ));
                continue;
            }
        };
        rows.push(Row { path, label: label.to_owned(), split });
    }
    Ok(())
}

/// The columns of path, label and split, if `record` names them.
fn header(record: &StringRecord) -> Option<(usize, usize, Option<usize>)> {
    let find = |names: &[&str]| {
        record.iter().position(|cell| {
            let cell = cell.trim_start_matches('\u{feff}').to_ascii_lowercase();
            names.contains(&cell.as_str())
        })
    };
    Some((find(&PATHS)?, find(&LABELS)?, find(&SPLITS)))
}
