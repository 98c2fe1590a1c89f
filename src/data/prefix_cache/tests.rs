use super::*;
use crate::data::loader::Sample;
use crate::data::{Augment, Loader, LoaderOptions, Request, Split};
use std::sync::Arc;

const KEY: [u8; 32] = [3; 32];
/// More than a tile, and no multiple of one.
const VALUES: usize = 300;

/// Files that stand for images, and a cache of them.
struct Bench {
    folder: tempfile::TempDir,
    items: Vec<Item>,
}

impl Bench {
    fn new(images: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let items = (0..images).map(|i| {
            let path = folder.path().join(format!("{i}.png"));
            fs::write(&path, "as good as an image").unwrap();
            Item { path, label: 0, split: Split::Train, crop: None }
        });
        let items = items.collect();
        Bench { folder, items }
    }

    fn options(&self, most_bytes: u64) -> PrefixCacheOptions {
        PrefixCacheOptions { dir: self.folder.path().join("cache/of/mine"), most_bytes }
    }

    fn open(&self) -> PrefixCache {
        self.open_with(KEY, u64::MAX)
    }

    fn open_with(&self, key: [u8; 32], most_bytes: u64) -> PrefixCache {
        PrefixCache::open(&self.options(most_bytes), key, &self.items, VALUES).unwrap()
    }

    /// Keeps a record of every image.
    fn fill(&self) -> PathBuf {
        let cache = self.open();
        (0..self.items.len()).for_each(|item| cache.store(item, &values(item)));
        assert_eq!(cache.kept(), self.items.len());
        cache.path.clone()
    }

    /// Items that are read, each with its own values.
    fn found(&self, cache: &PrefixCache) -> Vec<usize> {
        let (mut record, mut out) = (Vec::new(), Vec::new());
        let mut found = |&item: &usize| {
            let found = cache.read(item, &mut record, &mut out);
            assert!(!found || out == values(item), "item {item}");
            found
        };
        (0..self.items.len()).filter(|item| found(item)).collect()
    }
}

fn values(item: usize) -> Vec<f32> {
    let mut values: Vec<f32> = (0..VALUES).map(|i| (i * 7 + item * 131) as f32 * 0.37 - 90.0).collect();
    assert!(round_to_f16(&mut values));
    values
}

#[test]
fn what_is_kept_is_found_again() {
    let bench = Bench::new(600);
    bench.fill();
    let cache = bench.open();
    assert_eq!(bench.found(&cache), (0..600).collect::<Vec<_>>());
    // Kept once: storing again changes nothing.
    let len = cache.file.len().unwrap();
    cache.store(5, &values(6));
    assert_eq!(bench.found(&cache).len(), 600);
    assert_eq!(cache.file.len().unwrap(), len);
}

#[test]
fn rounding_is_what_writing_and_reading_does() {
    let exact = [0.0, -0.0, 1.0, 65504.0, -65504.0, 2f32.powi(-24), f32::INFINITY, f32::NEG_INFINITY];
    let mut rounded = exact;
    assert!(round_to_f16(&mut rounded));
    assert_eq!(rounded.map(f32::to_bits), exact.map(f32::to_bits));
    let mut values = [1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11), 65519.0, 2f32.powi(-25), f32::NAN];
    assert!(round_to_f16(&mut values));
    assert_eq!(values[..4], [1.0, 1.0 + 2f32.powi(-9), 65504.0, 0.0], "to nearest, ties to even");
    assert!(values[4].is_nan());
    assert!(!round_to_f16(&mut [0.0, 65520.0]) && !round_to_f16(&mut [-1e30]));
}

#[test]
fn a_bound_is_kept_and_what_is_beyond_is_not() {
    let bench = Bench::new(300);
    let most = 100_000;
    let cache = bench.open_with(KEY, most);
    (0..300).for_each(|item| cache.store(item, &values(item)));
    let kept = cache.kept();
    assert!((1..300).contains(&kept) && cache.file.len().unwrap() <= most, "{kept}");
    assert_eq!(bench.found(&cache), (0..kept).collect::<Vec<_>>());
    drop(cache);
    // With more room the rest is added, with less nothing is taken away.
    bench.fill();
    assert_eq!(bench.found(&bench.open_with(KEY, 0)).len(), 300);
}

#[test]
fn flipped_bits_are_noticed_wherever_they_are() {
    let bench = Bench::new(3);
    let path = bench.fill();
    let whole = fs::read(&path).unwrap();
    let record = whole.len() - 2 * VALUES;
    // The header; an entry's identity and checksum; a record's first and last byte.
    for (at, lost) in [(20, 3), (70, 3), (128, 1), (128 + 16, 1), (record, 1), (whole.len() - 1, 1)] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let cache = bench.open();
        assert_eq!(bench.found(&cache).len(), 3 - lost, "byte {at}");
        // What is computed again takes the damaged record's place.
        (0..3).for_each(|item| cache.store(item, &values(item)));
        assert_eq!(bench.found(&cache).len(), 3, "byte {at}");
        drop(cache);
        assert_eq!(bench.found(&bench.open()).len(), 3, "byte {at}");
    }
}

#[test]
fn a_file_cut_anywhere_is_used_as_far_as_it_goes() {
    let bench = Bench::new(4);
    let path = bench.fill();
    let whole = fs::read(&path).unwrap();
    for len in (0..whole.len()).step_by(97).chain([1, 127, 128, 129, whole.len() - 1]) {
        fs::write(&path, &whole[..len]).unwrap();
        let cache = bench.open();
        let found = bench.found(&cache);
        assert_eq!(found.len(), (len.saturating_sub(128 + 256 * 32)) / (2 * VALUES), "{len} bytes");
        (0..4).for_each(|item| cache.store(item, &values(item)));
        assert_eq!(bench.found(&cache).len(), 4, "{len} bytes");
        drop(cache);
    }
}

