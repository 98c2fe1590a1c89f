//! The file of a prefix cache: where records stand, and how damage to them is noticed.
//!
//! ```text
//! header   128 bytes: magic 16, version u32, 0 u32, values of a record u64, key 32, the header's checksum 16, zeros
//! group    256 entries of 32 bytes: an image's identity 16, a checksum 16; then the 256 records, little-endian f16
//! group    …
//! ```
//!
//! A record is written before its entry, whose checksum is over key, identity and record. What was being written when the program was
//! killed, the disk ran full or the file was cut short therefore has no entry, or one that does not fit. How many records there are
//! is what the entries say: a count in the header would be wrong after every kill.

use super::identity::{Id, NO_ID};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

const MAGIC: [u8; 16] = *b"foretune prefix\n";
const VERSION: u32 = 1;
const HEADER: u64 = 128;
/// Bytes of the header that its checksum is over.
const CHECKED: usize = 64;
/// Slots of a group.
const GROUP: u64 = 256;
const ENTRY: u64 = 32;

/// Of a record and what it belongs to.
pub(super) type Sum = [u8; 16];

/// What a file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing in it.
    Empty,
    /// The wanted file.
    Ours,
    /// A prefix cache of something else, of another version, or one whose header is damaged.
    Other,
    /// No prefix cache.
    Foreign,
}

/// An open file. Reads and writes take turns: they share its position.
pub(super) struct CacheFile {
    file: Mutex<File>,
    key: [u8; 32],
    /// Bytes of a record.
    record: u64,
}

impl CacheFile {
    /// `values`: f16 values of a record.
    pub fn new(file: File, key: [u8; 32], values: usize) -> Self {
        CacheFile { file: Mutex::new(file), key, record: 2 * values as u64 }
    }

    /// Slots that a file of `bytes` bytes has room for.
    pub fn slots(&self, bytes: u64) -> u64 {
        let rest = bytes.saturating_sub(HEADER);
        let group = GROUP * (ENTRY + self.record);
        let last = (rest % group).saturating_sub(GROUP * ENTRY) / self.record;
        rest / group * GROUP + last
    }

    /// What the file is.
    pub fn look(&self) -> io::Result<Found> {
        let mut file = self.lock();
        file.seek(SeekFrom::Start(0))?;
        let mut found = Vec::new();
        (&mut *file).take(HEADER).read_to_end(&mut found)?;
        let magic = &found[..MAGIC.len().min(found.len())];
        Ok(match magic {
            [] => Found::Empty,
            _ if found == self.header() => Found::Ours,
            _ if MAGIC.starts_with(magic) => Found::Other,
            _ => Found::Foreign,
        })
    }

    /// Empties the file but for its header.
    pub fn start_anew(&self) -> io::Result<()> {
        self.lock().set_len(0)?;
        self.write(0, &self.header())
    }

