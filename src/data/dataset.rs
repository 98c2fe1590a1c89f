//! Data sets on disk, whatever their layout: classes, images, splits, and what is wrong with them.

use super::{cars, csv, cub, decode, dogs, folder, parallel};
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Layout of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// CUB-200-2011: `images.txt`, `image_class_labels.txt`, `train_test_split.txt`, `classes.txt`, `images/`.
    Cub,
    /// Stanford Cars: the devkit's `.mat` files with `cars_train/`, `cars_test/`, or `cars_annos.mat` with `car_ims/`.
    Cars,
    /// Stanford Dogs: `train_list.mat`, `test_list.mat` (perhaps in `lists/`), `Images/`.
    Dogs,
    /// One folder per class, perhaps within `train/`, `val/`, `test/`.
    Folder,
    /// A table `path,label[,split]`.
    Csv,
}

const FORMATS: [(&str, Format); 5] = [
    ("cub", Format::Cub),
    ("cars", Format::Cars),
    ("dogs", Format::Dogs),
    ("folder", Format::Folder),
    ("csv", Format::Csv),
];

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        FORMATS.iter().find(|(known, _)| *known == name).map(|&(_, format)| format).ok_or_else(|| {
            Error::Options(format!("unknown data set format `{name}`; use one of cub, cars, dogs, folder, csv"))
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = FORMATS.iter().find(|(_, format)| format == self).map_or("", |(name, _)| name);
        f.pad(name)
    }
}

/// What an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Tuning.
    Train,
    /// Choosing the best checkpoint.
    Val,
    /// The final figure.
    Test,
}

/// One labelled image.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The file.
    pub path: PathBuf,
    /// Class, from 0.
    pub label: u32,
    /// What it is for.
    pub split: Split,
    /// Box to crop to: x, y, width, height, in the stored file's pixels.
    pub crop: Option<[f32; 4]>,
}

/// Something wrong with a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The image, class folder or annotation file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

impl Problem {
    pub(super) fn new(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Problem { path: path.into(), what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

/// How a data set is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Crop images to the boxes that CUB, Cars and Dogs come with.
    pub crop_boxes: bool,
    /// Continue without what is absent, unreadable or mislabelled.
    pub skip_bad: bool,
}

/// A labelled set of images. Items keep the order of the annotation file (`folder`: sorted by class and path).
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// What was opened.
    pub root: PathBuf,
    /// Its layout.
    pub format: Format,
    /// Class names; an item's label is an index into them.
    pub classes: Vec<String>,
    /// Images.
    pub items: Arc<[Item]>,
    /// What was left out with `skip_bad`. Classes without training images stay in `classes`, so that labels remain the
    /// data set's own.
    pub problems: Vec<Problem>,
}

/// What a format's reader hands over, before files are looked at.
#[derive(Default)]
pub(super) struct Listing {
    pub classes: Vec<String>,
    /// Whether the set declares its classes, so that one that no image uses is a fault.
    pub declared: bool,
    pub items: Vec<Item>,
    pub problems: Vec<Problem>,
}

impl Listing {
    fn read(root: &Path, format: Format, options: &OpenOptions) -> Result<Listing> {
        if let Err(source) = root.metadata() {
            return Err(Error::io("open", root, source));
        }
        if !root.is_dir() && format != Format::Csv {
            return Err(data_error(root, format!("this is a file; the {format} format needs the data set's folder")));
        }
        let boxes = options.crop_boxes;
        if boxes && matches!(format, Format::Folder | Format::Csv) {
            return Err(Error::Options(format!("the {format} format has no boxes to crop to; use whole images")));
        }
        match format {
            Format::Cub => cub::list(root, boxes),
            Format::Cars => cars::list(root, boxes),
            Format::Dogs => dogs::list(root, boxes),
            Format::Folder => folder::list(root),
            Format::Csv => csv::list(root),
        }
    }

    fn dataset(self, root: &Path, format: Format) -> Dataset {
        let Listing { classes, items, problems, .. } = self;
        Dataset { root: root.to_owned(), format, classes, items: items.into(), problems }
    }
}

/// Problems that an error lists before it only counts.
const LISTED: usize = 10;

impl Dataset {
    /// Opens the data set at `root` (for [`Format::Csv`] also the table itself).
    ///
    /// Every listed file is looked up and its first bytes are read; [`Dataset::verify`] decodes them.
    ///
    /// # Errors
    /// [`Error::Data`] when the layout is not that of `format` or no image is left; and, without `skip_bad`, when anything is
    /// wrong with any image or class: one error for all of them, with their paths. [`Error::Io`] when annotations cannot be
    /// read. [`Error::Options`] when boxes are asked of a format that has none.
    pub fn open(root: &Path, format: Format, options: &OpenOptions) -> Result<Dataset> {
        let mut listing = Listing::read(root, format, options)?;
        let items = &listing.items;
        let faults = parallel::map(items.len(), None, || (), |(), index: usize| look(&items[index]), &mut |_| {});
        let listed = listing.items.len();
        let mut at = faults.iter();
        listing.items.retain(|_| at.next().is_some_and(Option::is_none));
        listing.problems.extend(faults.into_iter().flatten());
        listing.problems.extend(empty_classes(root, &listing));
        if listing.classes.is_empty() {
            return Err(data_error(root, format!("no classes found; is this a data set in the {format} format?")));
        }
        if listing.items.is_empty() {
            let first = listing.problems.first().map_or(String::new(), |problem| format!(", the first: {problem}"));
            return Err(data_error(root, format!("none of {listed} listed images can be used{first}")));
        }
        if !listing.problems.is_empty() {
            let report = report(&listing.problems);
            if !options.skip_bad {
                return Err(data_error(root, format!("{report}\n--skip-bad continues without them")));
            }
            log::warn!("{}: {report}\ncontinuing without them", root.display());
        }
        Ok(listing.dataset(root, format))
    }

