//! MATLAB 5 `.mat` files, as far as data sets need them: numbers, text, cells and structs, compressed or not.
//!
//! Written for hostile input: nothing is allocated from a size in the file before the bytes are there, what decompression and
//! the tree of values may take together is bounded, and so is nesting.

use flate2::read::ZlibDecoder;
use std::io::Read;

/// Levels of cells and structs within each other.
const DEPTH: usize = 16;
/// Most bytes that the decompressed file and its values may take.
const MAX_BYTES: usize = 256 << 20;

/// A MATLAB value. Arrays are in column-major order, without their shapes.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Numbers of any class, real part.
    Numbers(Vec<f64>),
    /// A char array.
    Text(String),
    /// A cell array.
    Cells(Vec<Value>),
    /// A struct array.
    Struct(Struct),
    /// A class this reader does not know (sparse, object, function handle…), by its number.
    Other(u8),
}

/// A struct array.
#[derive(Clone, Debug, PartialEq)]
pub struct Struct {
    fields: Vec<String>,
    /// Element by element, `fields.len()` values each.
    values: Vec<Value>,
}

impl Struct {
    /// Elements.
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.fields.len()).unwrap_or(0)
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A field of an element.
    pub fn get(&self, element: usize, field: &str) -> Option<&Value> {
        let index = self.fields.iter().position(|name| name == field)?;
        self.values.chunks(self.fields.len()).nth(element)?.get(index)
    }
}

impl Value {
    /// The only number of a 1×1 array.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Numbers(numbers) if numbers.len() == 1 => Some(numbers[0]),
            _ => None,
        }
    }

    /// The text of a char array.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The texts of a cell array of char arrays.
    pub fn texts(&self) -> Option<Vec<&str>> {
        match self {
            Value::Cells(cells) => cells.iter().map(Value::text).collect(),
            _ => None,
        }
    }
}

/// Reads all variables of a file.
///
/// # Errors
/// What is wrong and what to do; the caller knows the path.
pub fn parse(bytes: &[u8]) -> Result<Vec<(String, Value)>, String> {
    if bytes.starts_with(b"MATLAB 7.3") || bytes.starts_with(b"\x89HDF") {
        return Err("this is a MATLAB 7.3 (HDF5) file; save it with -v7".into());
    }
    let big = match bytes.get(126..128) {
        Some(b"IM") => false,
        Some(b"MI") => true,
        _ => return Err("this is not a MATLAB 5 file; use the data set's original file or save it with -v7".into()),
    };
    let mut budget = Budget(bytes.len().saturating_mul(256).saturating_add(1 << 20).min(MAX_BYTES));
    let mut reader = Reader { bytes: &bytes[128..], big };
    let mut variables = Vec::new();
    while !reader.bytes.is_empty() {
        let (kind, data) = reader.element()?;
        match kind {
            MATRIX => variables.push(matrix(Reader { bytes: data, big }, DEPTH, &mut budget)?),
            COMPRESSED => {
                let mut plain = Vec::new();
                let limit = budget.0 as u64 + 1;
                let decoder = ZlibDecoder::new(data);
                decoder.take(limit).read_to_end(&mut plain).map_err(|e| format!("damaged compressed variable: {e}"))?;
                budget.take(plain.len())?;
                let (kind, data) = Reader { bytes: &plain, big }.element()?;
                if kind != MATRIX {
                    return Err(format!("a compressed element holds type {kind} where a variable belongs"));
                }
                variables.push(matrix(Reader { bytes: data, big }, DEPTH, &mut budget)?);
            }
            // MATLAB writes no other element at the top, but says that readers skip what they do not know.
            _ => {}
        }
    }
    Ok(variables)
}

const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT16: u32 = 3;
const UINT16: u32 = 4;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const SINGLE: u32 = 7;
const DOUBLE: u32 = 9;
const INT64: u32 = 12;
const UINT64: u32 = 13;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
const UTF8: u32 = 16;
const UTF16: u32 = 17;
const UTF32: u32 = 18;

/// Bytes that may still be used.
struct Budget(usize);

impl Budget {
    fn take(&mut self, bytes: usize) -> Result<(), String> {
        self.0 =
            self.0.checked_sub(bytes).ok_or("it unfolds into far more data than a data set's lists; it is damaged")?;
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (head, tail) =
            self.bytes.split_at_checked(count).ok_or("it ends in the middle of an element; copy it anew")?;
        self.bytes = tail;
        Ok(head)
    }