#[test]
fn another_keys_file_is_started_anew_and_a_foreign_one_left_alone() {
    let bench = Bench::new(2);
    let mine = bench.fill();
    let other = bench.open_with([4; 32], u64::MAX);
    let theirs = other.path.clone();
    assert_ne!(mine, theirs);
    drop(other);
    fs::copy(&mine, &theirs).unwrap();
    let other = bench.open_with([4; 32], u64::MAX);
    assert!(bench.found(&other).is_empty(), "records of another model");
    other.store(0, &values(0));
    assert_eq!(other.kept(), 1);
    drop(other);

    fs::write(&mine, "a letter that someone keeps here").unwrap();
    let cache = bench.open();
    cache.store(0, &values(0));
    assert_eq!((cache.kept(), fs::read(&mine).unwrap()), (0, b"a letter that someone keeps here".to_vec()));
    // Entries moved from another key's file do not fit this one's records.
    drop(cache);
    fs::remove_file(&mine).unwrap();
    let records = fs::read(&theirs).unwrap();
    bench.fill();
    let mut mixed = fs::read(&mine).unwrap();
    mixed[128..records.len()].copy_from_slice(&records[128..]);
    fs::write(&mine, mixed).unwrap();
    assert!(!bench.open().read(0, &mut Vec::new(), &mut Vec::new()));
}

#[test]
fn the_second_to_open_reads_and_does_not_write() {
    let bench = Bench::new(3);
    let first = bench.open();
    first.store(0, &values(0));
    let second = bench.open();
    second.store(1, &values(1));
    assert_eq!(bench.found(&second), [0]);
    first.store(2, &values(2));
    assert_eq!(bench.found(&first), [0, 2]);
    drop((first, second));
    assert_eq!(bench.found(&bench.open()), [0, 2]);
}

#[test]
fn another_file_or_box_is_another_image() {
    let mut bench = Bench::new(4);
    bench.fill();
    bench.items[1].crop = Some([0.0, 0.0, 5.0, 5.0]);
    fs::write(&bench.items[2].path, "as good as another image").unwrap();
    fs::remove_file(&bench.items[3].path).unwrap();
    // Split and label are not the image's.
    bench.items[0].split = Split::Val;
    bench.items[0].label = 9;
    let cache = bench.open();
    assert_eq!(bench.found(&cache), [0]);
    cache.store(3, &values(3));
    assert_eq!(bench.found(&cache), [0], "a file that cannot be looked up is not kept");
    // In another order, and through another path to the same folder.
    drop(cache);
    let folder = bench.folder.path().join("cache/..");
    bench.items.truncate(2);
    bench.items.reverse();
    bench.items[1].path = folder.join("0.png");
    let cache = bench.open();
    let mut out = Vec::new();
    assert!(cache.read(1, &mut Vec::new(), &mut out) && out == values(0));
}

/// The files are no images: what is kept of them is delivered all the same, in its place.
#[test]
fn what_is_kept_is_not_decoded() {
    let bench = Bench::new(3);
    bench.fill();
    fs::write(&bench.items[1].path, "changed, and still no image").unwrap();
    let preprocess = crate::data::Preprocess {
        crop: [6, 6],
        resize: crate::data::Resize::ShortSide(6),
        interpolation: crate::data::Interpolation::Bilinear,
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    let options = LoaderOptions { threads: 2, ahead: 2, decode_limit: crate::data::MAX_BYTES, seed: 0 };
    let requests = [2, 1, 0, 2].map(|item| Request { item, epoch: 0, augment: Augment::None });
    let cache = Some(Arc::new(bench.open()));
    let items = bench.items.clone().into();
    let mut loader = Loader::with_prefixes(items, preprocess, requests.into_iter(), options, cache).unwrap();
    for item in [2, 1, 0, 2] {
        let taken = loader.next_with(|sample, found| (sample, found == values(item))).unwrap();
        match taken {
            Ok(taken) => assert_eq!(taken, (Sample { item, label: 0, prefix: true }, true)),
            Err(error) => assert!(item == 1 && matches!(error, Error::Image { .. }), "{error}"),
        }
    }
    assert!(loader.next_with(|_, _| ()).is_none());
}

#[test]
fn a_folder_that_cannot_be_had_is_an_error() {
    let bench = Bench::new(1);
    let dir = bench.items[0].path.join("cache");
    let options = PrefixCacheOptions { dir: dir.clone(), most_bytes: 1 << 20 };
    let error = PrefixCache::open(&options, KEY, &bench.items, VALUES).map(|_| ()).unwrap_err();
    assert!(matches!(&error, Error::Io { action: "create", path, .. } if *path == dir), "{error}");
}

/// `/dev/full` refuses every write, as a full disk does.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_ends_the_keeping_and_nothing_else() {
    let bench = Bench::new(3);
    let cache = bench.open();
    cache.store(0, &values(0));
    let full = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
    let cache = PrefixCache { file: CacheFile::new(full, KEY, VALUES), ..cache };
    cache.store(1, &values(1));
    cache.store(2, &values(2));
    assert_eq!(cache.kept(), 1);
    assert!(guard(cache.writer.as_ref().unwrap()).stopped);
    assert_eq!(bench.found(&bench.open()), [0]);
}
