//! A corrupted copy of a data set, in the data set's own layout.

use super::plan::Plan;
use super::target::{Note, apart, look};
use super::{Corruption, corrupt, encode};
use crate::data::dataset::{Dataset, Format, OpenOptions, Problem, data_error};
use crate::data::decode::{self, Decoder, MAX_BYTES};
use crate::data::parallel;
use crate::data::transform::{Workspace, open};
use crate::data::verify::without_path;
use crate::files::write_atomic;
use crate::tune::{Event, Observer};
use crate::{Error, Result};
use image::RgbImage;
use image::metadata::Orientation;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// How a copy is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Threads that read, corrupt and write; one per core without a number.
    pub threads: Option<usize>,
    /// Leave out what the data set lists and cannot be read.
    pub skip_bad: bool,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Images written.
    pub written: usize,
    /// Images that an interrupted run had written.
    pub kept: usize,
    /// Other files copied.
    pub copied: usize,
    /// Images left out because the data set does not list them.
    pub unlisted: usize,
    /// Images that are still to be written: the observer cancelled, or there are problems.
    pub left: usize,
    /// What cannot be used of the data set. Without `skip_bad`, nothing is written where decoding at reduced scale shows it.
    pub problems: Vec<Problem>,
}

/// Writes a copy of `dataset` to `out` with every listed image corrupted and every other file that is no image as it is, so
/// that `out` opens in the same format. Hidden files are left out.
///
/// Images keep their path, size and type, and the orientation they are stored in (boxes stay right): JPEG becomes JPEG of
/// quality 95 without chroma subsampling, PNG stays PNG, WebP becomes WebP without losses. All become RGB. `out` has to be
/// absent or empty, or to hold what an equal call left when it was interrupted, which is continued: `corrupt.json` in it says
/// of which data, kind, severity and seed it is. Bytes depend on nothing else, nor on `threads`.
///
/// `observer` is told of the phases "read", "decode" and the kind's name; cancelled, it stops between images.
///
/// # Errors
/// [`Error::Options`] when one of `out` and the data set lies within the other; [`Error::Data`] when `out` holds something else,
/// or images lie outside the data set; [`Error::Io`] when something cannot be read or written.
pub fn corrupt_dataset(
    dataset: &Dataset,
    out: &Path,
    corruption: &Corruption,
    options: &CopyOptions,
    observer: &mut dyn Observer,
) -> Result<Report> {
    apart(&dataset.root, out)?;
    let begun = look(out)?;
    let note = |source| Note::new(corruption, dataset.format, source);
    if let Some(begun) = &begun {
        // Before the source is read.
        note(String::new()).continues(begun, out)?;
    }
    let copy = Copy { plan: Plan::new(dataset)?, out, corruption, threads: options.threads };
    let (pending, kept): (Vec<_>, Vec<_>) = copy.plan.images.iter().partition(|image| !out.join(image).is_file());
    let mut report = Report {
        kept: kept.len(),
        left: pending.len(),
        unlisted: copy.plan.unlisted,
        problems: dataset.problems.clone(),
        ..Report::default()
    };
    let Some(source) = copy.digest(observer)? else { return Ok(report) };
    let note = note(source);
    if let Some(begun) = &begun {
        note.continues(begun, out)?;
    }
    let Some(unreadable) = copy.verify(&pending, observer) else { return Ok(report) };
    let bad: BTreeSet<&Path> = unreadable.iter().map(|problem| problem.path.as_path()).collect();
    let pending: Vec<&PathBuf> =
        pending.into_iter().filter(|image| !bad.contains(copy.plan.base.join(image).as_path())).collect();
    report.problems.extend(unreadable.iter().cloned());
    if !report.problems.is_empty() && !options.skip_bad {
        return Ok(report);
    }
    if begun.is_none() {
        note.claim(out)?;
    }
    for file in copy.plan.files.iter().filter(|file| !out.join(file).is_file()) {
        copy_file(&copy.plan.base.join(file), &made(out, file)?)?;
        report.copied += 1;
    }
    check_listing(dataset, out)?;
    copy.images(&pending, &mut report, observer)?;
    Ok(report)
}

