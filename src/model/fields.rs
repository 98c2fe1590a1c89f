//! Typed access to a configuration's fields, with errors that name file, field and value.

use crate::weights::TensorRef;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// No size in a configuration may exceed this; it keeps every product of two sizes far from overflow.
const MAX_SIZE: u64 = 1 << 24;

/// The fields of one JSON object. A field that is `null` counts as absent.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    path: &'a Path,
    /// What precedes a field's name in errors: "" or "pretrained_cfg.".
    at: &'static str,
    map: &'a Map<String, Value>,
}

/// Parses a file whose top level is a JSON object.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(config(path, "is not a JSON object; fetch it again")),
        Err(e) => Err(config(path, format!("is not valid JSON ({e}); fetch it again"))),
    }
}

/// An [`Error::Config`].
pub(super) fn config(path: &Path, problem: impl Into<String>) -> Error {
    Error::Config { path: path.to_owned(), problem: problem.into() }
}

impl<'a> Fields<'a> {
    pub(super) fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Fields { path, at: "", map }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// The object under `key`; `empty` when it is absent.
    pub(super) fn object(&self, key: &str, at: &'static str, empty: &'a Map<String, Value>) -> Result<Fields<'a>> {
        let map = match self.get(key) {
            None => empty,
            Some(Value::Object(map)) => map,
            Some(other) => return Err(self.wrong(key, other, "an object")),
        };
        Ok(Fields { path: self.path, at, map })
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn wrong(&self, key: &str, value: &Value, expected: &str) -> Error {
        let mut found = value.to_string();
        if found.len() > 80 {
            found = format!("{}…", found.chars().take(80).collect::<String>());
        }
        config(
            self.path,
            format!("`{}{key}` is {found}, expected {expected}; correct it or fetch the file again", self.at),
        )
    }

    /// A whole number from 1 to 2²⁴.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key).map(|v| self.as_size(key, v, 1)).transpose()
    }

    /// A whole number from 0 to 2²⁴.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>> {
        self.get(key).map(|v| self.as_size(key, v, 0)).transpose()
    }

    /// One size for both axes, or `[height, width]`.
    pub(super) fn pair(&self, key: &str) -> Result<Option<[usize; 2]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => match items.as_slice() {
                [one] => self.as_size(key, one, 1).map(|n| Some([n, n])),
                [h, w] => Ok(Some([self.as_size(key, h, 1)?, self.as_size(key, w, 1)?])),
                _ => Err(self.wrong(key, &Value::Array(items.clone()), "a size or [height, width]")),
            },
            Some(one) => self.as_size(key, one, 1).map(|n| Some([n, n])),
        }
    }

    pub(super) fn as_size(&self, key: &str, value: &Value, least: u64) -> Result<usize> {
        // 16.0 is 16 to both libraries.
        let whole =
            value.as_u64().or_else(|| value.as_f64().filter(|f| f.fract() == 0.0 && *f >= 0.0).map(|f| f as u64));
        match whole {
            Some(n) if (least..=MAX_SIZE).contains(&n) => Ok(n as usize),
            _ => Err(self.wrong(key, value, &format!("a whole number from {least} to {MAX_SIZE}"))),
        }
    }

    /// A finite number in `least..=most`.
    pub(super) fn number(&self, key: &str, least: f64, most: f64) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(f) if (least..=most).contains(&f) => Ok(Some(f)),
                _ => Err(self.wrong(key, value, &format!("a number from {least:e} to {most:e}"))),
            },
        }
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.wrong(key, other, "a string")),
        }
    }

    /// Three finite numbers, one per colour channel.
    pub(super) fn colour(&self, key: &str, positive: bool) -> Result<Option<[f32; 3]>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let expected = if positive { "3 positive numbers" } else { "3 numbers" };
        let fit = |v: &Value| v.as_f64().filter(|f| f.abs() < 1e6 && (!positive || *f > 1e-6)).map(|f| f as f32);
        let numbers: Option<Vec<f32>> = match value {
            Value::Array(items) => items.iter().map(fit).collect(),
            one => fit(one).map(|f| vec![f; 3]),
        };
        match numbers.as_deref() {
            Some([one]) => Ok(Some([*one; 3])),
            Some([r, g, b]) => Ok(Some([*r, *g, *b])),
            _ => Err(self.wrong(key, value, expected)),
        }
    }

    /// Fails unless `value`, from field `key` or (when the field is absent) the library's default, is what `tensor` says.
    pub(super) fn agree(&self, key: &str, value: usize, found: usize, tensor: &TensorRef) -> Result<()> {
        if value == found {
            return Ok(());
        }
        let origin = if self.get(key).is_some() { "" } else { " (absent, so the library's default)" };
        Err(config(
            self.path,
            format!(
                "`{}{key}` is {value}{origin}, but tensor `{}` has shape {:?}, which needs {found}; \
                 use the config.json that belongs to this checkpoint",
                self.at,
                tensor.name(),
                tensor.shape()
            ),
        ))
    }
}
