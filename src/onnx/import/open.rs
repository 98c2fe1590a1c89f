//! What a file says besides its graph, and what it leaves open: the size of the images, and preprocessing in the graph.

use super::flow::{Open, described};
use super::source::Source;
use crate::Result;
use crate::data::Preprocess;
use crate::weights::malformed;

/// Register and other tokens beside a square grid of positions.
const MOST_BESIDE: usize = 16;
/// Position embeddings that are tried.
const MOST_TRIED: usize = 8;

/// Whether the file is one of ours.
fn ours(source: &Source) -> bool {
    source.model.producer_name == "foretune"
}

/// Our metadata `preprocess`. Errors: it cannot be read.
pub(super) fn preprocess(source: &Source) -> Result<Option<Preprocess>> {
    let Some(text) = source.metadata("preprocess").filter(|_| ours(source)) else { return Ok(None) };
    let parsed: Preprocess = serde_json::from_str(text).map_err(|error| {
        malformed(&source.path, format!("has damaged metadata `preprocess` ({error}); export it again"))
    })?;
    let sound = parsed.crop.iter().all(|side| (1..=1 << 16).contains(side))
        && parsed.mean.iter().chain(&parsed.std).all(|v| v.is_finite())
        && parsed.std.iter().all(|std| *std > 0.0);
    match sound {
        true => Ok(Some(parsed)),
        false => Err(malformed(&source.path, "has metadata `preprocess` that no images fit; export it again")),
    }
}

/// Our metadata `class_names`. Errors: it cannot be read.
pub(super) fn class_names(source: &Source) -> Result<Option<Vec<String>>> {
    let Some(text) = source.metadata("class_names").filter(|_| ours(source)) else { return Ok(None) };
    serde_json::from_str(text).map_err(|error| {
        malformed(&source.path, format!("has damaged metadata `class_names` ({error}); export it again"))
    })
}

/// The ways to fill in what the graph leaves open; `image` is the caller's word. Errors: a file of ours that is not a backbone.
pub(super) fn candidates(source: &Source, image: Option<[usize; 2]>) -> Result<Vec<Open>> {
    let Some(graph) = &source.model.graph else { return Ok(Vec::new()) };
    let tuned = [("prompts.", "tuned prompts"), ("head.center", "class prototypes")];
    let holds = |name: &str| graph.initializer.iter().any(|tensor| tensor.name.starts_with(name));
    if let Some((_, what)) = tuned.iter().find(|(name, _)| ours(source) && holds(name)) {
        let problem = format!(
            "holds {what}: it is an exported adapter, not a backbone; use the model and the adapter that it was exported from"
        );
        return Err(malformed(&source.path, problem));
    }
    // The last of the nodes that prepare images in our own exports.
    let last = graph.node.iter().rposition(|node| node.name.starts_with("preprocess/"));
    if let (true, Some(last), Some(preprocess)) = (ours(source), last, preprocess(source)?) {
        return Ok(vec![Open { image: None, prepared: Some((last, preprocess.crop)) }]);
    }
    let initialised = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
    let input = graph.input.iter().find(|input| !initialised(&input.name));
    let shape = input.and_then(described).unwrap_or_default();
    if let [_, _, Some(_), Some(_)] = shape[..] {
        return Ok(vec![Open { image: None, prepared: None }]);
    }
    let mut tried: Vec<[usize; 2]> = image.into_iter().collect();
    let patch = graph.initializer.iter().find_map(|tensor| match tensor.dims[..] {
        [d, _, h, w] => Some((d, [usize::try_from(h).ok()?, usize::try_from(w).ok()?])),
        _ => None,
    });
    if let Some((d, patch)) = patch {
        for tensor in &graph.initializer {
            let [1, rows, width] = tensor.dims[..] else { continue };
            if width != d || rows < 4 {
                continue;
            }
            for beside in 0..MOST_BESIDE as i64 {
                let side = (rows - beside).max(0).isqrt();
                if side > 0 && side * side == rows - beside && side < 1 << 16 {
                    let image = patch.map(|patch| patch.saturating_mul(side as usize));
                    if !tried.contains(&image) && tried.len() < MOST_TRIED {
                        tried.push(image);
                    }
                }
            }
        }
    }
    Ok(tried.into_iter().map(|image| Open { image: Some(image), prepared: None }).collect())
}