/// Finds annotations that lead from the copy back to the images of the source, by absolute paths.
fn check_listing(dataset: &Dataset, out: &Path) -> Result<()> {
    if dataset.format == Format::Folder {
        return Ok(());
    }
    let root = match dataset.root.file_name() {
        Some(table) if dataset.root.is_file() => out.join(table),
        _ => out.to_owned(),
    };
    let copy = Dataset::list(&root, dataset.format, &OpenOptions::default())?;
    match copy.items.iter().find(|item| !item.path.starts_with(out)) {
        None => Ok(()),
        Some(item) => {
            let problem = "it is listed by an absolute path, which leads from a copy back to this very file; list it by a path \
                           that is relative to the list, and remove the copy that was begun";
            Err(data_error(&item.path, problem))
        }
    }
}

/// The path of `file` in `out`, its folders made.
fn made(out: &Path, file: &Path) -> Result<PathBuf> {
    let path = out.join(file);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|source| Error::io("create", folder, source))?;
    }
    Ok(path)
}

/// Copies contents alone: a file that may not be written is none in the copy.
fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let fail = |source| Error::io("read", from, source);
    let mut source = File::open(from).map_err(fail)?;
    let mut buffer = vec![0; 1 << 16];
    let mut unread = None;
    let written = write_atomic(to, |writer| {
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => writer.write_all(&buffer[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    unread = Some(error);
                    return Err(io::ErrorKind::Other.into());
                }
            }
        }
    });
    unread.map_or(written, |error| Err(fail(error)))
}

/// A number that tells the images of a data set apart: of its path, whatever the platform separates folders by.
fn number(image: &Path) -> u64 {
    let mut hash = blake3::Hasher::new();
    for part in image.components() {
        hash.update(part.as_os_str().as_encoded_bytes()).update(b"/");
    }
    u64::from_le_bytes(*hash.finalize().as_bytes().first_chunk().unwrap_or(&[0; 8]))
}

fn hash(path: &Path) -> Result<blake3::Hash> {
    let mut hash = blake3::Hasher::new();
    let read = File::open(path).and_then(|file| hash.update_reader(file).map(|hash| hash.finalize()));
    read.map_err(|source| Error::io("read", path, source))
}

/// A copy being made.
struct Copy<'a> {
    plan: Plan,
    out: &'a Path,
    corruption: &'a Corruption,
    threads: Option<usize>,
}

/// What became of an image.
enum Outcome {
    Written,
    /// It cannot be read.
    Bad(Problem),
    /// It cannot be written.
    Failed(Error),
}

