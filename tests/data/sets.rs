//! Every data set layout, on small trees made here and on the shared copies.

use crate::mat_writer::{Mat, Style};
use crate::{image, shared};
use foretune::data::{Dataset, Format, OpenOptions, Split};
use foretune::{Error, Result};
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const STRICT: OpenOptions = OpenOptions { crop_boxes: false, skip_bad: false };
const SKIP: OpenOptions = OpenOptions { crop_boxes: false, skip_bad: true };
const BOXES: OpenOptions = OpenOptions { crop_boxes: true, skip_bad: false };

/// A folder of files; those that end in an image's extension hold an image.
fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, content) in files {
        add(root.path(), name, content.as_bytes());
    }
    root
}

fn add(root: &Path, name: &str, content: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    if content.is_empty() && [".jpg", ".png", ".webp"].iter().any(|end| name.to_ascii_lowercase().ends_with(end)) {
        fs::copy(image("rgb.png"), path).unwrap();
    } else {
        fs::write(path, content).unwrap();
    }
}

/// The items as `file label split`, paths relative to the root.
fn lines(set: &Dataset) -> Vec<String> {
    let file = |path: &Path| path.strip_prefix(&set.root).unwrap_or(path).display().to_string();
    set.items.iter().map(|item| format!("{} {} {:?}", file(&item.path), item.label, item.split)).collect()
}

