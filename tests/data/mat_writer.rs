//! A writer of MATLAB 5 files, for tests only.

use flate2::{Compression, write::ZlibEncoder};
use std::io::Write;

#[derive(Clone)]
pub enum Mat {
    /// A column of doubles.
    Doubles(Vec<f64>),
    /// A scalar stored as one byte, as MATLAB stores small integers.
    Byte(u8),
    Text(&'static str),
    Cells(Vec<Mat>),
    /// Field names, then elements.
    Struct(Vec<&'static str>, Vec<Vec<Mat>>),
}

#[derive(Clone, Copy, Debug)]
pub struct Style {
    pub big: bool,
    pub compressed: bool,
}

impl Style {
    pub const PLAIN: Style = Style { big: false, compressed: false };
    pub const ALL: [Style; 4] = [
        Style::PLAIN,
        Style { big: true, compressed: false },
        Style { big: false, compressed: true },
        Style { big: true, compressed: true },
    ];

    fn word(self, value: u32) -> [u8; 4] {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    fn element(self, kind: u32, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if data.len() <= 4 && kind != 14 {
            out.extend(self.word((data.len() as u32) << 16 | kind));
            out.extend(data);
        } else {
            out.extend(self.word(kind));
            out.extend(self.word(data.len() as u32));
            out.extend(data);
        }
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }

    fn words(self, kind: u32, values: &[u32]) -> Vec<u8> {
        let bytes: Vec<u8> = values.iter().flat_map(|&v| self.word(v)).collect();
        self.element(kind, &bytes)
    }

    fn matrix(self, name: &str, value: &Mat) -> Vec<u8> {
        let (class, dims) = match value {
            Mat::Doubles(numbers) => (6, [numbers.len(), 1]),
            Mat::Byte(_) => (6, [1, 1]),
            Mat::Text(text) => (4, [1, text.chars().count()]),
            Mat::Cells(cells) => (1, [cells.len(), 1]),
            Mat::Struct(_, elements) => (2, [1, elements.len()]),
        };
        let mut data = self.words(6, &[class, 0]);
        data.extend(self.words(5, &dims.map(|side| side as u32)));
        data.extend(self.element(1, name.as_bytes()));
        match value {
            Mat::Doubles(numbers) => {
                let bytes: Vec<u8> =
                    numbers.iter().flat_map(|v| if self.big { v.to_be_bytes() } else { v.to_le_bytes() }).collect();
                data.extend(self.element(9, &bytes));
            }
            Mat::Byte(byte) => data.extend(self.element(2, &[*byte])),
            Mat::Text(text) => {
                let units = text.encode_utf16();
                let bytes: Vec<u8> =
                    units.flat_map(|v| if self.big { v.to_be_bytes() } else { v.to_le_bytes() }).collect();
                data.extend(self.element(4, &bytes));
            }
            Mat::Cells(cells) => cells.iter().for_each(|cell| data.extend(self.matrix("", cell))),
            Mat::Struct(fields, elements) => {
                data.extend(self.words(5, &[32]));
                let mut names = Vec::new();
                for field in fields {
                    names.extend(field.as_bytes());
                    names.resize(names.len().next_multiple_of(32), 0);
                }
                data.extend(self.element(1, &names));
                elements.iter().flatten().for_each(|value| data.extend(self.matrix("", value)));
            }
        }
        self.element(14, &data)
    }

    /// A whole file.
    pub fn file(self, variables: &[(&str, Mat)]) -> Vec<u8> {
        let mut out = b"MATLAB 5.0 MAT-file, written by a test".to_vec();
        out.resize(124, b' ');
        out.extend(if self.big { *b"\x01\0MI" } else { *b"\0\x01IM" });
        for (name, value) in variables {
            let matrix = self.matrix(name, value);
            if self.compressed {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(&matrix).unwrap();
                let packed = encoder.finish().unwrap();
                out.extend(self.word(15));
                out.extend(self.word(packed.len() as u32));
                out.extend(packed);
            } else {
                out.extend(matrix);
            }
        }
        out
    }
}