impl Copy<'_> {
    /// `f` of every path, in order, until the observer cancels or `f` breaks off; `None` for those not reached.
    fn each<S, T: Send>(
        &self,
        name: &'static str,
        paths: &[&PathBuf],
        new: impl Fn() -> S + Sync,
        f: impl Fn(&mut S, &Path, &AtomicBool) -> T + Sync,
        observer: &mut dyn Observer,
    ) -> Vec<Option<T>> {
        let stop = AtomicBool::new(observer.cancelled());
        observer.event(&Event::Phase { name, total: paths.len() });
        let work = |state: &mut S, index: usize| {
            let stopped = stop.load(Ordering::Relaxed);
            (!stopped).then(|| f(state, paths[index], &stop))
        };
        parallel::map(paths.len(), self.threads, new, work, &mut |done| {
            observer.event(&Event::Progress { done });
            if observer.cancelled() {
                stop.store(true, Ordering::Relaxed);
            }
        })
    }

    /// A digest of all that is to be copied; `None` if the observer cancelled. An image that cannot be read counts with its path.
    fn digest(&self, observer: &mut dyn Observer) -> Result<Option<String>> {
        let Plan { base, images, files, .. } = &self.plan;
        let paths: Vec<&PathBuf> = images.iter().chain(files).collect();
        let hashes = self.each("read", &paths, || (), |(), path, _| hash(&base.join(path)), observer);
        let mut digest = blake3::Hasher::new();
        for (i, (path, hash)) in paths.iter().zip(hashes).enumerate() {
            let hash = match hash {
                None => return Ok(None),
                Some(Err(_)) if i < images.len() => [0; 32],
                Some(hash) => hash?.into(),
            };
            digest.update(&number(path).to_le_bytes()).update(&hash);
        }
        Ok(Some(digest.finalize().to_hex().to_string()))
    }

    /// Decodes `images` for their faults; `None` if the observer cancelled.
    fn verify(&self, images: &[&PathBuf], observer: &mut dyn Observer) -> Option<Vec<Problem>> {
        let check = |workspace: &mut Workspace, image: &Path, _: &AtomicBool| {
            let path = self.plan.base.join(image);
            let error = workspace.verify(&path, None).err()?;
            Some(Problem::new(path, without_path(error)))
        };
        let found = self.each("decode", images, || Workspace::new(MAX_BYTES), check, observer);
        let found: Option<Vec<Option<Problem>>> = found.into_iter().collect();
        found.map(|found| found.into_iter().flatten().collect())
    }

    /// Writes `images`.
    fn images(&self, images: &[&PathBuf], report: &mut Report, observer: &mut dyn Observer) -> Result<()> {
        let work = |decoder: &mut Decoder, image: &Path, stop: &AtomicBool| {
            let outcome = self.image(decoder, image);
            if let Outcome::Failed(_) = outcome {
                stop.store(true, Ordering::Relaxed);
            }
            outcome
        };
        let name = self.corruption.kind.name();
        let outcomes = self.each(name, images, || Decoder::new(MAX_BYTES), work, observer);
        report.left = 0;
        for outcome in outcomes {
            match outcome {
                None => report.left += 1,
                Some(Outcome::Written) => report.written += 1,
                Some(Outcome::Bad(problem)) => report.problems.push(problem),
                Some(Outcome::Failed(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn image(&self, decoder: &Decoder, image: &Path) -> Outcome {
        let path = self.plan.base.join(image);
        let read = || {
            let mut source = open(&path)?;
            let start = source.reader.fill_buf().map_err(|error| Error::io("read", &path, error))?;
            // What is none of the known kinds is refused by the decoder, which says what it looks like.
            let kind = decode::sniff(start).unwrap_or(decode::Kind::Png);
            let mut orientation = Orientation::NoTransforms;
            let decoded = decode::decode(decoder, source, &mut |header| {
                orientation = header.orientation;
                Ok(8)
            })?;
            let (width, height) = decoded.pixels.dimensions();
            let size = [height as usize, width as usize];
            let pixels = corrupt(self.corruption, number(image), decoded.pixels.into_raw(), size)?;
            let pixels = RgbImage::from_raw(width, height, pixels);
            pixels.map(|pixels| (kind, pixels, orientation)).ok_or_else(|| {
                let problem = "corrupting it gave another size, a fault of this program".into();
                Error::Image { path: path.clone(), problem }
            })
        };
        match read() {
            Err(error) => Outcome::Bad(Problem::new(&path, without_path(error))),
            Ok((kind, pixels, orientation)) => {
                let written = made(self.out, image).and_then(|path| encode::write(&path, kind, pixels, orientation));
                written.map_or_else(Outcome::Failed, |()| Outcome::Written)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_images_are_of_their_paths() {
        assert_eq!(number(Path::new("a/b.png")), number(Path::new("a//b.png")));
        assert_ne!(number(Path::new("a/b.png")), number(Path::new("ab.png")));
        assert_ne!(number(Path::new("a/b.png")), number(Path::new("a/c.png")));
    }
}
