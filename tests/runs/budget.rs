//! `--budget` is refused before anything is touched.

use crate::common::{Bench, failure, listing, smallest_budget, success};
use std::fs;

const OPTIONS: &str = "--steps 2 --batch 4 --prompts 2 --threads 2 --quiet";

#[test]
fn too_small_a_budget_is_refused_before_an_image_is_opened() {
    let bench = Bench::new(4, 2);
    let good = bench.tune("a.safetensors", OPTIONS);
    let budget = |bytes: u64, more: &str| bench.tune("a.safetensors", &format!("{OPTIONS} --budget {bytes} {more}"));
    let named = smallest_budget(&failure(&budget(1 << 20, ""), 1));

    // Every photo is empty; what is reported is the budget, with or without looking for such photos.
    let photos: Vec<_> = ["kind0", "kind1", "kind2"]
        .into_iter()
        .flat_map(|kind| {
            let folder = bench.path("data/train").join(kind);
            listing(&folder).into_iter().map(move |name| folder.join(name))
        })
        .collect();
    let kept: Vec<Vec<u8>> = photos.iter().map(|path| fs::read(path).unwrap()).collect();
    photos.iter().for_each(|path| fs::write(path, []).unwrap());
    assert!(!failure(&good, 1).contains("budget"));
    assert!(!failure(&budget(named, ""), 1).contains("budget"));
    for more in ["", "--skip-bad"] {
        for bytes in [1 << 20, named - 1] {
            let message = failure(&budget(bytes, more), 1);
            assert!(message.contains(&format!("a budget of {bytes} bytes is too small")), "{message}");
            assert_eq!(smallest_budget(&message), named);
        }
    }
    assert!(bench.outputs().is_empty());

    // Nor is the output looked at first.
    let mut elsewhere = budget(1 << 20, "");
    let out = elsewhere.iter().position(|argument| argument == "--out").unwrap();
    elsewhere[out + 1] = bench.arg("absent/a.safetensors");
    assert_eq!(smallest_budget(&failure(&elsewhere, 1)), named);

    // The budget that was named is enough for photos that can be read.
    photos.iter().zip(kept).for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    success(&budget(named, ""));
    assert_eq!(bench.outputs(), ["a.checkpoint.safetensors", "a.safetensors"]);
    failure(&budget(named - 1, ""), 1);
}

/// Looking for photos to leave out keeps to the budget as well: those that would not fit a run are left out.
#[test]
fn photos_that_do_not_fit_the_budget_are_left_out() {
    let bench = Bench::new(4, 2);
    let tune = |more: &str| bench.tune("a.safetensors", &format!("{OPTIONS} --budget {more}"));
    let named = smallest_budget(&failure(&tune("1KiB"), 1));
    // A PNG is decoded whole: 16 megapixels take more than the smallest budget has.
    let large = image::RgbImage::new(4000, 4000);
    large.save(bench.path("data/train/kind0/large.png")).unwrap();
    let enough = named + 1000;
    let message = failure(&tune(&enough.to_string()), 1);
    assert!(message.contains("large.png"), "{message}");
    success(&tune(&format!("{enough} --skip-bad")));
}
