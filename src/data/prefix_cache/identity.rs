//! What a kept record belongs to: one image as one job sees it.

use crate::data::Item;
use std::path::Path;
use std::time::SystemTime;

/// Of an image file and its crop box.
pub(super) type Id = [u8; 16];

/// Stands for an image that cannot be told, and for a slot without a record.
pub(super) const NO_ID: Id = [0; 16];

/// The file's path, size and times, and the crop box; [`NO_ID`] where the file cannot be looked up.
///
/// Not its content: to hash it, a run would first have to read the whole data set, which is what it saves. A file that is replaced
/// or edited has other times. On Unix the time of change is one of them, which no program can set: a file that was put in place of
/// another under the same path, with its size and its time of modification, is told apart too.
pub(super) fn of(item: &Item) -> Id {
    look_up(&item.path, item.crop).unwrap_or(NO_ID)
}

fn look_up(path: &Path, crop: Option<[f32; 4]>) -> Option<Id> {
    let path = path.canonicalize().ok()?;
    let found = path.metadata().ok()?;
    let mut hasher = blake3::Hasher::new();
    let name = path.as_os_str().as_encoded_bytes();
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name);
    hasher.update(&found.len().to_le_bytes());
    let modified = found.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    hasher.update(&modified.as_nanos().to_le_bytes());
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        hasher.update(&found.ctime().to_le_bytes()).update(&found.ctime_nsec().to_le_bytes());
    }
    for side in crop.into_iter().flatten() {
        hasher.update(&side.to_le_bytes());
    }
    hasher.finalize().as_bytes()[..size_of::<Id>()].try_into().ok()
}
