//! `foretune corrupt` from outside: the copy, what continues one, and what is refused.

use crate::common::{command, failure, foretune, success, text};
use foretune::data::corrupt::{Corruption, Kind, Severity, corrupt};
use foretune::data::{Dataset, Format, Interpolation, OpenOptions, Preprocess, Resize, load_image};
use foretune::demo::{Subset, write_cub};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A data set in CUB's layout, and room for copies.
struct Room(tempfile::TempDir);

impl Room {
    /// With 10 classes of `train` and 1 images.
    fn new(train: u32) -> Self {
        let room = Room(tempfile::tempdir().expect("a temporary folder"));
        let subset = |set, per_class, train| Subset { set, per_class, train };
        write_cub(&room.path("data"), 7, &[subset(2, train, true), subset(3, 1, false)], false).expect("images");
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Arguments that corrupt `data` into `out`, and `more`, separated by spaces.
    fn args(&self, out: &str, more: &str) -> Vec<String> {
        let [data, out] = ["data", out].map(|name| self.path(name).to_str().expect("UTF-8").to_owned());
        let fixed = ["corrupt", "--format", "cub", "--data", &data, "--out", &out];
        fixed.into_iter().chain(more.split_whitespace()).map(str::to_owned).collect()
    }

    fn files(&self, name: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let root = self.path(name);
        collect(&root, &root, &mut found);
        found
    }
}

/// Every file below `folder`, hidden ones too, by its path from `root` on.
fn collect(root: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, found);
        } else {
            found.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).expect("a file"));
        }
    }
}

fn result(args: &[String]) -> Value {
    let printed = success(&[args, &["--json".to_owned()]].concat());
    assert_eq!(printed.lines().count(), 1, "{printed}");
    serde_json::from_str(&printed).expect("one JSON object")
}

fn rgb(path: &Path) -> image::RgbImage {
    image::ImageReader::open(path).unwrap().with_guessed_format().unwrap().decode().unwrap().into_rgb8()
}

#[test]
fn a_copy_opens_as_its_source() {
    let room = Room::new(2);
    fs::create_dir(room.path("data/parts")).unwrap();
    fs::write(room.path("data/parts/parts.txt"), "1 beak\n").unwrap();
    fs::write(room.path("data/.hidden"), "").unwrap();
    fs::copy(room.path("data/images/001.disc/train_0000.png"), room.path("data/images/loose.png")).unwrap();
    let found = result(&room.args("out", "--kind contrast --severity 3"));
    for (field, expected) in [("written", 30), ("kept", 0), ("copied", 6), ("unlisted", 1), ("left", 0)] {
        assert_eq!(found[field], expected, "{field}: {found}");
    }
    assert_eq!((&found["kind"], &found["event"]), (&"contrast".into(), &"result".into()));

    let open = |name| {
        let options = OpenOptions { crop_boxes: true, skip_bad: false };
        Dataset::open(&room.path(name), Format::Cub, &options).expect("a data set")
    };
    let (source, copy) = (open("data"), open("out"));
    assert_eq!(source.classes, copy.classes);
    assert_eq!(copy.verify(&mut |_| {}), []);
    let corruption = Corruption { kind: Kind::Contrast, severity: Severity::new(3).unwrap(), seed: 0 };
    for (source, copy) in source.items.iter().zip(copy.items.iter()) {
        assert_eq!((source.label, source.split, source.crop), (copy.label, copy.split, copy.crop));
        let image = rgb(&source.path);
        let size = [image.height() as usize, image.width() as usize];
        assert!(corrupt(&corruption, 0, image.into_raw(), size).unwrap() == rgb(&copy.path).into_raw());
    }
    let (source, mut copy) = (room.files("data"), room.files("out"));
    let note: Value = serde_json::from_slice(&copy.remove(Path::new("corrupt.json")).expect("a note")).expect("JSON");
    assert_eq!((&note["kind"], &note["severity"], &note["seed"]), (&"contrast".into(), &3.into(), &0.into()));
    assert_eq!(copy.len(), 36);
    for (path, bytes) in copy {
        assert_eq!(source[&path] == bytes, path.extension().is_some_and(|e| e == "txt"), "{}", path.display());
    }
}

