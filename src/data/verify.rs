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
        let check = |workspace: &mut Workspace, index: usize| {
            let item = &self.items[index];
            let error = workspace.verify(&item.path, item.crop).err()?;
            Some(Problem::new(&item.path, without_path(error)))
        };
        parallel::map(self.items.len(), || Workspace::new(MAX_BYTES), check, progress).into_iter().flatten().collect()
    }
}

/// The error's text without the path, which stands beside it.
fn without_path(error: Error) -> String {
    match error {
        Error::Image { problem, .. } => problem,
        Error::Io { action, source, .. } => format!("cannot {action}: {source}"),
        other => other.to_string(),
    }
}
