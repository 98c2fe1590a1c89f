//! Real weights on real photos.

use crate::common::{foretune, shared, success, text};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// File name, class id of the top class, its logit.
fn expected(folder: &Path) -> Vec<(String, u64, f64)> {
    let mut table = csv::Reader::from_path(folder.join("expected.csv")).unwrap();
    let columns = table.headers().unwrap().clone();
    let column = |name: &str| columns.iter().position(|column| column == name).unwrap();
    let [path, class, logit] = ["path", "top1", "logit"].map(column);
    let rows = table.records().map(|row| {
        let row = row.unwrap();
        (row[path].to_owned(), row[class].parse().unwrap(), row[logit].parse().unwrap())
    });
    rows.collect()
}

#[test]
fn seventeen_photos_get_their_class_and_logit() {
    let (Some(model), Some(folder)) = (shared("models/vit_tiny_patch16_224"), shared("data/imagenet17")) else {
        return;
    };
    let expected = expected(&folder);
    assert_eq!(expected.len(), 17);
    let images: Vec<PathBuf> = expected.iter().map(|(name, ..)| folder.join(name)).collect();
    let mut arguments = vec!["predict".into(), "--model".into(), model.clone(), "--json".into()];
    arguments.extend(images.iter().cloned());
    let output = success(&arguments);
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 17);
    for ((line, path), (name, class, logit)) in lines.iter().zip(&images).zip(&expected) {
        assert_eq!(line["path"].as_str(), path.to_str());
        let top = line["top"].as_array().unwrap();
        assert_eq!(top.len(), 5);
        assert_eq!(top[0]["class_id"].as_u64(), Some(*class), "{name}: {line}");
        let score = top[0]["score"].as_f64().unwrap();
        assert!((score - logit).abs() <= 0.15, "{name}: logit {score}, expected {logit}");
        assert!(top[0]["name"].as_str().is_some_and(|name| !name.starts_with("class ")), "{line}");
    }

    // Lines for people: a path, then five classes; the same for a photo alone as among others.
    let alone = foretune(&[arguments[0].clone(), arguments[1].clone(), model, images[3].clone()]);
    let alone = text(&alone.stdout);
    assert_eq!(alone.lines().count(), 6, "{alone}");
    assert!(alone.contains(lines[3]["top"][0]["name"].as_str().unwrap()), "{alone}");
}