    /// The data set as its folders and annotations have it: no image is opened, and none that is listed need exist.
    ///
    /// # Errors
    /// Those of [`Dataset::open`] that are not about images.
    pub fn list(root: &Path, format: Format, options: &OpenOptions) -> Result<Dataset> {
        Ok(Listing::read(root, format, options)?.dataset(root, format))
    }

    /// Indices of the images of `split`, in order.
    pub fn items_of(&self, split: Split) -> Vec<usize> {
        (0..self.items.len()).filter(|&index| self.items[index].split == split).collect()
    }

    /// Images of each class in `split`, `[classes]`.
    pub fn class_counts(&self, split: Split) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for item in self.items.iter().filter(|item| item.split == split) {
            counts[item.label as usize] += 1;
        }
        counts
    }

    /// Sets `fraction` of every class's training images aside for validation: at least one of a class that has two, never
    /// all. The choice depends on `seed` and the items alone. Nothing changes when the set has its own validation split.
    pub fn split_validation(&mut self, fraction: f64, seed: u64) {
        if self.items.iter().any(|item| item.split == Split::Val) {
            log::info!("{}: using the set's own validation split", self.root.display());
            return;
        }
        if fraction.is_nan() || fraction <= 0.0 {
            return;
        }
        let mut members = vec![Vec::new(); self.classes.len()];
        for (index, item) in self.items.iter().enumerate().filter(|(_, item)| item.split == Split::Train) {
            members[item.label as usize].push(index);
        }
        let items = Arc::make_mut(&mut self.items);
        for (class, mut members) in members.into_iter().enumerate().filter(|(_, members)| members.len() > 1) {
            let count = ((members.len() as f64 * fraction).round() as usize).clamp(1, members.len() - 1);
            // The class in the epoch's place, and a tangent no shuffle uses: every class has its own sequence.
            let stream =
                Stream { seed: Purpose::Shuffle.seed(seed), step: class as u64, example: 0, tangent: 1, set: 0 };
            for (place, word) in (0..count).zip(stream.words()) {
                let rest = (members.len() - place) as u64;
                members.swap(place, place + ((u64::from(word) * rest) >> 32) as usize);
                items[members[place]].split = Split::Val;
            }
        }
    }

    /// Takes out the items at the paths of `problems`, which are remembered in [`Dataset::problems`].
    pub fn skip(&mut self, problems: Vec<Problem>) {
        let bad: std::collections::HashSet<&Path> = problems.iter().map(|problem| problem.path.as_path()).collect();
        self.items = self.items.iter().filter(|item| !bad.contains(item.path.as_path())).cloned().collect();
        self.problems.extend(problems);
    }
}

/// All of `problems` as text, one a line, the last line counting those that are not listed.
pub(super) fn report(problems: &[Problem]) -> String {
    let mut text = format!("{} problem{}", problems.len(), if problems.len() == 1 { "" } else { "s" });
    for problem in problems.iter().take(LISTED) {
        text += &format!("\n  {problem}");
    }
    if problems.len() > LISTED {
        text += &format!("\n  and {} more; `foretune data verify` lists them all", problems.len() - LISTED);
    }
    text
}

pub(super) fn data_error(path: &Path, problem: impl Into<String>) -> Error {
    Error::Data { path: path.to_owned(), problem: problem.into() }
}

/// What is wrong with an item as far as the start of its file tells.
fn look(item: &Item) -> Option<Problem> {
    let problem = match item.path.metadata() {
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => "listed, but there is no such file".into(),
        Err(source) => format!("cannot be read: {source}"),
        // Not opened: opening a pipe would wait.
        Ok(found) if !found.is_file() => "not a regular file".into(),
        Ok(_) => {
            let mut start = Vec::with_capacity(16);
            match File::open(&item.path).and_then(|file| file.take(16).read_to_end(&mut start)) {
                Err(source) => format!("cannot be read: {source}"),
                Ok(_) => decode::recognise(&start).err()?,
            }
        }
    };
    Some(Problem::new(&item.path, problem))
}

/// Classes that have no training image although the set is for training.
fn empty_classes(root: &Path, listing: &Listing) -> Vec<Problem> {
    let mut used = vec![false; listing.classes.len()];
    let mut trained = vec![false; listing.classes.len()];
    for item in &listing.items {
        used[item.label as usize] = true;
        trained[item.label as usize] |= item.split == Split::Train;
    }
    if !trained.contains(&true) {
        return Vec::new();
    }
    let empty = (0..trained.len()).filter(|&class| !trained[class] && (used[class] || listing.declared));
    empty
        .map(|class| {
            let name = &listing.classes[class];
            Problem::new(root, format!("class {class} ({name}) has no training images"))
        })
        .collect()
}
