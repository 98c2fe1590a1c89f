//! What a block reads of each image, kept on disk in f16 from one epoch, and one run, to the next.
//!
//! One file per key, which stands for everything but the image that decides the values. A file may be damaged, cut short, or lost at
//! any time: what is not found whole is computed again. Writing is one process's at a time, by an advisory lock; another that comes
//! meanwhile reads what was there when it came, and adds nothing. (On Windows the lock keeps it from reading too.)

mod file;
mod identity;

use super::Item;
use crate::{Error, Result};
use file::{CacheFile, Found, Sum};
use half::f16;
use half::slice::HalfFloatSliceExt;
use identity::{Id, NO_ID};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where prefixes are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixCacheOptions {
    /// The folder, made where it is absent.
    pub dir: PathBuf,
    /// Most bytes that a file in it grows to; images beyond are computed every time. A file that is larger already is not cut.
    pub most_bytes: u64,
}

impl PrefixCacheOptions {
    /// Bytes that hold CUB-200-2011 at 224 pixels in ViT-B/16's width.
    pub const USUAL_BYTES: u64 = 4 << 30;
}

/// Values that are converted at a time.
const TILE: usize = 256;

/// Records of one key, for the images of one data set. Threads may share it.
pub(crate) struct PrefixCache {
    path: PathBuf,
    file: CacheFile,
    /// Values of a record.
    values: usize,
    /// Of each item.
    ids: Vec<Id>,
    /// Of each item.
    places: Mutex<Vec<Option<Place>>>,
    /// `None`: nothing is added.
    writer: Option<Mutex<Writer>>,
    /// Whether damage has been reported.
    warned: AtomicBool,
}

/// Where a record stands.
#[derive(Clone, Copy)]
struct Place {
    slot: u32,
    sum: Sum,
}

struct Writer {
    /// Slots below `next` that hold nothing of use.
    free: Vec<u32>,
    /// The first slot that was never used.
    next: u32,
    /// Slots within the bound.
    most: u32,
    record: Vec<u8>,
    /// A write has failed.
    stopped: bool,
}

impl PrefixCache {
    /// The cache of `key` in the folder of `options`, for `items`, whose records have `values` values. A file of that name which is
    /// not this cache's is started anew if it is one of Foretune's, else left alone and not used.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be made, or the file neither opened nor made. What fails later is logged, and the run goes
    /// on without.
    pub fn open(options: &PrefixCacheOptions, key: [u8; 32], items: &[Item], values: usize) -> Result<Self> {
        fs::create_dir_all(&options.dir).map_err(|source| Error::io("create", &options.dir, source))?;
        let path = options.dir.join(format!("{}.prefix", &blake3::Hash::from(key).to_hex()[..32]));
        let (opened, mut writable) = open_file(&path)?;
        if writable {
            writable = lock(&opened, &path);
        }
        let file = CacheFile::new(opened, key, values);
        let mut cache = PrefixCache {
            file,
            values,
            ids: items.iter().map(identity::of).collect(),
            places: Mutex::new(vec![None; items.len()]),
            writer: None,
            warned: AtomicBool::new(false),
            path,
        };
        let most = u32::try_from(cache.file.slots(options.most_bytes)).unwrap_or(u32::MAX);
        match cache.begin(writable) {
            Err(problem) => log::warn!("{}: {problem}; going on without the prefix cache", cache.path.display()),
            Ok(_) if !writable => {}
            Ok((free, next)) => {
                if most == 0 {
                    let (path, bytes) = (cache.path.display(), options.most_bytes);
                    log::warn!("{path}: {bytes} bytes have no room for what is kept of one image; give it more");
                }
                let record = vec![0; 2 * values];
                cache.writer = Some(Mutex::new(Writer { free, next, most, record, stopped: false }));
            }
        }
        log::info!("{}: {} of {} images are kept", cache.path.display(), cache.kept(), items.len());
        Ok(cache)
    }