/// Whatever the number of threads and however often it is begun anew.
#[test]
fn the_same_command_gives_the_same_bytes() {
    let room = Room::new(2);
    for kind in Kind::ALL {
        let more = format!("--kind {kind} --severity 2 --seed 5 --threads");
        let [once, again] = ["once", "again"].map(|name| format!("{kind}-{name}"));
        assert_eq!(result(&room.args(&once, &format!("{more} 1")))["written"], 30);
        assert_eq!(result(&room.args(&again, &format!("{more} 3")))["written"], 30);
        let whole = room.files(&once);
        assert!(whole == room.files(&again), "{kind}: other bytes on other threads");

        for gone in ["images/003.crescent", "images/009.star"] {
            fs::remove_dir_all(room.path(&again).join(gone)).expect(gone);
        }
        fs::remove_file(room.path(&again).join("images.txt")).unwrap();
        let found = result(&room.args(&again, &format!("{more} 2")));
        assert_eq!((&found["written"], &found["kept"], &found["copied"]), (&6.into(), &24.into(), &1.into()));
        assert!(whole == room.files(&again), "{kind}: other bytes after an interruption");
    }
    let other = result(&room.args("seed", "--kind fog --severity 2 --seed 6"));
    assert_eq!(other["seed"], 6);
    let [a, b] = ["fog-once", "seed"].map(|name| room.files(name)[Path::new("images/009.star/test_0000.png")].clone());
    assert!(a != b, "the seed changes nothing");
    let folders = room.files("fog-once");
    let star = |name: &str| image::load_from_memory(&folders[Path::new(name)]).unwrap().into_rgb8();
    assert!(star("images/009.star/train_0000.png") != star("images/009.star/train_0001.png"));
}

#[test]
fn another_command_in_the_same_folder_is_refused() {
    let room = Room::new(1);
    success(&room.args("out", "--kind jpeg --severity 2"));
    let before = room.files("out");
    for (more, part) in [
        ("--kind fog --severity 2", "kind jpeg there, fog asked for"),
        ("--kind jpeg --severity 3", "severity 2 there, 3 asked for"),
        ("--kind jpeg --severity 2 --seed 1", "seed 0 there, 1 asked for"),
    ] {
        let message = failure(&room.args("out", more), 1);
        assert!(message.contains(part) && message.contains("corrupt.json") && message.contains("--out"), "{message}");
    }
    // The same command on other data.
    fs::write(room.path("data/classes.txt"), fs::read_to_string(room.path("data/classes.txt")).unwrap() + "\n")
        .unwrap();
    let message = failure(&room.args("out", "--kind jpeg --severity 2 --quiet"), 1);
    assert!(message.contains("source's files"), "{message}");
    assert!(before == room.files("out"), "a refused command changed the folder");

    fs::create_dir(room.path("mine")).unwrap();
    fs::write(room.path("mine/notes.txt"), "").unwrap();
    let message = failure(&room.args("mine", "--kind jpeg --severity 2"), 1);
    assert!(message.contains("not empty") && message.contains("mine"), "{message}");
}

#[test]
fn wrong_usage_exits_with_2() {
    let room = Room::new(1);
    for (out, more) in [
        ("out", "--kind jpeg"),
        ("out", "--kind jpeg --severity 0"),
        ("out", "--kind jpeg --severity 6"),
        ("out", "--kind snow --severity 1"),
        ("out", "--kind jpeg --severity 1 --seed -1"),
        ("data/out", "--kind jpeg --severity 1"),
        ("data", "--kind jpeg --severity 1"),
        ("", "--kind jpeg --severity 1"),
    ] {
        let message = failure(&room.args(out, more), 2);
        assert!(message.contains("--help"), "{out} {more}: {message}");
    }
    let message = failure(&room.args("data/out", "--kind jpeg --severity 1"), 2);
    assert!(message.contains("lies within") && message.contains("data"), "{message}");
    assert!(!room.path("out").exists() && !room.path("data/out").exists());
}

