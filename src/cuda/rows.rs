//! Row sets on the device: `backend::Rows` with its lists of tokens in device memory, uploaded when first met.

use super::device::Device;
use super::memory::{DeviceArena, Part, padded};
use super::stream::Stream;
use crate::Result;
use crate::backend::Rows;
use std::sync::Arc;

/// The twin of `RowSet` in `kernels/common.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct RowSet {
    examples: u32,
    tangents: u32,
    tokens: u32,
    primal_count: u32,
    tangent_count: u32,
    unused: u32,
    primal: u64,
    tangent: u64,
    pair: u64,
}

/// Lists kept at a time. A pass has three row sets a block, of which few differ.
const KEPT: usize = 16;

/// The lists met so far.
pub(super) struct RowTables {
    memory: Option<(Part, usize)>,
    known: Vec<Table>,
    age: u64,
}

struct Table {
    primal: Vec<u32>,
    tangent: Vec<u32>,
}

impl RowTables {
    pub(super) const EMPTY: RowTables = RowTables { memory: None, known: Vec::new(), age: 0 };

    /// Bytes of device memory for lists of up to `tokens` tokens.
    pub(super) const fn bytes(tokens: usize) -> usize {
        KEPT * slot(tokens)
    }

    /// Makes room for lists of up to `tokens` tokens, carved from `arena` if there is one.
    pub(super) fn reserve(&mut self, device: &Arc<Device>, arena: Option<&DeviceArena>, tokens: usize) -> Result<()> {
        const WHAT: &str = "lists of tokens";
        if self.memory.as_ref().is_some_and(|(_, most)| *most >= tokens) {
            return Ok(());
        }
        *self = RowTables { age: self.age + 1, ..RowTables::EMPTY };
        let own;
        let arena = match arena {
            Some(arena) => arena,
            None => {
                own = DeviceArena::allocate(device, Self::bytes(tokens), WHAT)?;
                &own
            }
        };
        self.memory = Some((arena.carve(Self::bytes(tokens), WHAT)?, tokens));
        Ok(())
    }

    /// Changes when lists are dropped: while it is the same, addresses given by [`RowTables::get`] hold.
    pub(super) fn age(&self) -> u64 {
        self.age
    }

    /// `rows` for a kernel that is launched in `stream`.
    pub(super) fn get(&mut self, stream: &Stream, arena: Option<&DeviceArena>, rows: &Rows) -> Result<RowSet> {
        let found =
            self.known.iter().position(|known| known.primal == rows.primal() && known.tangent == rows.tangent());
        let at = match found {
            Some(at) => at,
            None => self.upload(stream, arena, rows)?,
        };
        let (memory, most) = self.memory.as_ref().expect("uploaded to it");
        let start = memory.start() + (at * slot(*most)) as u64;
        let list = |i: usize| start + (i * most * size_of::<u32>()) as u64;
        let count = |n: usize| u32::try_from(n).expect("tokens are counted in 32 bits");
        Ok(RowSet {
            examples: count(rows.examples),
            tangents: count(rows.tangents),
            tokens: count(rows.tokens),
            primal_count: count(rows.primal().len()),
            tangent_count: count(rows.tangent().len()),
            unused: 0,
            primal: list(0),
            tangent: list(1),
            pair: list(2),
        })
    }

    fn upload(&mut self, stream: &Stream, arena: Option<&DeviceArena>, rows: &Rows) -> Result<usize> {
        self.reserve(stream.device(), arena, rows.primal().len().max(1))?;
        if self.known.len() == KEPT {
            // Kernels that read the old lists run before those that read the new ones.
            self.known.clear();
            self.age += 1;
        }
        let (memory, most) = self.memory.as_ref().expect("reserved");
        let mut lists = vec![0u32; 3 * most];
        let pairs: Vec<u32> = (0..rows.primal().len()).map(|i| rows.pair(i).map_or(u32::MAX, |j| j as u32)).collect();
        for (list, values) in lists.chunks_exact_mut(*most).zip([rows.primal(), rows.tangent(), &pairs]) {
            list[..values.len()].copy_from_slice(values);
        }
        let bytes: Vec<u8> = lists.iter().flat_map(|v| v.to_ne_bytes()).collect();
        let at = self.known.len();
        // SAFETY: within the part; memory that is not pinned is read before this returns.
        unsafe { stream.upload(memory.start() + (at * slot(*most)) as u64, &bytes)? };
        self.known.push(Table { primal: rows.primal().to_vec(), tangent: rows.tangent().to_vec() });
        Ok(at)
    }
}

const fn slot(tokens: usize) -> usize {
    padded(3 * tokens * size_of::<u32>())
}
