//! The blocks of a pass: their operations on the rows that matter, and small passes recorded.

use super::layout::{BlockRows, Chunks, Geometry};
use super::{Block, Encoder, TangentSource, Weights};
use crate::Result;
use crate::backend::{At, Backend, Heads, Norm, hidden_columns};
use std::ops::Range;
use std::sync::Arc;

/// Most rows of a pass whose blocks are recorded: with more, computing takes longer than calling.
const RECORDED_ROWS: usize = 16 << 10;

/// The blocks from `first` on up to where prompts enter next.
pub(super) struct Recorded<B: Backend> {
    geometry: Arc<Geometry>,
    first: usize,
    recording: B::Recording,
}

impl<B: Backend> Encoder<B> {
    /// The blocks `range`, each over all chunks before the next. With `taped`, every block input from ℓ on is kept for the
    /// VJP. Says whether y holds the final norm of the last block's `out`.
    pub(super) fn run_blocks(
        &mut self,
        chunks: &Chunks,
        range: Range<usize>,
        prompts: &[B::Elem],
        tangents: &mut TangentSource<B::Elem>,
        taped: bool,
    ) -> Result<bool> {
        let (layout, depth) = (chunks.whole.layout, self.spec().depth);
        let mut first = range.start;
        while first < range.end {
            self.go_on()?;
            if let Some(set) = layout.entering(first) {
                self.draw(chunks, set, prompts, tangents)?;
                for c in 0..chunks.count {
                    self.place_prompts(chunks, c, set)?;
                }
            }
            let end = (first + 1..range.end).find(|&i| layout.entering(i).is_some()).unwrap_or(range.end);
            self.go_through(chunks, first..end, taped)?;
            first = end;
        }
        Ok(depth > 0 && range.end == depth && self.next_norm(&self.weights, chunks, depth - 1).is_some())
    }

    /// The blocks `range`, ahead of none of which but the first prompts enter, recorded where they are small.
    pub(super) fn go_through(&mut self, chunks: &Chunks, range: Range<usize>, taped: bool) -> Result<()> {
        let rows = (1 + chunks.whole.tangents) * chunks.whole.examples * chunks.whole.tokens;
        if taped || chunks.count > 1 || rows > RECORDED_ROWS {
            return self.blocks(chunks, range, taped);
        }
        let (backend, first) = (self.backend.clone(), range.start);
        let mut recording = self.take_recording(&chunks.whole, first);
        backend.replay(&mut recording, || self.blocks(chunks, range.clone(), taped))?;
        self.recordings.push(Recorded { geometry: chunks.whole.clone(), first, recording });
        Ok(())
    }

    /// What is known of the blocks from `first` on. A call that fails forgets it.
    fn take_recording(&mut self, geometry: &Arc<Geometry>, first: usize) -> B::Recording {
        let known = |r: &Recorded<B>| r.first == first && Arc::ptr_eq(&r.geometry, geometry);
        match self.recordings.iter().position(known) {
            Some(at) => self.recordings.swap_remove(at).recording,
            None => B::Recording::default(),
        }
    }

    /// The blocks `range`, each over all chunks. What y holds ahead of the first is not looked at.
    fn blocks(&mut self, chunks: &Chunks, range: Range<usize>, taped: bool) -> Result<()> {
        let weights = self.weights.clone();
        for i in range.clone() {
            let normed = i > range.start && self.next_norm(&weights, chunks, i - 1).is_some();
            let next = self.next_norm(&weights, chunks, i);
            for c in 0..chunks.count {
                self.go_on()?;
                let g = chunks.of(c);
                if taped && i >= g.layout.insert_at {
                    self.record(g, i)?;
                }
                self.block(&weights.blocks[i], &g.blocks[i], c, normed, next)?;
            }
        }
        Ok(())
    }

    /// The norm whose result for the rows of `out` block `i` leaves in y: the next block's first, or the final one.
    fn next_norm<'a>(&self, weights: &'a Weights<B>, chunks: &Chunks, i: usize) -> Option<&'a Norm<B::Vector>> {
        // What y holds for the next block must not be another chunk's.
        if chunks.count > 1 {
            return None;
        }
        match weights.blocks.get(i + 1) {
            Some(next) => Some(&next.norm1).filter(|_| chunks.whole.blocks[i].fuse_next),
            None => weights.norm.as_ref(),
        }
    }

    /// One block over chunk `c`. `normed`: y already holds LN1 of the rows. `next`: norm to leave in y for the rows of `out`.
    fn block(
        &mut self,
        block: &Block<B>,
        rows: &BlockRows,
        c: usize,
        normed: bool,
        next: Option<&Norm<B::Vector>>,
    ) -> Result<()> {
        let backend = &*self.backend;
        let spec = &self.weights.spec;
        let (x, y, work) = (&mut self.x[c], &mut self.y, &mut self.work);
        let d = spec.width;
        let heads = Heads { count: spec.heads, dim: spec.head_dim() };

        if !normed {
            backend.norm(&rows.q, &block.norm1, x, y)?;
        }
        backend.linear(rows.q.len(), rows.q.primal_len(), &block.qkv, 0..d, At::start(y, d), work, 0)?;
        if !rows.shared {
            backend.norm(&rows.kv, &block.norm1, x, y)?;
        }
        let kv = rows.q.len() * d;
        backend.linear(rows.kv.len(), rows.kv.primal_len(), &block.qkv, d..3 * d, At::start(y, d), work, kv)?;
        let (q, kv) = (At::start(&*work, d), At { buffer: &*work, offset: kv, stride: 2 * d });
        backend.attention(heads, &rows.q, &rows.kv, &rows.out, q, kv, y)?;

        let (count, biased) = (rows.out.len(), rows.out.primal_len());
        backend.linear(count, biased, &block.proj, 0..d, At::start(y, d), work, 0)?;
        backend.residual_norm(&rows.out, block.scale1.as_ref(), &block.norm2, Some(work), x, y)?;
        let columns = spec.hidden * hidden_columns(spec.mlp);
        backend.linear(count, biased, &block.fc1, 0..columns, At::start(y, d), work, 0)?;
        backend.activation(&rows.out, spec.hidden, spec.mlp, work)?;
        backend.linear(count, biased, &block.fc2, 0..d, At::start(work, columns), y, 0)?;
        match next {
            Some(norm) => backend.residual_norm(&rows.out, block.scale2.as_ref(), norm, None, x, y),
            None => backend.residual(&rows.out, d, block.scale2.as_ref(), y, x),
        }
    }
}
