//! The sizes of tiles, and what a task holds at a time: with tangents one block's probabilities and one tangent's tile of
//! keys and values, whatever their number.

/// Most keys of a tile.
pub(super) const KEYS: usize = 256;
/// Most queries of a task: whole tiles of every instruction set.
pub(super) const QUERIES: usize = 252;
/// Queries of a tile: two of the tallest micro-kernels.
pub(super) const TILE: usize = 28;
/// Rows of scores are a multiple of this long: whole vectors of every instruction set.
pub(super) const LINE: usize = 16;
/// Columns of the widest panel.
pub(super) const PANEL: usize = 32;

/// Sizes of the parts of a task's scratch.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    q: usize,
    keys: usize,
    values: usize,
    moving: usize,
    p: usize,
    w: usize,
    row: usize,
    mean: usize,
}

/// Elements from one row of scores to the next: an odd number of cache lines, so that rows are in different sets of L1.
pub(super) fn score_stride(keys: usize) -> usize {
    keys.next_multiple_of(LINE) | LINE
}

impl Sizes {
    pub(super) fn new(dim: usize, queries: usize, keys: usize, tangents: usize) -> Self {
        let dual = tangents > 0;
        let values = (keys * dim.next_multiple_of(PANEL)).next_multiple_of(LINE);
        let planes = 1 + usize::from(dual);
        Sizes {
            q: (TILE * planes * dim).next_multiple_of(LINE),
            keys: keys.next_multiple_of(PANEL) * planes * dim,
            values,
            moving: if dual { values } else { 0 },
            p: if dual { queries } else { TILE } * score_stride(keys),
            w: if dual { TILE * score_stride(keys) } else { 0 },
            row: queries.next_multiple_of(LINE),
            mean: tangents * queries.next_multiple_of(LINE),
        }
    }

    fn len(&self) -> usize {
        self.q + self.keys + self.values + self.moving + self.p + self.w + 3 * self.row + self.mean + LINE
    }
}

/// Scratch values a task needs where there are up to `tokens` queries and keys.
pub(in crate::cpu) fn scratch_len(dim: usize, tokens: usize, tangents: usize) -> usize {
    Sizes::new(dim, tokens.min(QUERIES), tokens.min(KEYS), tangents).len()
}

/// The parts of a task's scratch.
pub(super) struct Scratch<'a> {
    /// Scaled queries of a tile, [TILE, dim], or tangents and queries, [TILE, 2·dim].
    pub q: &'a mut [f32],
    /// Keys of a tile in panels (element of the head, key); those of a tangent follow in each panel.
    pub keys: &'a mut [f32],
    /// Values of a tile in panels (key, element of the head).
    pub values: &'a mut [f32],
    /// As `values`, of a tangent.
    pub moving: &'a mut [f32],
    /// Scores, then their exponentials: of the block where there are tangents, else of a tile of queries.
    pub p: &'a mut [f32],
    /// Score tangents of a tile, then times p.
    pub w: &'a mut [f32],
    pub max: &'a mut [f32],
    pub sum: &'a mut [f32],
    /// What a new maximum multiplies earlier sums by.
    pub shrink: &'a mut [f32],
    /// Σ p·ṡ [tangents, row].
    pub mean: &'a mut [f32],
    /// What the last scores of a row are increased by.
    pub tail: &'a mut [f32],
}

impl<'a> Scratch<'a> {
    pub(super) fn new(scratch: &'a mut [f32], sizes: Sizes) -> Self {
        let mut rest = scratch;
        let mut take = |len: usize| rest.split_off_mut(..len).expect("scratch_len of them");
        Scratch {
            q: take(sizes.q),
            keys: take(sizes.keys),
            values: take(sizes.values),
            moving: take(sizes.moving),
            p: take(sizes.p),
            w: take(sizes.w),
            max: take(sizes.row),
            sum: take(sizes.row),
            shrink: take(sizes.row),
            mean: take(sizes.mean),
            tail: take(LINE),
        }
    }
}
