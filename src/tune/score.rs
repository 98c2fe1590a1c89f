//! Accuracy and loss over a split, and the pass over it that both scoring and head fitting make.

use super::learner::Feed;
use super::photos::{Batch, Photos};
use super::{Event, Observer, Score};
use crate::engine::Engine;
use crate::model::Head;
use crate::ops::{head, loss, loss::top};
use crate::{Error, Result};

/// Receives head inputs `[m, D]` and labels `[m]` of a micro-batch.
pub type HeadInputs<'a> = dyn FnMut(&[f32], &[u32]) -> Result<()> + 'a;

/// Gives `each` the head inputs of photos `indices` in micro-batches, as phase `name`. Errors: a
/// photo cannot be decoded, the engine's own, or the observer cancelled.
pub fn for_each_head_input(
    engine: &mut dyn Engine,
    photos: &Photos,
    indices: &[usize],
    prompts: &[f32],
    name: &'static str,
    observer: &mut dyn Observer,
    each: &mut HeadInputs,
) -> Result<()> {
    let most = engine.most_examples();
    let width = engine.spec().head_width();
    let mut loader = photos.once(indices)?;
    let mut batch = Batch::default();
    let mut inputs = vec![0.0; most * width];
    let mut done = 0;
    observer.event(&Event::Phase { name, total: indices.len() });
    loop {
        if observer.cancelled() {
            return Err(Error::Interrupted { step: 0 });
        }
        let count = loader.fill(engine, &mut batch, most)?;
        if count == 0 {
            return Ok(());
        }
        let inputs = &mut inputs[..count * width];
        engine.forward(batch.input(), prompts, inputs)?;
        each(inputs, &batch.labels)?;
        done += count;
        observer.event(&Event::Progress { done });
    }
}

/// Scores `head` on the photos `indices` under `prompts` (empty: the frozen model). Errors: as
/// [`for_each_head_input`].
pub fn score(
    engine: &mut dyn Engine,
    photos: &Photos,
    indices: &[usize],
    prompts: &[f32],
    classifier: &Head,
    name: &'static str,
    observer: &mut dyn Observer,
) -> Result<Score> {
    let classes = classifier.classes();
    let (mut logits, mut slope, mut scratch) = (Vec::new(), vec![0.0; classes], Vec::new());
    let (mut correct, mut total) = (0usize, 0.0f64);
    for_each_head_input(engine, photos, indices, prompts, name, observer, &mut |inputs, labels| {
        logits.resize(labels.len() * classes, 0.0);
        head::dual(classifier, labels.len(), 1, inputs, &mut logits, &mut scratch);
        for (z, &label) in logits.chunks_exact(classes).zip(labels) {
            total += f64::from(loss::cross_entropy(z, label as usize, &mut slope));
            correct += usize::from(top(z) == label as usize);
        }
        Ok(())
    })?;
    let examples = indices.len();
    let mean = |sum: f64| if examples == 0 { 0.0 } else { sum / examples as f64 };
    Ok(Score { accuracy: mean(correct as f64), loss: mean(total), examples })
}
