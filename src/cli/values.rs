//! How the values of options are read.

use foretune::{Error, Result};

/// A count within `range`.
pub(super) fn count(range: std::ops::RangeInclusive<i64>) -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser;
    clap::value_parser!(i64).range(range).map(|n| n as usize)
}

/// One of the named variants of a library type, by its serialised name; each with a line of help.
pub(super) fn choice<T>(values: &[(&'static str, &'static str)]) -> impl clap::builder::TypedValueParser<Value = T>
where
    T: serde::de::DeserializeOwned + Clone + Send + Sync + 'static,
{
    use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
    let possible = values.iter().map(|&(name, help)| match help {
        "" => PossibleValue::new(name),
        help => PossibleValue::new(name).help(help),
    });
    PossibleValuesParser::new(possible.collect::<Vec<_>>())
        .try_map(|name| serde_json::from_value::<T>(serde_json::Value::String(name)))
}

/// `224` or `224x336`.
pub(super) fn image_size(text: &str) -> Result<[usize; 2]> {
    let side = |text: &str| match text.parse() {
        Ok(side @ 1..=8192) => Ok(side),
        _ => Err(Error::Options("expected N or HEIGHTxWIDTH in pixels, each 1 to 8192".into())),
    };
    match text.split_once(['x', 'X', '×']) {
        Some((height, width)) => Ok([side(height)?, side(width)?]),
        None => side(text).map(|side| [side; 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::image_size;

    #[test]
    fn image_sizes() {
        assert_eq!(image_size("112").unwrap(), [112, 112]);
        assert_eq!(image_size("96x128").unwrap(), [96, 128]);
        for bad in ["", "x", "0", "12x", "x12", "9000", "-1", "1x2x3", "18446744073709551616"] {
            assert!(image_size(bad).is_err(), "{bad}");
        }
    }
}
