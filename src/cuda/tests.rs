//! The table of operations on a GPU, or on the emulator; and what only this backend does: streaming and its budget.

use super::{CudaBackend, CudaOptions};
use crate::backend::{Backend, Precision};
use crate::encoder::{Input, Pass};
use crate::engine::Native;
use crate::model::{Head, LoadOptions, Model, PromptLayout};
use crate::ops::loss::{self, Judged};
use crate::ops::table::{Shape, check_independence, compare, run, shapes};
use crate::rng::Draw;
use ndarray::{Array1, Array2};
use std::path::Path;

#[path = "../../tests/emulator/mod.rs"]
mod emulator;

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Bf16];

fn backend(precision: Precision) -> CudaBackend {
    // Only our own products are independent of what they are computed with.
    CudaBackend::new(CudaOptions { precision, own_products: true, ..CudaOptions::default() }).unwrap()
}

/// The table's shapes, on the emulator without those that take it minutes.
fn affordable_shapes(tokens: usize) -> Vec<Shape> {
    let emulated = std::env::var_os("FORETUNE_TEST_DEVICE").is_none();
    shapes().into_iter().filter(|shape| !emulated || shape.tokens() <= tokens).collect()
}

fn rounding(precision: Precision) -> fn(f64) -> f64 {
    match precision {
        Precision::F32 => |v| v,
        Precision::F16 => |v| half::f16::from_f64(v).to_f64(),
        Precision::Bf16 => |v| half::bf16::from_f64(v).to_f64(),
    }
}

/// A test a precision, so that they share the cores.
macro_rules! by_precision {
    ($($name:ident: $check:ident($precision:expr);)*) => {
        $(
            #[test]
            fn $name() {
                if emulator::load() {
                    $check($precision);
                }
            }
        )*
    };
}

by_precision! {
    every_operation_agrees_with_the_f64_reference_in_f32: agrees(Precision::F32);
    every_operation_agrees_with_the_f64_reference_in_f16: agrees(Precision::F16);
    every_operation_agrees_with_the_f64_reference_in_bf16: agrees(Precision::Bf16);
    results_repeat_and_do_not_depend_on_the_other_examples_in_f32: repeats(Precision::F32);
    results_repeat_and_do_not_depend_on_the_other_examples_in_f16: repeats(Precision::F16);
    results_repeat_and_do_not_depend_on_the_other_examples_in_bf16: repeats(Precision::Bf16);
}

fn agrees(precision: Precision) {
    let mut worst = std::collections::BTreeMap::new();
    let backend = backend(precision);
    // Several tiles of keys and blocks of queries take all precisions through the same code but for f32.
    let most = if precision == Precision::Bf16 { 100 } else { 300 };
    for mut shape in affordable_shapes(most) {
        shape.round = rounding(precision);
        for found in compare(&backend, &shape) {
            let error = found.error;
            // The table's values have 22 bits; beyond that an operation adds roundings of what is stored.
            let limit = match (found.name.as_str(), precision) {
                ("gather" | "scatter" | "patches" | "zero", Precision::F32) => 0.0,
                (_, Precision::F32) => 1e-5,
                (_, Precision::F16) => 4e-3,
                (_, Precision::Bf16) => 3e-2,
            };
            // Half of f16's smallest number, below which there are no digits.
            let nothing = precision == Precision::F16 && found.gap < 3e-8;
            assert!(error <= limit || nothing, "{} {precision}, {shape:?}: off by {error:e}", found.name);
            let entry = worst.entry(found.name).or_insert(0.0_f64);
            *entry = entry.max(error);
        }
    }
    println!("{precision}: {worst:#?}");
}

fn repeats(precision: Precision) {
    let backend = backend(precision);
    for shape in affordable_shapes(70) {
        check_independence(&backend, &shape);
        let [first, second] = [(); 2].map(|()| run(&backend, &shape));
        assert!(first == second, "{precision}, {shape:?}");
    }
}

