//! Sizes as people write them.

use crate::Error;
use std::fmt;
use std::str::FromStr;

/// A number of bytes; parses `512MiB`, `64MB`, `1.5GiB`, `65536`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Budget(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tib", 1 << 40),
];

impl FromStr for Budget {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fail =
            || Error::Options(format!("`{text}` is no size; give a number of bytes, or one with KiB, MiB or GiB"));
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(lower.len());
        let (number, unit) = lower.split_at(digits);
        let scale = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(fail)?.1;
        // Whole numbers exactly, so that a size printed in bytes is read back to the byte.
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(scale).map(Budget).ok_or_else(fail);
        }
        let bytes = number.parse::<f64>().map_err(|_| fail())? * scale as f64;
        if bytes < u64::MAX as f64 { Ok(Budget(bytes as u64)) } else { Err(fail()) }
    }
}

impl fmt::Display for Budget {
    /// Rounded up to a tenth of the largest binary unit, so that the size printed suffices.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, scale) = match self.0 {
            bytes if bytes >= 1 << 30 => ("GiB", 1u64 << 30),
            bytes if bytes >= 1 << 20 => ("MiB", 1 << 20),
            bytes if bytes >= 1 << 10 => ("KiB", 1 << 10),
            bytes => return write!(f, "{bytes} B"),
        };
        let tenths = (u128::from(self.0) * 10).div_ceil(scale.into());
        write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        let size = |text: &str| text.parse::<Budget>().map(|b| b.0);
        assert_eq!(size("512MiB").unwrap(), 512 << 20);
        assert_eq!(size("64 mib").unwrap(), 64 << 20);
        assert_eq!(size("1.5GiB").unwrap(), 3 << 29);
        assert_eq!(size("2MB").unwrap(), 2_000_000);
        assert_eq!(size("25165823").unwrap(), 25_165_823);
        for bad in ["", "MiB", "-1", "12parsecs", "1e9", "99999999999TiB", "1.2.3MiB"] {
            let error = size(bad).expect_err(bad);
            assert!(error.is_usage(), "{bad}: {error}");
        }
    }

    #[test]
    fn prints_a_size_that_suffices() {
        assert_eq!(Budget(24 << 20).to_string(), "24.0 MiB");
        assert_eq!(Budget((24 << 20) + 1).to_string(), "24.1 MiB");
        assert_eq!(Budget(1023).to_string(), "1023 B");
        assert!(Budget(u64::MAX).to_string().ends_with("GiB"));
    }
}