    fn word(&mut self) -> Result<u32, String> {
        let word = self.take(4)?.try_into().map_err(|_| "unreachable")?;
        Ok(if self.big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
    }

    /// The next data element: its type and its bytes. Up to four bytes may sit within the tag itself.
    fn element(&mut self) -> Result<(u32, &'a [u8]), String> {
        let word = self.word()?;
        if word >> 16 != 0 {
            let data = self.take(4)?;
            let data = data.get(..(word >> 16) as usize).ok_or("a small element claims more than four bytes")?;
            return Ok((word & 0xFFFF, data));
        }
        let length = self.word()? as usize;
        let data = self.take(length)?;
        // All but compressed elements are padded to 8 bytes; the last one's padding may be missing.
        let padding = if word == COMPRESSED { 0 } else { length.wrapping_neg() % 8 };
        self.bytes = self.bytes.get(padding..).unwrap_or_default();
        Ok((word, data))
    }

    fn integers(&mut self) -> Result<Vec<i64>, String> {
        let (kind, data) = self.element()?;
        match kind {
            INT32 => Ok(self.numbers(data, i32::from_le_bytes, |v| v as i64)),
            UINT32 => Ok(self.numbers(data, u32::from_le_bytes, |v| v as i64)),
            _ => Err(format!("type {kind} where 32-bit integers belong")),
        }
    }

    fn string(&mut self) -> Result<String, String> {
        let (kind, data) = self.element()?;
        match kind {
            INT8 | UINT8 | UTF8 => Ok(String::from_utf8_lossy(data).into_owned()),
            _ => Err(format!("type {kind} where a name belongs")),
        }
    }

    fn numbers<const N: usize, T, U>(&self, data: &[u8], read: fn([u8; N]) -> T, convert: fn(T) -> U) -> Vec<U> {
        let ordered = |mut bytes: [u8; N]| {
            if self.big {
                bytes.reverse();
            }
            bytes
        };
        data.as_chunks::<N>().0.iter().map(|&bytes| convert(read(ordered(bytes)))).collect()
    }

    fn floats(&self, kind: u32, data: &[u8]) -> Result<Vec<f64>, String> {
        Ok(match kind {
            INT8 => self.numbers(data, i8::from_le_bytes, f64::from),
            UINT8 => self.numbers(data, u8::from_le_bytes, f64::from),
            INT16 => self.numbers(data, i16::from_le_bytes, f64::from),
            UINT16 => self.numbers(data, u16::from_le_bytes, f64::from),
            INT32 => self.numbers(data, i32::from_le_bytes, f64::from),
            UINT32 => self.numbers(data, u32::from_le_bytes, f64::from),
            SINGLE => self.numbers(data, f32::from_le_bytes, f64::from),
            DOUBLE => self.numbers(data, f64::from_le_bytes, f64::from),
            INT64 => self.numbers(data, i64::from_le_bytes, |v| v as f64),
            UINT64 => self.numbers(data, u64::from_le_bytes, |v| v as f64),
            _ => return Err(format!("type {kind} where numbers belong")),
        })
    }

    fn text(&self, kind: u32, data: &[u8]) -> Result<String, String> {
        Ok(match kind {
            INT8 | UINT8 => data.iter().map(|&byte| char::from(byte)).collect(),
            UTF8 => String::from_utf8_lossy(data).into_owned(),
            UINT16 | UTF16 => String::from_utf16_lossy(&self.numbers(data, u16::from_le_bytes, |unit| unit)),
            UTF32 => {
                let to_char = |code| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                self.numbers(data, u32::from_le_bytes, to_char).into_iter().collect()
            }
            _ => return Err(format!("type {kind} where text belongs")),
        })
    }
}

/// Reads a variable's name and value from the content of a matrix element.
fn matrix(mut reader: Reader<'_>, depth: usize, budget: &mut Budget) -> Result<(String, Value), String> {
    budget.take(size_of::<Value>())?;
    // An empty cell may be stored as nothing.
    if reader.bytes.is_empty() {
        return Ok((String::new(), Value::Numbers(Vec::new())));
    }
    let depth = depth.checked_sub(1).ok_or("values are nested too deeply")?;
    let flags = reader.integers()?;
    let class = *flags.first().ok_or("a variable without a class")? as u8;
    if !(1..=15).contains(&class) || matches!(class, 3 | 5) {
        return Ok((String::new(), Value::Other(class)));
    }
    let count = reader
        .integers()?
        .into_iter()
        .try_fold(1usize, |count, side| count.checked_mul(usize::try_from(side).ok()?))
        .ok_or("a variable of impossible size")?;
    let name = reader.string()?;
    budget.take(name.len())?;
    let within = |problem: String| if name.is_empty() { problem } else { format!("variable `{name}`: {problem}") };
    let value = (|| match class {
        1 => {
            let mut cells = Vec::new();
            for _ in 0..count {
                cells.push(nested(&mut reader, depth, budget)?);
            }
            Ok(Value::Cells(cells))
        }
        2 => {
            let length = reader.integers()?.first().map_or(0, |&length| length);
            let length =
                usize::try_from(length).ok().filter(|&length| length > 0).ok_or("field names without a length")?;
            let (_, names) = reader.element()?;
            let mut fields = Vec::new();
            for name in names.chunks_exact(length) {
                let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
                budget.take(size_of::<String>() + name.len())?;
                fields.push(String::from_utf8_lossy(name).into_owned());
            }
            let mut values = Vec::new();
            if !fields.is_empty() {
                for _ in 0..count.checked_mul(fields.len()).ok_or("a struct of impossible size")? {
                    values.push(nested(&mut reader, depth, budget)?);
                }
            }
            Ok(Value::Struct(Struct { fields, values }))
        }
        4 => {
            let (kind, data) = reader.element()?;
            budget.take(data.len().saturating_mul(3))?;
            Ok(Value::Text(reader.text(kind, data)?))
        }
        _ => {
            let (kind, data) = reader.element()?;
            budget.take(data.len().saturating_mul(size_of::<f64>()))?;
            let numbers = reader.floats(kind, data)?;
            if numbers.len() == count {
                Ok(Value::Numbers(numbers))
            } else {
                Err(format!("{} numbers where its size asks for {count}", numbers.len()))
            }
        }
    })()
    .map_err(within)?;
    Ok((name, value))
}

fn nested(reader: &mut Reader<'_>, depth: usize, budget: &mut Budget) -> Result<Value, String> {
    match reader.element()? {
        (MATRIX, data) => Ok(matrix(Reader { bytes: data, big: reader.big }, depth, budget)?.1),
        (kind, _) => Err(format!("type {kind} where a value belongs")),
    }
}
