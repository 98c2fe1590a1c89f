//! The `.mat` reader: everything the writer can write, the real devkit, and hostile bytes.

use crate::mat_writer::{Mat, Style};
use crate::shared;
use flate2::{Compression, write::ZlibEncoder};
use foretune::data::mat::{Value, parse};
use proptest::prelude::*;
use std::fs;
use std::io::Write;

fn sample(style: Style) -> Vec<u8> {
    let annotation = |name, class| vec![Mat::Text(name), Mat::Byte(class), Mat::Doubles(vec![1.5])];
    style.file(&[
        ("names", Mat::Cells(vec![Mat::Text("Audi"), Mat::Text("Škoda Kodiaq, seven seats"), Mat::Text("")])),
        ("labels", Mat::Doubles(vec![3.0, -1.0, 0.25])),
        (
            "annotations",
            Mat::Struct(vec!["fname", "class", "x"], vec![annotation("a.jpg", 1), annotation("b.jpg", 200)]),
        ),
    ])
}

#[test]
fn both_byte_orders_compressed_or_not() {
    for style in Style::ALL {
        let variables = parse(&sample(style)).unwrap();
        let [(n0, names), (n1, labels), (n2, annotations)] = variables.as_slice() else { panic!("{variables:?}") };
        assert_eq!([n0, n1, n2], ["names", "labels", "annotations"]);
        assert_eq!(names.texts().unwrap(), ["Audi", "Škoda Kodiaq, seven seats", ""]);
        assert_eq!(*labels, Value::Numbers(vec![3.0, -1.0, 0.25]));
        let Value::Struct(annotations) = annotations else { panic!("{annotations:?}") };
        assert_eq!(annotations.len(), 2);
        assert_eq!(annotations.get(1, "fname").and_then(Value::text), Some("b.jpg"));
        assert_eq!(annotations.get(1, "class").and_then(Value::number), Some(200.0));
        assert_eq!(annotations.get(0, "x").and_then(Value::number), Some(1.5));
        assert_eq!((annotations.get(2, "x"), annotations.get(0, "y")), (None, None));
    }
}

#[test]
fn the_real_devkit() {
    let Some(folder) = shared("data/stanford_cars_devkit") else { return };
    let read = |name: &str| parse(&fs::read(folder.join(name)).unwrap()).unwrap();
    let meta = read("cars_meta.mat");
    let names = meta.iter().find(|(name, _)| name == "class_names").unwrap().1.texts().unwrap();
    assert_eq!(
        (names.len(), names[0], names[195]),
        (196, "AM General Hummer SUV 2000", "smart fortwo Convertible 2012")
    );
    for (name, images, fields) in [("cars_train_annos.mat", 8144, true), ("cars_test_annos.mat", 8041, false)] {
        let variables = read(name);
        let Some((_, Value::Struct(annotations))) = variables.iter().find(|(name, _)| name == "annotations") else {
            panic!("{name} has no annotations")
        };
        assert_eq!(annotations.len(), images);
        assert_eq!(annotations.get(0, "fname").and_then(Value::text), Some("00001.jpg"));
        assert_eq!(annotations.get(images - 1, "class").is_some(), fields);
    }
}

fn compressed(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    let packed = encoder.finish().unwrap();
    let mut file = Style::PLAIN.file(&[]);
    file.extend(15u32.to_le_bytes());
    file.extend((packed.len() as u32).to_le_bytes());
    file.extend(packed);
    file
}

#[test]
fn bombs_are_refused() {
    // 512 MiB of zeros in half a megabyte.
    let error = parse(&compressed(&vec![0; 512 << 20])).unwrap_err();
    assert!(error.contains("far more data"), "{error}");

    let mut nested = Mat::Byte(1);
    for _ in 0..100 {
        nested = Mat::Cells(vec![nested]);
    }
    let error = parse(&Style::PLAIN.file(&[("deep", nested)])).unwrap_err();
    assert!(error.contains("nested too deeply"), "{error}");

    // A struct, and a cell array, of 2³¹ × 2³¹ elements that are not there.
    for class in [1, 2, 4, 6] {
        let mut body = Vec::new();
        for word in [6u32, 8, class, 0, 5, 8, i32::MAX as u32, i32::MAX as u32, 1 << 16 | 1, u32::from(b'a')] {
            body.extend(word.to_le_bytes());
        }
        // Field names' length 1, one field `b`, for the struct; too little data for the others.
        for word in [4 << 16 | 5, 1u32, 1 << 16 | 1, u32::from(b'b')] {
            body.extend(word.to_le_bytes());
        }
        let mut file = Style::PLAIN.file(&[]);
        file.extend(14u32.to_le_bytes());
        file.extend((body.len() as u32).to_le_bytes());
        file.extend(body);
        if class != 4 {
            assert!(parse(&file).is_err(), "class {class}");
        }
    }
}

#[test]
fn other_files_are_named() {
    let mut hdf = b"MATLAB 7.3 MAT-file".to_vec();
    hdf.resize(600, 0);
    assert!(parse(&hdf).unwrap_err().contains("-v7"));
    assert!(parse(b"path,label\n").unwrap_err().contains("not a MATLAB 5 file"));
    assert!(parse(&[]).is_err());
    let whole = sample(Style::PLAIN);
    for length in 129..whole.len() - 8 {
        // Cut between variables it is a shorter file, otherwise an error.
        match parse(&whole[..length]) {
            Ok(variables) => assert!(variables.len() < 3),
            Err(error) => assert!(error.contains("ends in the middle"), "{error}"),
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..600), big in any::<bool>()) {
        let mut file = Style { big, compressed: false }.file(&[]);
        file.extend(tail);
        let _ = parse(&file);
    }

    #[test]
    fn mutated_files_never_panic(
        style in prop::sample::select(Style::ALL.to_vec()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut file = sample(style);
        for (at, value) in changes {
            let at = 128 + at.index(file.len() - 128);
            file[at] = value;
        }
        let _ = parse(&file);
    }
}