#[test]
fn unreadable_images_are_refused_or_left_out() {
    let room = Room::new(2);
    let bad = room.path("data/images/006.square/train_0001.png");
    let whole = fs::read(&bad).unwrap();
    fs::write(&bad, &whole[..whole.len() / 2]).unwrap();
    fs::remove_file(room.path("data/images/009.star/train_0000.png")).unwrap();
    let output = foretune(&room.args("out", "--kind brightness --severity 1"));
    assert_eq!(output.status.code(), Some(1));
    let (report, message) = (text(&output.stdout), text(&output.stderr));
    for part in ["006.square/train_0001.png: ", "009.star/train_0000.png: listed, but there is no such file"] {
        assert!(report.contains(part), "{part}: {report}");
    }
    assert_eq!(report.lines().count(), 2, "{report}");
    assert!(message.contains("2 problems") && message.contains("--skip-bad"), "{message}");
    assert!(!room.path("out").exists(), "something was written");

    let found = result(&room.args("out", "--kind brightness --severity 1 --skip-bad"));
    assert_eq!((&found["written"], &found["left"]), (&28.into(), &0.into()));
    assert_eq!(found["problems"].as_array().map(Vec::len), Some(2));
    let options = OpenOptions { skip_bad: true, ..OpenOptions::default() };
    assert_eq!(Dataset::open(&room.path("out"), Format::Cub, &options).unwrap().items.len(), 28);
}

#[test]
fn errors_name_the_path_that_cannot_be_written() {
    let room = Room::new(1);
    let args = room.args("out", "--kind pixelate --severity 1");
    success(&args);
    fs::remove_dir_all(room.path("out/images")).unwrap();
    fs::write(room.path("out/images"), "in the way").unwrap();
    let message = failure(&[&args[..], &["--quiet".to_owned()]].concat(), 1);
    assert!(message.contains("out/images") && message.contains("cannot create"), "{message}");
}

/// JPEG, PNG and WebP, grey and with alpha, in a table and its folder.
#[test]
fn types_and_paths_stay() {
    let room = Room(tempfile::tempdir().unwrap());
    fs::create_dir_all(room.path("data/a/b")).unwrap();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/images");
    let names =
        ["baseline.jpg", "gray.jpg", "cmyk.jpg", "gray16.png", "rgba.png", "palette.png", "lossy.webp", "rgba.webp"];
    let mut table = String::from("path,label\n");
    for name in names {
        fs::copy(samples.join(name), room.path("data/a/b").join(name)).unwrap();
        table += &format!("./a/b/{name},bird\n");
    }
    table += "a/b/gray.jpg,bird\n";
    fs::write(room.path("data/split.csv"), table).unwrap();
    let [folder, file] = ["data", "data/split.csv"].map(|name| room.path(name).to_str().unwrap().to_owned());
    for (data, out) in [(&folder, "one"), (&file, "two")] {
        let out = room.path(out).to_str().unwrap().to_owned();
        let args =
            ["corrupt", "--format", "csv", "--data", data, "--out", &out, "--kind", "contrast", "--severity", "1"];
        let found = result(&args.map(str::to_owned));
        assert_eq!((&found["written"], &found["copied"]), (&8.into(), &1.into()), "{found}");
    }
    assert_eq!(room.files("one").keys().collect::<Vec<_>>(), room.files("two").keys().collect::<Vec<_>>());
    let copy = Dataset::open(&room.path("one"), Format::Csv, &OpenOptions::default()).unwrap();
    assert_eq!(copy.verify(&mut |_| {}), []);
    for name in names {
        let bytes = fs::read(room.path("two/a/b").join(name)).unwrap();
        let format = image::guess_format(&bytes).unwrap();
        assert!(format.extensions_str().contains(&name.rsplit_once('.').unwrap().1), "{name} is {format:?}");
    }

    // Paths that a copy cannot hold, or that would lead back to the source.
    for (listed, part) in [("../x.png".to_owned(), "outside"), (format!("{folder}/a/b/gray.jpg"), "absolute path")] {
        fs::copy(samples.join("rgb.png"), room.path("x.png")).unwrap();
        fs::write(room.path("data/split.csv"), format!("{listed},bird\n")).unwrap();
        let out = room.path(part).to_str().unwrap().to_owned();
        let args = ["corrupt", "--format", "csv", "--data", &folder, "--out", &out, "--kind", "fog", "--severity", "1"];
        let message = failure(&[&args[..], &["--quiet"]].concat(), 1);
        assert!(message.contains(part), "{message}");
    }
}