/// Head inputs of a dual pass of a golden model.
fn pass(options: CudaOptions, chunk: usize, examples: usize) -> (Vec<f32>, u64) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/timm_gap");
    let model = Model::open(&path, &LoadOptions::default()).unwrap();
    let native = Native::load(CudaBackend::new(options).unwrap(), &model).unwrap().by_blocks(chunk);
    let layout = PromptLayout { prompts: 2, deep: true, insert_at: 1 };
    let mut engine = native.engine(layout, examples, 2).unwrap();
    let values = |len: usize| (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect::<Vec<f32>>();
    let images = values(examples * engine.image_len());
    let prompts = values(layout.parameters(&model.spec));
    let mut out = vec![0.0; 3 * examples * model.spec.head_width()];
    // Run, captured, replayed: each finds everything where the one before left it.
    for round in 0..3 {
        let images: Vec<f32> = images.iter().map(|v| v + round as f32 / 8.0).collect();
        let pass = Pass { input: Input::Images(&images), prompts: &prompts, tangents: 2 };
        let mut draw = |set: usize, y: &mut [f32]| {
            y.iter_mut().enumerate().for_each(|(i, y)| *y = ((i * 7 + set) % 13) as f32 / 13.0 - 0.5);
            Ok(())
        };
        engine.dual(pass, &mut draw, &mut out).unwrap();

        let (mut prefix, mut again) = (vec![0.0; examples * model.spec.prefix_len()], vec![0.0; out.len()]);
        engine.prefix(&images, &mut prefix).unwrap();
        let pass = Pass { input: Input::Prefix(&prefix), prompts: &prompts, tangents: 2 };
        engine.dual(pass, &mut draw, &mut again).unwrap();
        assert!(again == out, "a pass from the prefix, {chunk} at a time, round {round}");
    }
    (out, native.backend().device().peak())
}

#[test]
fn streamed_weights_and_passes_by_blocks_change_no_bit() {
    if !emulator::load() {
        return;
    }
    for precision in PRECISIONS {
        let options = CudaOptions { precision, own_products: true, ..CudaOptions::default() };
        let (expected, resident) = pass(options, usize::MAX, 5);
        for (streamed, chunk) in [(false, 2), (true, usize::MAX), (true, 1), (true, 2)] {
            let (found, bytes) = pass(CudaOptions { streamed, ..options }, chunk, 5);
            assert!(found == expected, "{precision}, streamed {streamed}, {chunk} at a time");
            assert!(
                !streamed || bytes <= resident,
                "{bytes} bytes of device memory, and {resident} with everything resident"
            );
        }
    }
}

#[test]
fn noise_has_the_cpus_bits() {
    if !emulator::load() {
        return;
    }
    let draw = |shared| Draw { seed: 0x1234_5678_9abc, step: 1 << 33, set: 3, tangents: 2..5, examples: 4..9, shared };
    for (shared, len) in [(false, 37), (true, 8)] {
        let draw = draw(shared);
        let expected = |row: usize| {
            let mut values = vec![0f32; len];
            draw.stream(row).normals(&mut values);
            values
        };
        let backend = backend(Precision::F32);
        let mut out = backend.buffer(9 * len).unwrap();
        assert!(backend.noise(&draw, 2..11, len, &mut out).unwrap());
        let mut found = vec![0f32; 9 * len];
        backend.read(&out, 0, &mut found).unwrap();
        assert_eq!(found, (2..11).flat_map(expected).collect::<Vec<f32>>());

        let weights: Vec<f64> = (0..draw.rows()).map(|i| (i as f64 * 0.7).sin()).collect();
        let (mut sum, mut exact) = (vec![0f64; len], vec![0f64; len]);
        assert!(backend.noise_sum(&draw, &weights, &mut sum).unwrap());
        for (b, weights) in weights.chunks_exact(3).enumerate() {
            for (k, weight) in weights.iter().enumerate() {
                let values = expected(k * 5 + b);
                exact.iter_mut().zip(&values).for_each(|(sum, &n)| *sum += weight * f64::from(n));
            }
        }
        assert_eq!(sum, exact);
    }
}

#[test]
fn a_head_larger_than_a_piece_comes_in_several() {
    if !emulator::load() {
        return;
    }
    let (examples, tangents, width) = (5, 2, 300);
    let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 400.0;
    let f: Vec<f32> = (0..(1 + tangents) * examples * width).map(value).collect();
    let labels: Vec<u32> = (0..examples as u32).map(|b| 70 * b).collect();
    let backend = backend(Precision::F32);
    let mut buffer = backend.buffer(f.len()).unwrap();
    backend.write(&mut buffer, 0, &f).unwrap();
    let mut work = backend.buffer(20_000).unwrap();
    let mut head = |classes: usize| {
        let weight = Array2::from_shape_fn((classes, width), |(c, i)| value(c * width + i + c));
        let head = Head::Linear { weight, bias: Array1::from_shape_fn(classes, |c| value(3 * c)) };
        let (mut expected, mut found) = (Judged::default(), Judged::default());
        loss::judge(&head, &labels, tangents, &f, &mut expected);
        backend.judge(&head, &labels, tangents, &buffer, &mut work, &mut found).map(|()| (expected, found))
    };
    let (expected, found) = head(400).unwrap();
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5);
    assert_eq!(expected.best, found.best);
    assert!(near(&expected.losses, &found.losses) && near(&expected.slopes, &found.slopes));
    assert!(near(&expected.derivatives, &found.derivatives) && expected.derivatives.len() == examples * tangents);
    // No room for a single example's logits.
    let error = head(7000).unwrap_err().to_string();
    assert!(error.contains("classes of a head") && error.contains("7000"), "{error}");
}
