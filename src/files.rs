//! Files are replaced whole or not at all.

use crate::{Error, Result};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes `path` through a temporary file beside it. On any error the temporary file is removed and what stood at `path`
/// is untouched.
///
/// # Errors
/// [`Error::Io`] when something cannot be written.
pub fn write_atomic(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    replace(path, |temporary| {
        let mut writer = BufWriter::with_capacity(1 << 16, File::create(temporary)?);
        fill(&mut writer)?;
        writer.into_inner().map_err(|e| e.into_error()).map(drop)
    })
}

/// Writes tensors to `path`, one at a time in memory.
pub(crate) fn write_safetensors<V: safetensors::View>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, V)>,
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    replace(path, |temporary| {
        // safetensors puts a file in place that only its owner may read; give it the permissions of any new file.
        let permissions = File::create(temporary)?.metadata()?.permissions();
        safetensors::serialize_to_file(tensors, metadata, temporary).map_err(|e| io::Error::other(e.to_string()))?;
        fs::set_permissions(temporary, permissions)
    })
}

/// As [`write_atomic`], for writers that want a path: `fill` writes the temporary file, which is then synced and renamed.
pub(crate) fn replace(path: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    let name = path.file_name().ok_or_else(|| {
        Error::io("write", path, io::Error::new(io::ErrorKind::InvalidInput, "the path does not name a file"))
    })?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // The process id keeps two runs that write the same file from sharing a temporary.
    let temporary = folder.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let written = fill(&temporary)
        .and_then(|()| OpenOptions::new().write(true).open(&temporary)?.sync_all())
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = written {
        // Best effort: the write error is the one to report.
        let _ = fs::remove_file(&temporary);
        return Err(Error::io("write", path, source));
    }
    // Some file systems cannot sync a folder; the rename itself has already happened.
    if let Ok(folder) = File::open(&folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}
