//! Which rows an operation works on.

/// Which rows of the stream an operation works on, and how they are numbered in a compact buffer.
///
/// Compact row of primal token i of example b: `b·|primal| + i`. Of tangent k: `B·|primal| + (k·B + b)·|tangent| + i`.
/// With all tokens in both lists a compact buffer has the stream's own layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Examples B.
    pub examples: usize,
    /// Tangents K.
    pub tangents: usize,
    /// Tokens T of the stream.
    pub tokens: usize,
    primal: Vec<u32>,
    tangent: Vec<u32>,
    /// For each entry of `primal`, its index in `tangent`, or `u32::MAX`.
    pair: Vec<u32>,
}

impl Rows {
    /// Rows for the given ascending token lists; `tangent` must be a subset of `primal`.
    pub fn new(examples: usize, tangents: usize, tokens: usize, primal: Vec<u32>, tangent: Vec<u32>) -> Self {
        debug_assert!(primal.iter().all(|&t| (t as usize) < tokens));
        debug_assert!(primal.is_sorted() && tangent.is_sorted());
        let tangent = if tangents == 0 { Vec::new() } else { tangent };
        let pair: Vec<u32> = primal.iter().map(|t| tangent.binary_search(t).map_or(u32::MAX, |i| i as u32)).collect();
        debug_assert_eq!(pair.iter().filter(|&&i| i != u32::MAX).count(), tangent.len());
        Rows { examples, tangents, tokens, primal, tangent, pair }
    }

    /// Every token, primal and tangent.
    pub fn full(examples: usize, tangents: usize, tokens: usize) -> Self {
        let all: Vec<u32> = (0..tokens as u32).collect();
        Rows::new(examples, tangents, tokens, all.clone(), all)
    }

    /// Primal tokens, ascending.
    pub fn primal(&self) -> &[u32] {
        &self.primal
    }

    /// Tokens with tangents, ascending; empty when K = 0.
    pub fn tangent(&self) -> &[u32] {
        &self.tangent
    }

    /// Index among [`Rows::tangent`] of the i-th primal token, if it has tangents.
    pub fn pair(&self, i: usize) -> Option<usize> {
        let pair = self.pair[i];
        (pair != u32::MAX).then_some(pair as usize)
    }

    /// Primal rows.
    pub fn primal_len(&self) -> usize {
        self.examples * self.primal.len()
    }

    /// Rows in all.
    pub fn len(&self) -> usize {
        self.primal_len() + self.tangents * self.examples * self.tangent.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Compact index of primal token i of example b.
    pub fn primal_row(&self, b: usize, i: usize) -> usize {
        b * self.primal.len() + i
    }

    /// Compact index of token i (among [`Rows::tangent`]) of tangent k of example b.
    pub fn tangent_row(&self, k: usize, b: usize, i: usize) -> usize {
        self.primal_len() + (k * self.examples + b) * self.tangent.len() + i
    }

    /// Stream row of token t in plane 0 (primal) or 1 + k.
    pub fn stream_row(&self, plane: usize, b: usize, t: u32) -> usize {
        (plane * self.examples + b) * self.tokens + t as usize
    }

    /// (compact row, stream row) of every row, in compact order.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let primal = (0..self.examples).flat_map(move |b| self.primal.iter().map(move |&t| self.stream_row(0, b, t)));
        let tangent = (0..self.tangents).flat_map(move |k| {
            (0..self.examples).flat_map(move |b| self.tangent.iter().map(move |&t| self.stream_row(1 + k, b, t)))
        });
        primal.chain(tangent).enumerate()
    }
}
