//! Class names from a configuration or a `labels.txt`.

use super::fields::{self, Fields};
use crate::weights::{TensorRef, read_companion};
use crate::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// transformers' `id2label`; `None` when it is absent, holds only the library's `LABEL_i`, or there is no classifier.
pub(super) fn transformers(config: &Fields, head: Option<&TensorRef>) -> Result<Option<Vec<String>>> {
    let Some((head, classes)) = head.and_then(|h| Some((h, *h.shape().first()?))) else { return Ok(None) };
    let Some(value) = config.get("id2label") else { return Ok(None) };
    let Value::Object(map) = value else { return Err(config.wrong("id2label", value, "an object")) };
    if map.len() != classes {
        return Err(counted(config, "id2label", map.len(), head));
    }
    let mut names = Vec::new();
    for i in 0..classes {
        match map.get(&i.to_string()) {
            Some(Value::String(name)) => names.push(name.clone()),
            _ => {
                let problem =
                    format!("`id2label` has no name for class {i}; it needs one string for each of 0..{classes}");
                return Err(fields::config(config.path(), problem));
            }
        }
    }
    let placeholders = names.iter().enumerate().all(|(i, name)| *name == format!("LABEL_{i}"));
    Ok((!placeholders).then_some(names))
}

/// timm's `label_names`, each replaced by its `label_descriptions` where there is one.
pub(super) fn timm(config: &Fields, cfg: &Fields, head: Option<&TensorRef>) -> Result<Option<Vec<String>>> {
    let Some((head, classes)) = head.and_then(|h| Some((h, *h.shape().first()?))) else { return Ok(None) };
    let find = |key: &str| config.get(key).map(|v| (config, v)).or_else(|| cfg.get(key).map(|v| (cfg, v)));
    let strings = |fields: &Fields, key: &str, value: &Value| -> Result<Vec<String>> {
        let items = value.as_array().map(|items| items.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        items.flatten().ok_or_else(|| fields.wrong(key, value, "a list of strings"))
    };
    let descriptions = find("label_descriptions");
    let names = match (find("label_names"), descriptions) {
        (Some((fields, value)), _) => (fields, "label_names", strings(fields, "label_names", value)?),
        (None, Some((fields, value @ Value::Array(_)))) => {
            (fields, "label_descriptions", strings(fields, "label_descriptions", value)?)
        }
        _ => return Ok(None),
    };
    let (fields, key, mut names) = names;
    if names.len() != classes {
        return Err(counted(fields, key, names.len(), head));
    }
    if let Some((_, Value::Object(map))) = descriptions {
        for name in &mut names {
            if let Some(Value::String(description)) = map.get(name.as_str()) {
                *name = description.clone();
            }
        }
    }
    Ok(Some(names))
}

/// One name a line.
pub(super) fn text_file(path: &Path, classes: usize) -> Result<Option<Vec<String>>> {
    let bytes = match read_companion(path) {
        Ok(bytes) => bytes,
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| fields::config(path, "is not UTF-8 text; it needs one class name a line"))?;
    let names: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    if classes == 0 {
        return Ok(None);
    }
    if names.len() != classes {
        let problem =
            format!("has {} names, but the classifier has {classes} classes; it needs one name a line", names.len());
        return Err(fields::config(path, problem));
    }
    Ok(Some(names))
}

fn counted(fields: &Fields, key: &str, count: usize, head: &TensorRef) -> Error {
    fields::config(
        fields.path(),
        format!(
            "`{key}` has {count} names, but tensor `{}` has shape {:?}; use the config.json that belongs to this checkpoint",
            head.name(),
            head.shape()
        ),
    )
}
