//! Decoding every image of a data set, for its faults only.

use super::dataset::{Dataset, Problem};
use super::decode::MAX_BYTES;
use super::parallel;
use super::transform::Workspace;
use crate::Error;

impl Dataset {
    /// Decodes every image and returns those that cannot be, in item order. `progress` is told, on the calling thread, how many
    /// are done.
    pub fn verify(&self, progress: &mut dyn FnMut(usize)) -> Vec<Problem> {
        self.verify_within(None, MAX_BYTES, progress)
    }

    /// As [`Dataset::verify`], on `threads` threads (or one per core), each of which may take `limit` bytes to decode an image:
    /// one that needs more counts as one that cannot be decoded.
    pub fn verify_within(&self, threads: Option<usize>, limit: u64, progress: &mut dyn FnMut(usize)) -> Vec<Problem> {
        let check = |workspace: &mut Workspace, index: usize| {
            let item = &self.items[index];
            let error = workspace.verify(&item.path, item.crop).err()?;
            Some(Problem::new(&item.path, without_path(error)))
        };
        let found = parallel::map(self.items.len(), threads, || Workspace::new(limit), check, progress);
        found.into_iter().flatten().collect()
    }
}

/// The error's text without the path, which stands beside it.
pub(super) fn without_path(error: Error) -> String {
    match error {
        Error::Image { problem, .. } => problem,
        Error::Io { action, source, .. } => format!("cannot {action}: {source}"),
        other => other.to_string(),
    }
}