/// The text of the error, which must be about data.
fn refused(result: Result<Dataset>) -> String {
    match result {
        Err(error @ Error::Data { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn cub() -> TempDir {
    tree(&[
        ("classes.txt", "3 003.Wren\n7 007.Crow\n"),
        ("images.txt", "1 003.Wren/b.jpg\n2 007.Crow/a b.jpg\n5 003.Wren/a.jpg\r\n6 007.Crow/c.jpg\n"),
        ("image_class_labels.txt", "1 3\n2 7\n5 3\n6 7\n"),
        ("train_test_split.txt", "1 1\n2 1\n5 0\n6 0\n"),
        ("bounding_boxes.txt", "1 1.0 2.0 10.5 8.0\n2 0 0 5 5\n5 0 0 5 5\n6 0 0 5 5\n"),
        ("images/003.Wren/a.jpg", ""),
        ("images/003.Wren/b.jpg", ""),
        ("images/007.Crow/a b.jpg", ""),
        ("images/007.Crow/c.jpg", ""),
    ])
}

#[test]
fn cub_layout() {
    let root = cub();
    let set = Dataset::open(root.path(), Format::Cub, &STRICT).unwrap();
    assert_eq!(set.classes, ["003.Wren", "007.Crow"]);
    assert_eq!(
        lines(&set),
        [
            "images/003.Wren/b.jpg 0 Train",
            "images/007.Crow/a b.jpg 1 Train",
            "images/003.Wren/a.jpg 0 Test",
            "images/007.Crow/c.jpg 1 Test"
        ]
    );
    assert!(set.items.iter().all(|item| item.crop.is_none()));
    assert_eq!((set.items_of(Split::Test), set.class_counts(Split::Train)), (vec![2, 3], vec![1, 1]));
    let boxed = Dataset::open(root.path(), Format::Cub, &BOXES).unwrap();
    assert_eq!(boxed.items[0].crop, Some([1.0, 2.0, 10.5, 8.0]));
}

#[test]
fn problems_are_reported_together_and_can_be_skipped() {
    let root = cub();
    let images = root.path().join("images");
    fs::remove_file(images.join("003.Wren/b.jpg")).unwrap();
    fs::write(images.join("007.Crow/c.jpg"), "not a photo at all").unwrap();
    add(root.path(), "image_class_labels.txt", b"1 3\n2 7\n5 9\n6 7\n");
    let text = refused(Dataset::open(root.path(), Format::Cub, &STRICT));
    for part in [
        "4 problems",
        "b.jpg: listed, but",
        "c.jpg: not a JPEG",
        "a.jpg: has class 9",
        "--skip-bad",
        "(003.Wren) has no",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let set = Dataset::open(root.path(), Format::Cub, &SKIP).unwrap();
    // The empty class stays, so that label 1 remains label 1.
    assert_eq!((set.classes.len(), set.problems.len()), (2, 4));
    assert_eq!(lines(&set), ["images/007.Crow/a b.jpg 1 Train"]);
}

#[test]
fn a_long_list_of_problems_is_capped() {
    let list = (0..50).map(|i| format!("x{i}.jpg,a\n")).collect::<String>() + "y.jpg,a\n";
    let root = tree(&[("split.csv", &list), ("y.jpg", "")]);
    let text = refused(Dataset::open(root.path(), Format::Csv, &STRICT));
    assert!(text.contains("50 problems") && text.contains("and 40 more") && text.lines().count() < 15, "{text}");
}

#[test]
fn a_wrong_layout_says_what_is_missing() {
    let empty = tempfile::tempdir().unwrap();
    for (format, expected) in [
        (Format::Cub, "classes.txt"),
        (Format::Cars, "cars_train_annos.mat"),
        (Format::Dogs, "Images"),
        (Format::Folder, "no class folders"),
        (Format::Csv, "no .csv file"),
    ] {
        let text = refused(Dataset::open(empty.path(), format, &SKIP));
        assert!(text.contains(expected) && text.contains(&*empty.path().to_string_lossy()), "{text}");
        assert!(matches!(Dataset::open(Path::new("/nowhere"), format, &SKIP), Err(Error::Io { .. })));
    }
    let root = tree(&[("split.csv", "path,label\n"), ("all/none.txt", "")]);
    assert!(refused(Dataset::open(root.path(), Format::Csv, &SKIP)).contains("no classes"));
    assert!(refused(Dataset::open(root.path(), Format::Folder, &SKIP)).contains("none of 0 listed"));
    assert!(refused(Dataset::open(&root.path().join("split.csv"), Format::Cub, &SKIP)).contains("this is a file"));
    assert!(matches!(Dataset::open(root.path(), Format::Folder, &BOXES), Err(Error::Options(_))));
    let root = cub();
    fs::write(root.path().join("images.txt"), [0xFF, 0xFE, 0x00]).unwrap();
    assert!(refused(Dataset::open(root.path(), Format::Cub, &SKIP)).contains("UTF-8"));
    fs::write(root.path().join("images.txt"), "lonely\n").unwrap();
    assert!(refused(Dataset::open(root.path(), Format::Cub, &SKIP)).contains("line 1"));
    fs::write(root.path().join("cars_train_annos.mat"), "text").unwrap();
    fs::write(root.path().join("cars_meta.mat"), "text").unwrap();
    assert!(
        refused(Dataset::open(root.path(), Format::Cars, &SKIP)).contains("cars_meta.mat: this is not a MATLAB 5 file")
    );
}

fn car(name: &'static str, class: u8, test: Option<u8>) -> Vec<Mat> {
    let mut fields = vec![Mat::Byte(3), Mat::Byte(2), Mat::Doubles(vec![12.0]), Mat::Byte(9), Mat::Byte(class)];
    fields.push(Mat::Text(name));
    fields.extend(test.map(Mat::Byte));
    fields
}

const CAR_FIELDS: [&str; 6] = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"];

#[test]
fn cars_layout() {
    for (style, folder) in Style::ALL.into_iter().zip(["", "devkit/", "car_devkit/devkit/", ""]) {
        let root = tree(&[("cars_train/2.jpg", ""), ("cars_train/1.jpg", ""), ("cars_test/1.jpg", "")]);
        let write = |name: &str, variables: &[(&str, Mat)]| {
            add(root.path(), &format!("{folder}{name}"), &style.file(variables))
        };
        write("cars_meta.mat", &[("class_names", Mat::Cells(vec![Mat::Text("Audi"), Mat::Text("BMW")]))]);
        let train = Mat::Struct(CAR_FIELDS.to_vec(), vec![car("2.jpg", 2, None), car("1.jpg", 1, None)]);
        write("cars_train_annos.mat", &[("annotations", train)]);
        let set = Dataset::open(root.path(), Format::Cars, &STRICT).unwrap();
        assert_eq!((set.classes.as_slice(), set.items.len()), (["Audi".to_owned(), "BMW".to_owned()].as_slice(), 2));

        let test = Mat::Struct(CAR_FIELDS.to_vec(), vec![car("1.jpg", 1, None)]);
        add(root.path(), "cars_test_annos_withlabels.mat", &style.file(&[("annotations", test)]));
        let set = Dataset::open(root.path(), Format::Cars, &BOXES).unwrap();
        assert_eq!(lines(&set), ["cars_train/2.jpg 1 Train", "cars_train/1.jpg 0 Train", "cars_test/1.jpg 0 Test"]);
        // Corners 3, 2 and 12, 9, from 1 and both included.
        assert_eq!(set.items[0].crop, Some([2.0, 1.0, 10.0, 8.0]));

        let train = Mat::Struct(CAR_FIELDS.to_vec(), vec![car("2.jpg", 3, None), car("1.jpg", 0, None)]);
        write("cars_train_annos.mat", &[("annotations", train)]);
        let text = refused(Dataset::open(root.path(), Format::Cars, &STRICT));
        assert!(text.contains("2.jpg: has class 3, outside 1..=2") && text.contains("1.jpg: has class 0"), "{text}");
    }
}

#[test]
fn cars_older_layout() {
    let fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "relative_im_path", "test"];
    let cars =
        vec![car("car_ims/1.jpg", 1, Some(0)), car("car_ims/2.jpg", 2, Some(0)), car("car_ims/3.jpg", 2, Some(1))];
    let root = tree(&[("car_ims/1.jpg", ""), ("car_ims/2.jpg", ""), ("car_ims/3.jpg", "")]);
    let names = Mat::Cells(vec![Mat::Text("Audi"), Mat::Text("BMW")]);
    let file = Style::PLAIN.file(&[("annotations", Mat::Struct(fields.to_vec(), cars)), ("class_names", names)]);
    add(root.path(), "cars_annos.mat", &file);
    let set = Dataset::open(root.path(), Format::Cars, &BOXES).unwrap();
    assert_eq!(lines(&set), ["car_ims/1.jpg 0 Train", "car_ims/2.jpg 1 Train", "car_ims/3.jpg 1 Test"]);
    assert_eq!(set.items[2].crop, Some([2.0, 1.0, 10.0, 8.0]));
}

#[test]
fn dogs_layout() {
    let list = |files: Vec<Mat>, labels: Vec<f64>| {
        Style { big: false, compressed: true }
            .file(&[("file_list", Mat::Cells(files)), ("labels", Mat::Doubles(labels))])
    };
    for folder in ["", "lists/"] {
        let xml =
            "<annotation><object><bndbox>\n<xmin>2</xmin><ymin>3</ymin><xmax>12</xmax><ymax>9</ymax></bndbox></object>";
        let root = tree(&[
            ("Images/n1-Pug/a.jpg", ""),
            ("Images/n1-Pug/b.jpg", ""),
            ("Images/n3-Boxer/a.jpg", ""),
            ("Annotation/n1-Pug/a", xml),
            ("Annotation/n1-Pug/b", xml),
            ("Annotation/n3-Boxer/a", xml),
        ]);
        let train = list(vec![Mat::Text("n3-Boxer/a.jpg"), Mat::Text("n1-Pug/a.jpg")], vec![3.0, 1.0]);
        add(root.path(), &format!("{folder}train_list.mat"), &train);
        add(root.path(), &format!("{folder}test_list.mat"), &list(vec![Mat::Text("n1-Pug/b.jpg")], vec![1.0]));
        let set = Dataset::open(root.path(), Format::Dogs, &BOXES).unwrap();
        assert_eq!(set.classes, ["n1-Pug", "class 2", "n3-Boxer"]);
        assert_eq!(
            lines(&set),
            ["Images/n3-Boxer/a.jpg 2 Train", "Images/n1-Pug/a.jpg 0 Train", "Images/n1-Pug/b.jpg 0 Test"]
        );
        assert_eq!(set.items[1].crop, Some([2.0, 3.0, 10.0, 6.0]));

        let files = vec![Mat::Text("n1-Pug/a.jpg"), Mat::Text("n1-Pug/b.jpg"), Mat::Text("n3-Boxer/a.jpg")];
        add(root.path(), &format!("{folder}train_list.mat"), &list(files.clone(), vec![121.0, 1.5, 3.0]));
        let text = refused(Dataset::open(root.path(), Format::Dogs, &STRICT));
        assert!(text.contains("has class 121, outside 1..=120") && text.contains("has class 1.5"), "{text}");
        add(root.path(), &format!("{folder}train_list.mat"), &list(files, vec![1.0]));
        assert!(refused(Dataset::open(root.path(), Format::Dogs, &SKIP)).contains("1 labels for 3 files"));
    }
}

#[test]
fn folder_layout() {
    let root = tree(&[
        ("b/2.png", ""),
        ("b/1.JPG", ""),
        ("a/deep/3.jpg", ""),
        ("a/.hidden.jpg", ""),
        ("a/notes.txt", "x"),
        ("README.md", "x"),
    ]);
    let set = Dataset::open(root.path(), Format::Folder, &STRICT).unwrap();
    assert_eq!(set.classes, ["a", "b"]);
    assert_eq!(lines(&set), ["a/deep/3.jpg 0 Train", "b/1.JPG 1 Train", "b/2.png 1 Train"]);

    fs::create_dir(root.path().join("empty")).unwrap();
    let text = refused(Dataset::open(root.path(), Format::Folder, &STRICT));
    assert!(text.contains("class 2 (empty) has no training images"), "{text}");

    let root = tree(&[("train/a/1.jpg", ""), ("train/b/1.jpg", ""), ("val/b/2.jpg", ""), ("test/a/2.jpg", "")]);
    let set = Dataset::open(root.path(), Format::Folder, &STRICT).unwrap();
    assert_eq!(
        lines(&set),
        ["test/a/2.jpg 0 Test", "train/a/1.jpg 0 Train", "train/b/1.jpg 1 Train", "val/b/2.jpg 1 Val"]
    );

    // Classes that only sound like splits.
    let root = tree(&[("train/1.jpg", ""), ("test/1.jpg", "")]);
    assert_eq!(Dataset::open(root.path(), Format::Folder, &STRICT).unwrap().classes, ["test", "train"]);

    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(root.path(), root.path().join("test/circle")).unwrap();
        assert!(refused(Dataset::open(root.path(), Format::Folder, &SKIP)).contains("circle"));
    }
}

#[test]
fn csv_layouts() {
    let images = [("p/1.jpg", ""), ("p/2.jpg", ""), ("p/a, b.jpg", "")];
    let open = |files: &[(&str, &str)]| {
        let root = tree(&[files, &images].concat());
        Dataset::open(root.path(), Format::Csv, &STRICT).map(|set| (set.classes.clone(), lines(&set)))
    };
    let rows = ["p/1.jpg 1 Train", "p/2.jpg 0 Train", "p/1.jpg 0 Test", "p/a, b.jpg 1 Val"].map(str::to_owned).to_vec();
    let names = vec!["Audi".to_owned(), "Fiat, \"500\"".to_owned()];
    let named = "p/1.jpg,\"Fiat, \"\"500\"\"\",train\r\np/2.jpg,Audi,Training\r\np/1.jpg,Audi,TEST\r\n\r\n\
        \"p/a, b.jpg\",\"Fiat, \"\"500\"\"\",val\r\n";
    let with_header = format!("\u{feff}Path,Label,Split\r\n{named}");
    assert_eq!(open(&[("split.csv", &with_header), ("other.csv", "x")]).unwrap(), (names.clone(), rows.clone()));
    assert_eq!(open(&[("any.csv", named)]).unwrap(), (names, rows.clone()));
    // Columns in another order; integers are labels as they stand.
    let integers =
        "id,split,class,file\n7,train,1,p/1.jpg\n8,train,0,p/2.jpg\n8,test,0,p/1.jpg\n9,val,1,\"p/a, b.jpg\"\n";
    assert_eq!(open(&[("labels.csv", integers)]).unwrap(), (vec!["0".to_owned(), "1".to_owned()], rows.clone()));
    // One table per split.
    let parts =
        [("train.csv", "p/1.jpg,1\np/2.jpg,0\n"), ("test.csv", "p/1.jpg,0\n"), ("val.csv", "\"p/a, b.jpg\",1\n")];
    let (_, found) = open(&parts).unwrap();
    assert_eq!(found.iter().collect::<HashSet<_>>(), rows.iter().collect());

    let faults = "p/1.jpg,1,train\np/2.jpg,-4,train\nlonely\n,1\np/2.jpg,5000000,train\np/2.jpg,1,holdout\n";
    let text = refused(open(&[("split.csv", faults)]).map(|_| unreachable!()));
    for part in ["label -4", "label 5000000", "split `holdout` in line 6", "line 4 lacks", "line 3", "split `"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = refused(open(&[("one.csv", named), ("two.csv", named)]).map(|_| unreachable!()));
    assert!(text.contains("one.csv, two.csv"), "{text}");

    let root = tree(&[&[("list.csv", named)], images.as_slice()].concat());
    let set = Dataset::open(&root.path().join("list.csv"), Format::Csv, &STRICT).unwrap();
    assert_eq!(set.items.len(), 4);
}

#[test]
fn validation_is_stratified_and_depends_on_the_seed_alone() {
    let list: String = (0..100).map(|i| format!("{i}.jpg,{},train\n", ["x", "y", "z"][(i % 10).min(2)])).collect();
    let images: Vec<String> = (0..100).map(|i| format!("{i}.jpg")).collect();
    let mut files: Vec<(&str, &str)> = images.iter().map(|name| (name.as_str(), "")).collect();
    files.push(("split.csv", &list));
    files.push(("one.jpg", ""));
    let list_with_single = format!("{list}one.jpg,single,train\n");
    files.push(("split.csv", &list_with_single));
    let root = tree(&files);
    let set = Dataset::open(root.path(), Format::Csv, &STRICT).unwrap();
    let split = |fraction, seed| {
        let mut set = set.clone();
        set.split_validation(fraction, seed);
        set
    };
    let tenth = split(0.1, 5);
    assert_eq!(tenth.class_counts(Split::Val), [0, 1, 1, 8]);
    assert_eq!(tenth, split(0.1, 5));
    assert_ne!(tenth, split(0.1, 6));
    assert_eq!(split(5.0, 1).class_counts(Split::Train), [1, 1, 1, 1]);
    assert_eq!(split(0.01, 1).class_counts(Split::Val), [0, 1, 1, 1]);
    for nothing in [0.0, -1.0, f64::NAN] {
        assert_eq!(split(nothing, 1), set);
    }
    let mut again = tenth.clone();
    again.split_validation(0.5, 9);
    assert_eq!(again, tenth, "an existing validation split is kept");
}

#[test]
fn verify_finds_what_cannot_be_decoded() {
    let root = tree(&[("a/1.png", ""), ("a/2.jpg", ""), ("b/3.png", ""), ("b/4.jpg", "")]);
    let png = fs::read(image("rgb.png")).unwrap();
    fs::write(root.path().join("a/2.jpg"), &png[..60]).unwrap();
    let jpeg = fs::read(image("baseline.jpg")).unwrap();
    fs::write(root.path().join("b/3.png"), &jpeg[..jpeg.len() - 90]).unwrap();
    let mut set = Dataset::open(root.path(), Format::Folder, &STRICT).unwrap();
    let mut reports = Vec::new();
    let problems = set.verify(&mut |done| reports.push(done));
    assert_eq!(reports, [1, 2, 3, 4]);
    let bad: Vec<_> = problems.iter().map(|problem| problem.path.strip_prefix(root.path()).unwrap()).collect();
    assert_eq!(bad, [Path::new("a/2.jpg"), Path::new("b/3.png")]);
    set.skip(problems);
    assert_eq!(lines(&set), ["a/1.png 0 Train", "b/4.jpg 1 Train"]);
    assert_eq!(set.problems.len(), 2);
}

#[test]
fn the_shared_birds() {
    let Some(root) = shared("data/CUB_200_2011_first50") else { return };
    let set = Dataset::open(&root, Format::Cub, &BOXES).unwrap();
    assert_eq!((set.classes.len(), set.items.len()), (50, 2889));
    assert_eq!(set.classes[0], "001.Black_footed_Albatross");
    assert_eq!(set.items[0].crop, Some([28.7, 12.9, 155.3, 145.2]));
    assert_eq!((set.items[0].split, set.items[1].split), (Split::Test, Split::Train));
    assert!(set.class_counts(Split::Train).iter().all(|&count| count > 0));
}

#[test]
fn the_shared_cars() {
    let (Some(cars), Some(devkit)) = (shared("data/stanford_cars_cropped20"), shared("data/stanford_cars_devkit"))
    else {
        return;
    };
    let set = Dataset::open(&cars, Format::Csv, &STRICT).unwrap();
    let counts = [Split::Train, Split::Test].map(|split| set.items_of(split).len());
    assert_eq!((set.classes.len(), counts), (20, [496, 327]));

    // The real lists over the 823 images that are there: a subset.
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        symlink(devkit.canonicalize().unwrap(), root.path().join("devkit")).unwrap();
        symlink(cars.join("cars_train").canonicalize().unwrap(), root.path().join("cars_train")).unwrap();
        let text = refused(Dataset::open(root.path(), Format::Cars, &STRICT));
        assert!(text.contains("--skip-bad") && text.contains("no such file"), "{text}");
        let subset = Dataset::open(root.path(), Format::Cars, &SKIP).unwrap();
        assert_eq!((subset.classes.len(), subset.items.len()), (196, 823));
        // Both lists agree on every image's class.
        for item in subset.items.iter() {
            let name = item.path.file_name().unwrap();
            let twin = set.items.iter().find(|twin| twin.path.file_name() == Some(name)).unwrap();
            assert_eq!(subset.classes[item.label as usize], set.classes[twin.label as usize], "{name:?}");
        }
    }
}
