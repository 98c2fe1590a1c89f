//! Stanford Cars: the devkit with `cars_train/` and `cars_test/`, or the older single archive with `car_ims/`.

use super::dataset::{Item, Listing, Problem, Split, data_error};
use super::mat::{self, Struct, Value};
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

const TRAIN: &str = "cars_train_annos.mat";
const TEST: &str = "cars_test_annos_withlabels.mat";
const TEST_UNLABELLED: &str = "cars_test_annos.mat";
const META: &str = "cars_meta.mat";
const ALL: &str = "cars_annos.mat";
/// Where the annotations lie, by how the archives were unpacked.
const FOLDERS: [&str; 3] = ["", "devkit", "car_devkit/devkit"];

/// Lists the set at `root`.
pub(super) fn list(root: &Path, boxes: bool) -> Result<Listing> {
    let find = |name: &str| FOLDERS.iter().map(|folder| root.join(folder).join(name)).find(|path| path.is_file());
    let mut listing = Listing { declared: true, ..Listing::default() };
    let (train, test) = (find(TRAIN), find(TEST));
    if train.is_none() && test.is_none() {
        let Some(path) = find(ALL) else {
            return Err(data_error(
                root,
                format!(
                    "neither {TRAIN} nor {ALL} is here or in devkit/; give the folder that holds cars_train/ and devkit/, \
                     or car_ims/ and {ALL}"
                ),
            ));
        };
        let variables = read(&path)?;
        listing.classes = class_names(&path, &variables)?;
        let file = Annotations { path, fields: ["relative_im_path", "test"], folder: root.to_owned(), split: None };
        file.list(&variables, boxes, &mut listing)?;
        return Ok(listing);
    }
    let meta = find(META).ok_or_else(|| {
        data_error(
            root,
            format!("there is no {META} here or in devkit/; it holds the class names, copy it from the devkit"),
        )
    })?;
    listing.classes = class_names(&meta, &read(&meta)?)?;
    if test.is_none() {
        let found = if find(TEST_UNLABELLED).is_some() { "holds no labels" } else { "is not there either" };
        log::warn!("{}: no {TEST}, and {TEST_UNLABELLED} {found}: there are no test images", root.display());
    }
    for (path, folder, split) in [(train, "cars_train", Split::Train), (test, "cars_test", Split::Test)] {
        if let Some(path) = path {
            let variables = read(&path)?;
            let file = Annotations { path, fields: ["fname", ""], folder: root.join(folder), split: Some(split) };
            file.list(&variables, boxes, &mut listing)?;
        }
    }
    Ok(listing)
}

struct Annotations {
    path: PathBuf,
    /// Field with the file name, and field that is not 0 for test images.
    fields: [&'static str; 2],
    /// What file names are relative to.
    folder: PathBuf,
    /// The split of all images; by the second field where `None`.
    split: Option<Split>,
}

impl Annotations {
    fn list(&self, variables: &[(String, Value)], boxes: bool, listing: &mut Listing) -> Result<()> {
        let Some(Value::Struct(annotations)) = variable(variables, "annotations") else {
            return Err(data_error(&self.path, "it has no struct `annotations`; use the data set's original file"));
        };
        for element in 0..annotations.len() {
            let Some(name) = annotations.get(element, self.fields[0]).and_then(Value::text) else {
                let what = format!("annotation {} has no text `{}`", element + 1, self.fields[0]);
                listing.problems.push(Problem::new(&self.path, what));
                continue;
            };
            let path = self.folder.join(name);
            match self.item(annotations, element, boxes, listing.classes.len()) {
                Ok((label, split, crop)) => listing.items.push(Item { path, label, split, crop }),
                Err(what) => listing.problems.push(Problem::new(path, what)),
            }
        }
        Ok(())
    }

    #[allow(clippy::type_complexity)]
    fn item(
        &self,
        annotations: &Struct,
        element: usize,
        boxes: bool,
        classes: usize,
    ) -> Result<(u32, Split, Option<[f32; 4]>), String> {
        let file = self.path.file_name().unwrap_or_default().to_string_lossy();
        let number = |field: &str| {
            let value = annotations.get(element, field).and_then(Value::number);
            value.ok_or_else(|| format!("has no number `{field}` in {file}"))
        };
        let label = label(number("class")?, classes).map_err(|what| format!("{what} in {file}"))?;
        let split = match self.split {
            Some(split) => split,
            None if number(self.fields[1])? == 0.0 => Split::Train,
            None => Split::Test,
        };
        let crop = if boxes {
            let [x1, y1] = [number("bbox_x1")?, number("bbox_y1")?];
            let [x2, y2] = [number("bbox_x2")?, number("bbox_y2")?];
            // MATLAB's pixels start at 1, and both corners belong to the box.
            Some([x1 - 1.0, y1 - 1.0, x2 - x1 + 1.0, y2 - y1 + 1.0].map(|side| side as f32))
        } else {
            None
        };
        Ok((label, split, crop))
    }
}

/// A class number, from 1 in the file, as a label.
pub(super) fn label(class: f64, classes: usize) -> Result<u32, String> {
    if class.fract() == 0.0 && (1.0..=classes as f64).contains(&class) {
        Ok(class as u32 - 1)
    } else {
        Err(format!("has class {class}, outside 1..={classes},"))
    }
}

/// Reads a `.mat` file.
pub(super) fn read(path: &Path) -> Result<Vec<(String, Value)>> {
    let bytes = fs::read(path).map_err(|source| Error::io("read", path, source))?;
    mat::parse(&bytes).map_err(|problem| data_error(path, problem))
}

/// A variable of a file.
pub(super) fn variable<'a>(variables: &'a [(String, Value)], name: &str) -> Option<&'a Value> {
    variables.iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

fn class_names(path: &Path, variables: &[(String, Value)]) -> Result<Vec<String>> {
    let names = variable(variables, "class_names").and_then(Value::texts);
    let names =
        names.ok_or_else(|| data_error(path, "it has no cell array of text `class_names`; use the original file"))?;
    Ok(names.into_iter().map(str::to_owned).collect())
}