    /// Bytes of the file.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.lock().metadata()?.len())
    }

    fn header(&self) -> [u8; HEADER as usize] {
        let mut header = [0; HEADER as usize];
        header[..16].copy_from_slice(&MAGIC);
        header[16..20].copy_from_slice(&VERSION.to_le_bytes());
        header[24..32].copy_from_slice(&(self.record / 2).to_le_bytes());
        header[32..64].copy_from_slice(&self.key);
        let sum = blake3::hash(&header[..CHECKED]);
        header[CHECKED..][..16].copy_from_slice(&sum.as_bytes()[..16]);
        header
    }

    /// Gives `each` the slots that have entries. Slots whose records the file ends before are left out; how many those were.
    pub fn entries(&self, mut each: impl FnMut(u64, Id, Sum)) -> io::Result<u64> {
        let len = self.len()?;
        let mut table = [0; (GROUP * ENTRY) as usize];
        let (mut first, mut cut) = (0, 0);
        while self.entry(first) < len {
            let there = (len - self.entry(first)).min(GROUP * ENTRY);
            let table = &mut table[..there as usize];
            self.read(self.entry(first), table)?;
            for (slot, entry) in (first..).zip(table.chunks_exact(ENTRY as usize)) {
                let (id, sum) = entry.split_at(size_of::<Id>());
                match (Id::try_from(id), Sum::try_from(sum)) {
                    (Ok(NO_ID), _) => {}
                    (Ok(id), Ok(sum)) if self.place(slot) + self.record <= len => each(slot, id, sum),
                    _ => cut += 1,
                }
            }
            first += GROUP;
        }
        Ok(cut)
    }

    /// The checksum of a record.
    pub fn sum(&self, id: &Id, record: &[u8]) -> Sum {
        let hash = blake3::Hasher::new().update(&self.key).update(id).update(record).finalize();
        let mut sum = Sum::default();
        let len = sum.len();
        sum.copy_from_slice(&hash.as_bytes()[..len]);
        sum
    }

    /// Reads the record of `slot`. Errors: the system's own; the file ends before it.
    pub fn read_record(&self, slot: u64, record: &mut [u8]) -> io::Result<()> {
        self.read(self.place(slot), record)
    }

    /// Writes a record into `slot`, then its entry. Errors: the system's own; the slot holds nothing that is taken for a record then.
    pub fn write_record(&self, slot: u64, id: &Id, record: &[u8]) -> io::Result<Sum> {
        let sum = self.sum(id, record);
        self.write(self.place(slot), record)?;
        let mut entry = [0; ENTRY as usize];
        entry[..16].copy_from_slice(id);
        entry[16..].copy_from_slice(&sum);
        self.write(self.entry(slot), &entry)?;
        Ok(sum)
    }

    /// Where the entry of `slot` stands.
    fn entry(&self, slot: u64) -> u64 {
        HEADER + slot / GROUP * GROUP * (ENTRY + self.record) + slot % GROUP * ENTRY
    }

    /// Where the record of `slot` stands.
    fn place(&self, slot: u64) -> u64 {
        self.entry(slot / GROUP * GROUP) + GROUP * ENTRY + slot % GROUP * self.record
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut file = self.lock();
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(bytes)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.lock();
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)
    }

    fn lock(&self) -> MutexGuard<'_, File> {
        // Every use begins with a seek.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_lie_behind_one_another_and_within_their_bound() {
        let file = CacheFile::new(tempfile::tempfile().unwrap(), [7; 32], 5);
        let mut taken = Vec::new();
        taken.push(0..HEADER);
        for slot in 0..3 * GROUP {
            taken.push(file.entry(slot)..file.entry(slot) + ENTRY);
            taken.push(file.place(slot)..file.place(slot) + file.record);
            let end = file.place(slot) + file.record;
            assert_eq!((file.slots(end), file.slots(end - 1)), (slot + 1, slot), "{slot}");
        }
        taken.sort_by_key(|range| range.start);
        assert!(taken.windows(2).all(|two| two[0].end == two[1].start));
        assert_eq!([0, HEADER, HEADER + GROUP * ENTRY].map(|bytes| file.slots(bytes)), [0; 3]);
    }

    #[test]
    fn files_are_told_apart() {
        let file = tempfile::tempfile().unwrap();
        let with = |key: u8, values| CacheFile::new(file.try_clone().unwrap(), [key; 32], values);
        let ours = with(1, 4);
        assert_eq!(ours.look().unwrap(), Found::Empty);
        ours.start_anew().unwrap();
        assert_eq!(ours.look().unwrap(), Found::Ours);
        assert_eq!([with(2, 4), with(1, 5)].map(|other| other.look().unwrap()), [Found::Other; 2]);
        file.set_len(HEADER - 1).unwrap();
        assert_eq!(ours.look().unwrap(), Found::Other);
        ours.write(3, b"?").unwrap();
        assert_eq!(ours.look().unwrap(), Found::Foreign);
    }
}
