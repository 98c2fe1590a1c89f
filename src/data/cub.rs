//! CUB-200-2011.

use super::dataset::{Item, Listing, Problem, Split, data_error};
use crate::{Error, Result};
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Lists the set at `root`, or in its subfolder `CUB_200_2011`.
pub(super) fn list(root: &Path, boxes: bool) -> Result<Listing> {
    let inner = root.join("CUB_200_2011");
    let root = if !root.join("images.txt").exists() && inner.join("images.txt").exists() { &inner } else { root };
    let names = Table::read(root, "classes.txt")?;
    // Ids need not be 1..=N in a subset: a class's label is its place in the list.
    let mut labels = HashMap::new();
    for (label, (id, _)) in names.rows().enumerate() {
        if labels.insert(id, label as u32).is_some() {
            return Err(names.error(format!("class {id} is listed twice; correct the file")));
        }
    }
    let images = Table::read(root, "images.txt")?;
    let class_table = Table::read(root, "image_class_labels.txt")?;
    let split_table = Table::read(root, "train_test_split.txt")?;
    let (class_of, split_of) = (class_table.by_id(), split_table.by_id());
    let box_table = if boxes { Some(Table::read(root, "bounding_boxes.txt")?) } else { None };
    let box_of = box_table.as_ref().map(Table::by_id);

    let folder = root.join("images");
    let mut listing = Listing {
        classes: names.rows().map(|(_, name)| name.to_owned()).collect(),
        declared: true,
        ..Listing::default()
    };
    for (id, file) in images.rows() {
        let path = folder.join(file);
        let item = (|| {
            let class = class_of.get(id).ok_or("has no line in image_class_labels.txt")?;
            let label = *labels.get(class).ok_or_else(|| {
                format!("has class {class} in image_class_labels.txt, which classes.txt does not list")
            })?;
            let split = match *split_of.get(id).ok_or("has no line in train_test_split.txt")? {
                "1" => Split::Train,
                "0" => Split::Test,
                other => return Err(format!("has `{other}` in train_test_split.txt; 1 (train) or 0 (test) expected")),
            };
            let crop = match &box_of {
                None => None,
                Some(box_of) => {
                    let text = box_of.get(id).ok_or("has no line in bounding_boxes.txt")?;
                    let numbers: Vec<f32> = text.split_ascii_whitespace().map_while(|n| n.parse().ok()).collect();
                    Some(
                        numbers
                            .try_into()
                            .map_err(|_| format!("has `{text}` in bounding_boxes.txt; x y w h expected"))?,
                    )
                }
            };
            Ok(Item { path: path.clone(), label, split, crop })
        })();
        match item {
            Ok(item) => listing.items.push(item),
            Err::<_, String>(what) => listing.problems.push(Problem::new(&path, what)),
        }
    }
    Ok(listing)
}

/// A text file of lines `id value`.
struct Table {
    path: std::path::PathBuf,
    text: String,
}

impl Table {
    fn read(root: &Path, name: &str) -> Result<Table> {
        let path = root.join(name);
        let bytes = fs::read(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => data_error(
                root,
                format!("there is no {name}, which the cub format needs; give the folder CUB_200_2011"),
            ),
            _ => Error::io("read", &path, source),
        })?;
        let text =
            String::from_utf8(bytes).map_err(|_| data_error(&path, "this is not UTF-8 text; unpack the set anew"))?;
        let table = Table { path, text };
        for (number, line) in table.text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            if split_line(line).is_none() {
                return Err(table.error(format!("line {}: `{line}` is not `id value`; correct it", number + 1)));
            }
        }
        Ok(table)
    }

    fn rows(&self) -> impl Iterator<Item = (&str, &str)> {
        self.text.lines().filter_map(split_line)
    }

    fn by_id(&self) -> HashMap<&str, &str> {
        self.rows().collect()
    }

    fn error(&self, problem: String) -> Error {
        data_error(&self.path, problem)
    }
}

fn split_line(line: &str) -> Option<(&str, &str)> {
    let (id, value) = line.trim().split_once(char::is_whitespace)?;
    Some((id, value.trim_start()))
}
