//! Images on disk, in the layout of CUB-200-2011.

use super::draw::{SIDE, Scene};
use super::folder::remove;
use super::shape::Shape;
use super::shift;
use crate::files::write_atomic;
use crate::{Error, Result};
use image::{ImageError, RgbImage};
use rayon::prelude::*;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

/// Images of every class for one split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subset {
    /// Which set of the seed; sets share no image.
    pub set: u64,
    /// Images per class.
    pub per_class: u32,
    /// Whether they are for training, else for the test.
    pub train: bool,
}

/// Writes `subsets` of `seed` to `root` as `images/`, `images.txt`, `image_class_labels.txt`, `train_test_split.txt`,
/// `bounding_boxes.txt` and `classes.txt`; shifted or as drawn.
///
/// The lists come last and `images.txt` at the very end, so that a half-written set does not open.
///
/// # Errors
/// [`Error::Io`] when something cannot be written.
pub fn write_cub(root: &Path, seed: u64, subsets: &[Subset], shifted: bool) -> Result<()> {
    let mut scenes = Vec::new();
    for subset in subsets {
        for shape in Shape::ALL {
            scenes.extend((0..subset.per_class).map(|index| (Scene { shape, seed, set: subset.set, index }, subset)));
        }
    }
    let images = root.join("images");
    for shape in Shape::ALL {
        let folder = images.join(shape.class_name());
        fs::create_dir_all(&folder).map_err(|source| Error::io("create", &folder, source))?;
    }
    remove(&root.join("images.txt"))?;
    scenes.par_iter().try_for_each(|(scene, subset)| write_image(&images.join(file(scene, subset)), scene, shifted))?;

    let (mut list, mut labels, mut splits, mut boxes) = (String::new(), String::new(), String::new(), String::new());
    for (id, (scene, subset)) in (1..).zip(&scenes) {
        let [x, y, width, height] = scene.bounding_box();
        // Writing to a String cannot fail.
        let _ = writeln!(list, "{id} {}", file(scene, subset));
        let _ = writeln!(labels, "{id} {}", scene.shape as usize + 1);
        let _ = writeln!(splits, "{id} {}", u8::from(subset.train));
        let _ = writeln!(boxes, "{id} {x:.1} {y:.1} {width:.1} {height:.1}");
    }
    let classes = Shape::ALL.map(|shape| format!("{} {}\n", shape as usize + 1, shape.class_name())).concat();
    for (name, text) in [
        ("classes.txt", classes),
        ("image_class_labels.txt", labels),
        ("train_test_split.txt", splits),
        ("bounding_boxes.txt", boxes),
        ("images.txt", list),
    ] {
        write_atomic(&root.join(name), |writer| writer.write_all(text.as_bytes()))?;
    }
    Ok(())
}

/// `001.disc/train_0007.png`.
fn file(scene: &Scene, subset: &Subset) -> String {
    let split = if subset.train { "train" } else { "test" };
    format!("{}/{split}_{:04}.png", scene.shape.class_name(), scene.index)
}

/// The image as it is stored, shifted or as drawn.
fn picture(scene: &Scene, shifted: bool) -> RgbImage {
    let mut pixels = scene.draw();
    if shifted {
        shift(scene, &mut pixels);
    }
    let bytes = |x: u32, y: u32| std::array::from_fn(|c| to_byte(pixels[(y as usize * SIDE + x as usize) * 3 + c]));
    RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| image::Rgb(bytes(x, y)))
}

fn to_byte(value: f64) -> u8 {
    (value * 255.0).round() as u8
}

fn write_image(path: &Path, scene: &Scene, shifted: bool) -> Result<()> {
    picture(scene, shifted).save(path).map_err(|error| {
        let source = match error {
            ImageError::IoError(source) => source,
            other => io::Error::other(other),
        };
        Error::io("write", path, source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, Format, OpenOptions, Split};

    /// The bytes that the committed model was trained on and the README's figures come from.
    #[test]
    fn pictures_never_change() {
        let hash = |set, shifted| {
            let mut hash = blake3::Hasher::new();
            for shape in Shape::ALL {
                for index in 0..4 {
                    hash.update(&picture(&Scene { shape, seed: 1, set, index }, shifted));
                }
            }
            hash.finalize().to_hex()[..16].to_owned()
        };
        assert_eq!(
            [hash(0, false), hash(3, false), hash(3, true)],
            ["b6f31e0ac95e7aff", "60350d7c550d4469", "f33bb9656f1ee0d6"]
        );
    }

    #[test]
    fn scenes_differ_by_shape_seed_set_and_index() {
        let scene = Scene { shape: Shape::Star, seed: 0, set: 0, index: 0 };
        let base = picture(&scene, false);
        for other in [
            Scene { shape: Shape::Disc, ..scene },
            Scene { seed: 1, ..scene },
            Scene { set: 1, ..scene },
            Scene { index: 1, ..scene },
        ] {
            assert!(picture(&other, false) != base, "{other:?}");
        }
        assert!(picture(&scene, true) != base);
    }

    #[test]
    fn the_cub_reader_reads_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let train = Subset { set: 2, per_class: 3, train: true };
        let test = Subset { set: 3, per_class: 2, train: false };
        let write = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| write_cub(root, 7, &[train, test], true)).unwrap();
            let options = OpenOptions { crop_boxes: true, ..OpenOptions::default() };
            let dataset = Dataset::open(root, Format::Cub, &options).unwrap();
            let files: Vec<_> = dataset.items.iter().map(|item| fs::read(&item.path).unwrap()).collect();
            (dataset, files)
        };
        let (dataset, files) = write(1);
        assert_eq!(dataset.classes, Shape::ALL.map(Shape::class_name));
        assert_eq!(dataset.class_counts(Split::Train), [3; 10]);
        assert_eq!(dataset.class_counts(Split::Test), [2; 10]);
        assert_eq!(dataset.verify(&mut |_| {}), []);
        for item in dataset.items.iter() {
            assert!(item.path.to_string_lossy().contains(&dataset.classes[item.label as usize]), "{item:?}");
            let [x, y, width, height] = item.crop.unwrap();
            assert!(x >= 0.0 && y >= 0.0 && x + width <= SIDE as f32 && y + height <= SIDE as f32, "{item:?}");
        }
        // Over the first, with another number of threads: the same bytes.
        assert_eq!(write(3), (dataset, files));
    }
}