/// Stored on its side, red to the left where it is seen upright; the box in stored pixels is the red part. It is the red part in
/// the copy too.
#[test]
fn boxes_stay_right_in_images_that_are_turned() {
    let room = Room::new(1);
    let (width, height) = (64usize, 96usize);
    // Turned clockwise to be seen: stored rows from the bottom up are columns from the left.
    let red = |y: usize| y >= 64;
    let pixels: Vec<u8> =
        (0..width * height).flat_map(|i| if red(i / width) { [220, 40, 40] } else { [40, 40, 220] }).collect();
    let path = room.path("data/images/001.disc/turned.jpg");
    let mut encoder = jpeg_encoder::Encoder::new_file(&path, 95).unwrap();
    encoder.add_exif_metadata(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0").unwrap();
    encoder.encode(&pixels, width as u16, height as u16, jpeg_encoder::ColorType::Rgb).unwrap();
    for (name, line) in [
        ("images.txt", "999 001.disc/turned.jpg"),
        ("image_class_labels.txt", "999 1"),
        ("train_test_split.txt", "999 1"),
        ("bounding_boxes.txt", "999 4.0 68.0 56.0 24.0"),
    ] {
        let path = room.path("data").join(name);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text + line + "\n").unwrap();
    }
    success(&room.args("out", "--kind contrast --severity 1"));
    let preprocess = Preprocess {
        crop: [16, 16],
        resize: Resize::Exact([16, 16]),
        interpolation: Interpolation::Bilinear,
        mean: [0.0; 3],
        std: [1.0; 3],
    };
    let crop = Some([4.0, 68.0, 56.0, 24.0]);
    for (name, expected) in [("data", [220.0, 40.0, 40.0]), ("out", [148.0, 40.0, 112.0])] {
        let path = room.path(name).join("images/001.disc/turned.jpg");
        let mut seen = vec![0.0; preprocess.image_len()];
        load_image(&path, crop, &preprocess, &mut seen).unwrap();
        for (plane, expected) in seen.chunks_exact(256).zip(expected) {
            assert!(plane.iter().all(|v| (255.0 * v - expected).abs() < 4.0), "{name}: {expected} {:?}", &plane[..4]);
        }
        // Upright it is wide and red to the left.
        load_image(&path, None, &preprocess, &mut seen).unwrap();
        assert!(seen[8 * 16] > seen[8 * 16 + 15] + 0.1, "{name}");
    }
}

#[test]
#[cfg(unix)]
fn an_interrupted_copy_has_whole_files_and_goes_on() {
    let room = Room::new(30);
    let args = room.args("out", "--kind fog --severity 4 --threads 1");
    let mut child =
        command(&args).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let first = room.path("out/images/001.disc");
    while !first.exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
    let output = child.wait_with_output().expect("it ends");
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("interrupted: ") && message.contains("the same command goes on"), "{message}");
    for (path, bytes) in room.files("out") {
        assert!(!path.to_string_lossy().contains(".tmp"), "{}", path.display());
        if path.extension().is_some_and(|extension| extension == "png") {
            image::load_from_memory(&bytes).expect("a whole image");
        }
    }
    let found = result(&args);
    let [written, kept] = ["written", "kept"].map(|field| found[field].as_u64().unwrap());
    assert!(written > 0 && written + kept == 310, "{found}");
    success(&room.args("whole", "--kind fog --severity 4"));
    assert!(room.files("out") == room.files("whole"));
}
