//! Which parts of a piece of memory nobody holds.

use std::ops::Range;

/// Free ranges of addresses: ascending, neither empty nor touching.
#[derive(Debug, Default)]
pub(crate) struct Free(Vec<Range<usize>>);

impl Free {
    /// All of `range`.
    pub(crate) fn new(range: Range<usize>) -> Self {
        Free(if range.is_empty() { Vec::new() } else { Vec::from([range]) })
    }

    /// Where `size` free addresses start that are now taken, or how many there are in one piece.
    pub(crate) fn take(&mut self, size: usize) -> Result<usize, usize> {
        let Some(at) = self.0.iter().position(|range| range.len() >= size) else {
            return Err(self.largest());
        };
        let start = self.0[at].start;
        self.0[at].start += size;
        if self.0[at].is_empty() {
            self.0.remove(at);
        }
        Ok(start)
    }

    /// Most free addresses in one piece.
    pub(crate) fn largest(&self) -> usize {
        self.0.iter().map(Range::len).max().unwrap_or(0)
    }

    /// Gives back what was taken.
    pub(crate) fn put_back(&mut self, range: Range<usize>) {
        let free = &mut self.0;
        let at = free.partition_point(|before| before.start < range.start);
        free.insert(at, range);
        if at + 1 < free.len() && free[at + 1].start == free[at].end {
            free[at].end = free.remove(at + 1).end;
        }
        if at > 0 && free[at - 1].end == free[at].start {
            free[at - 1].end = free.remove(at).end;
        }
    }
}
