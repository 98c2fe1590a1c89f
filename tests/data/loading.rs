//! The loader: order, determinism, errors in place, prompt ending.

use crate::{image, shared};
use foretune::Error;
use foretune::data::{
    Augment, Dataset, Format, Interpolation, Item, Loader, LoaderOptions, MAX_BYTES, OpenOptions, Preprocess, Request,
    Resize, Split, load_image,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SEED: u64 = 11;

fn preprocess() -> Preprocess {
    Preprocess {
        crop: [32, 24],
        resize: Resize::ShortSide(36),
        interpolation: Interpolation::Bicubic,
        mean: [0.5, 0.4, 0.3],
        std: [0.2, 0.3, 0.4],
    }
}

fn items() -> Arc<[Item]> {
    let names = ["baseline.jpg", "rgb.png", "missing.jpg", "lossy.webp", "large.jpg", "make.py"];
    let item = |(label, name)| Item { path: image(name), label, split: Split::Train, crop: None };
    (0..).zip(names).map(item).collect()
}

const AUGMENTS: [Augment; 4] =
    [Augment::None, Augment::Flip, Augment::ResizedCrop { scale: [0.2, 1.0], ratio: [0.75, 1.33] }, Augment::Vpt];

fn requests(count: usize) -> impl Iterator<Item = Request> + Send {
    (0..count).map(|n| Request { item: n * 7 % 6, epoch: (n / 6) as u64, augment: AUGMENTS[n % 4] })
}

/// Everything a loader delivers: pixels' bits and label, or the error's text.
fn deliver(threads: usize, ahead: usize, count: usize) -> Vec<Result<(u32, Vec<u32>), String>> {
    let options = LoaderOptions { threads, ahead, decode_limit: MAX_BYTES, seed: SEED };
    let mut loader = Loader::new(items(), preprocess(), requests(count), options).unwrap();
    let mut pixels = vec![0.0; loader.image_len()];
    let mut delivered = Vec::new();
    while let Some(sample) = loader.next_into(&mut pixels) {
        let bits = pixels.iter().map(|value| value.to_bits()).collect();
        delivered.push(sample.map(|label| (label, bits)).map_err(|error| error.to_string()));
    }
    assert!(loader.next_into(&mut pixels).is_none(), "it stays at its end");
    delivered
}

#[test]
fn samples_come_in_order_and_alike_for_any_threads_and_queue() {
    let one = deliver(1, 1, 60);
    assert_eq!(one.len(), 60);
    for (sample, request) in one.iter().zip(requests(60)) {
        match (request.item, sample) {
            (2, Err(text)) => assert!(text.contains("missing.jpg"), "{text}"),
            (5, Err(text)) => assert!(text.contains("make.py") && text.contains("text"), "{text}"),
            (item, Ok((label, _))) => assert_eq!(*label as usize, item),
            other => panic!("{other:?}"),
        }
    }
    for (threads, ahead) in [(1, 5), (2, 3), (4, 16), (7, 2), (0, 0)] {
        assert!(deliver(threads, ahead, 60) == one, "{threads} threads, {ahead} ahead");
    }
}

#[test]
fn without_augmentation_it_delivers_the_evaluation_image() {
    let mut expected = vec![0.0; preprocess().image_len()];
    load_image(&image("baseline.jpg"), None, &preprocess(), &mut expected).unwrap();
    let bits: Vec<u32> = expected.iter().map(|value| value.to_bits()).collect();
    let first = deliver(2, 4, 1).remove(0).unwrap();
    assert_eq!(first, (0, bits));
}

#[test]
fn augmentations_vary_with_epoch_and_item_only() {
    let load = |seed, epoch, augment| {
        let options = LoaderOptions { threads: 1, ahead: 1, decode_limit: MAX_BYTES, seed };
        let requests = std::iter::once(Request { item: 4, epoch, augment });
        let mut loader = Loader::new(items(), preprocess(), requests, options).unwrap();
        let mut pixels = vec![0.0; loader.image_len()];
        loader.next_into(&mut pixels).unwrap().unwrap();
        pixels
    };
    for augment in &AUGMENTS[2..] {
        assert_eq!(load(1, 3, *augment), load(1, 3, *augment));
        assert_ne!(load(1, 3, *augment), load(1, 4, *augment));
        assert_ne!(load(1, 3, *augment), load(2, 3, *augment));
    }
    let plain = load(1, 0, Augment::None);
    let mut mirrored = plain.clone();
    mirrored.chunks_exact_mut(24).for_each(<[f32]>::reverse);
    let flips = (0..64).filter(|&epoch| {
        let pixels = load(1, epoch, Augment::Flip);
        assert!(pixels == plain || pixels == mirrored);
        pixels == mirrored
    });
    let flips = flips.count();
    assert!((16..48).contains(&flips), "{flips} of 64 flipped");
}

#[test]
fn an_endless_loader_is_dropped_promptly() {
    for taken in [0, 1, 5] {
        let started = Instant::now();
        let endless = (0..).map(|n| Request { item: n % 2, epoch: n as u64, augment: Augment::Vpt });
        let options = LoaderOptions { threads: 3, ahead: 8, decode_limit: MAX_BYTES, seed: SEED };
        let mut loader = Loader::new(items(), preprocess(), endless, options).unwrap();
        let mut pixels = vec![0.0; loader.image_len()];
        for _ in 0..taken {
            loader.next_into(&mut pixels).unwrap().unwrap();
        }
        drop(loader);
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn bad_requests_are_errors_in_their_place() {
    let options = LoaderOptions { threads: 2, ahead: 4, decode_limit: MAX_BYTES, seed: SEED };
    let requests = [0, 99, 1].map(|item| Request { item, epoch: 0, augment: Augment::None });
    let mut loader = Loader::new(items(), preprocess(), requests.into_iter(), options).unwrap();
    let mut pixels = vec![0.0; loader.image_len()];
    assert!(matches!(loader.next_into(&mut [0.0; 3]), Some(Err(Error::Shape { .. }))));
    assert_eq!(loader.next_into(&mut pixels).unwrap().unwrap(), 0);
    assert!(matches!(loader.next_into(&mut pixels), Some(Err(Error::Shape { .. }))));
    assert_eq!(loader.next_into(&mut pixels).unwrap().unwrap(), 1);
    assert!(loader.next_into(&mut pixels).is_none());

    let failing = (0..3).map(move |n| if n < 2 { requests[0] } else { panic!("the caller's iterator fails") });
    let mut loader = Loader::new(items(), preprocess(), failing, options).unwrap();
    assert!((0..2).all(|_| loader.next_into(&mut pixels).is_some_and(|sample| sample.is_ok())));
    assert!(loader.next_into(&mut pixels).is_none());
    let absurd = Preprocess { crop: [0, 0], ..preprocess() };
    assert!(matches!(Loader::new(items(), absurd, std::iter::empty(), options), Err(Error::Options(_))));
}

#[test]
fn a_shared_set_loads_whole() {
    let Some(root) = shared("data/CUB_200_2011_first50") else { return };
    let set = Dataset::open(&root, Format::Cub, &OpenOptions { crop_boxes: true, skip_bad: false }).unwrap();
    let labels: Vec<u32> = set.items.iter().step_by(9).map(|item| item.label).collect();
    let items = set.items;
    let requests = (0..items.len()).step_by(9).map(|item| Request { item, epoch: 0, augment: AUGMENTS[2] });
    let options = LoaderOptions { threads: 2, ahead: 16, decode_limit: MAX_BYTES, seed: SEED };
    let mut loader = Loader::new(items, preprocess(), requests, options).unwrap();
    let mut pixels = vec![f32::NAN; loader.image_len()];
    let mut delivered = Vec::new();
    while let Some(sample) = loader.next_into(&mut pixels) {
        delivered.push(sample.unwrap());
        assert!(pixels.iter().all(|value| (-3.0..6.0).contains(value)));
    }
    assert_eq!(delivered, labels);
}