    /// Finds the records that are there, or makes the file one that has none. Gives the slots to be filled and the first that was
    /// never used.
    fn begin(&self, writable: bool) -> Result<(Vec<u32>, u32), String> {
        let fail = |error: io::Error| format!("cannot be used: {error}");
        match self.file.look().map_err(fail)? {
            Found::Ours => {}
            Found::Foreign => return Err("this is no prefix cache; remove it or give another folder".into()),
            Found::Empty | Found::Other if !writable => return Ok((Vec::new(), 0)),
            found => {
                if found == Found::Other {
                    log::warn!("{}: kept for another model or damaged; starting it anew", self.path.display());
                }
                self.file.start_anew().map_err(fail)?;
            }
        }
        let mut order: Vec<u32> = (0..self.ids.len() as u32).collect();
        order.sort_unstable_by_key(|&item| self.ids[item as usize]);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut free, mut next) = (Vec::new(), 0);
        let each = |slot: u64, id: Id, sum: Sum| {
            let Ok(slot) = u32::try_from(slot) else { return };
            free.extend(next..slot);
            next = slot + 1;
            let of = |item: &&u32| self.ids[**item as usize] == id;
            let first = order.partition_point(|&item| self.ids[item as usize] < id);
            order[first..].iter().take_while(of).for_each(|&item| places[item as usize] = Some(Place { slot, sum }));
        };
        let cut = self.file.entries(each).map_err(fail)?;
        if cut > 0 {
            log::warn!("{}: cut short; {cut} images that were kept are computed again", self.path.display());
        }
        Ok((free, next))
    }

    /// Values of a record.
    pub fn values(&self) -> usize {
        self.values
    }

    /// Images whose records are there.
    pub fn kept(&self) -> usize {
        self.places().iter().flatten().count()
    }

    /// Puts the record of `item` into `out`, resized to `[values]`, if there is one and it is whole. `record` is room for its bytes,
    /// reused from call to call.
    pub fn read(&self, item: usize, record: &mut Vec<u8>, out: &mut Vec<f32>) -> bool {
        let Some(place) = self.places().get(item).copied().flatten() else { return false };
        record.resize(2 * self.values, 0);
        let problem = match self.file.read_record(place.slot.into(), record) {
            Ok(()) if self.file.sum(&self.ids[item], record) == place.sum => {
                out.resize(self.values, 0.0);
                decode(record, out);
                return true;
            }
            Ok(()) => "its checksum does not fit".to_owned(),
            Err(error) => error.to_string(),
        };
        self.places()[item] = None;
        if let Some(writer) = &self.writer {
            guard(writer).free.push(place.slot);
        }
        if !self.warned.swap(true, Relaxed) {
            log::warn!(
                "{}: what is kept of an image is damaged ({problem}); it is computed again",
                self.path.display()
            );
        }
        false
    }

    /// Keeps `values` `[values]`, which [`round_to_f16`] has rounded, for `item`: if there is room, and unless it has been kept.
    pub fn store(&self, item: usize, values: &[f32]) {
        let Some(mut writer) = self.writer.as_ref().map(guard) else { return };
        let id = self.ids[item];
        if writer.stopped || id == NO_ID || self.places()[item].is_some() {
            return;
        }
        let most = writer.most;
        let slot = match writer.free.pop() {
            Some(slot) if slot < most => slot,
            _ if writer.next < most => {
                writer.next += 1;
                writer.next - 1
            }
            _ => return,
        };
        encode(values, &mut writer.record);
        match self.file.write_record(slot.into(), &id, &writer.record) {
            Ok(sum) => self.places()[item] = Some(Place { slot, sum }),
            Err(error) => {
                writer.stopped = true;
                log::warn!("{}: cannot write: {error}; no more images are kept", self.path.display());
            }
        }
    }

    fn places(&self) -> MutexGuard<'_, Vec<Option<Place>>> {
        guard(&self.places)
    }
}

/// Each value under the lock is whole between statements.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file, and whether it may be written.
fn open_file(path: &Path) -> Result<(File, bool)> {
    match OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path) {
        Ok(file) => Ok((file, true)),
        Err(source) => match File::open(path) {
            Ok(file) => {
                log::warn!("{}: cannot be written ({source}); what is there is used, nothing is added", path.display());
                Ok((file, false))
            }
            Err(_) => Err(Error::io("open", path, source)),
        },
    }
}

/// Whether the file is this process's to write. The system takes the lock back when the process ends, however it does.
fn lock(file: &File, path: &Path) -> bool {
    let path = path.display();
    match file.try_lock() {
        Ok(()) => return true,
        Err(fs::TryLockError::WouldBlock) => {
            log::warn!("{path}: another run adds to it; what is there is used, nothing is added");
        }
        Err(fs::TryLockError::Error(error)) => {
            log::warn!("{path}: cannot be locked ({error}); what is there is used, nothing is added");
        }
    }
    false
}

/// Rounds to the nearest f16, as a kept record is. False if a finite value is beyond f16's largest, 65504.
pub(crate) fn round_to_f16(values: &mut [f32]) -> bool {
    let (mut tile, mut fits) = ([f16::ZERO; TILE], true);
    for values in values.chunks_mut(TILE) {
        let tile = &mut tile[..values.len()];
        tile.convert_from_f32_slice(values);
        fits &= values.iter().zip(&*tile).all(|(value, half)| half.is_finite() || !value.is_finite());
        tile.convert_to_f32_slice(values);
    }
    fits
}

fn encode(values: &[f32], record: &mut [u8]) {
    let mut tile = [f16::ZERO; TILE];
    for (values, bytes) in values.chunks(TILE).zip(record.chunks_mut(2 * TILE)) {
        let tile = &mut tile[..values.len()];
        tile.convert_from_f32_slice(values);
        bytes.chunks_exact_mut(2).zip(tile).for_each(|(to, half)| to.copy_from_slice(&half.to_le_bytes()));
    }
}

fn decode(record: &[u8], values: &mut [f32]) {
    let mut tile = [f16::ZERO; TILE];
    for (values, bytes) in values.chunks_mut(TILE).zip(record.chunks(2 * TILE)) {
        let tile = &mut tile[..values.len()];
        tile.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(half, b)| *half = f16::from_le_bytes([b[0], b[1]]));
        tile.convert_to_f32_slice(values);
    }
}

#[cfg(test)]
mod tests;
