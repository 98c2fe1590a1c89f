//! Pointers from C made into references, each checked for what can be checked.

use crate::status::{Failure, Result};
use std::ffi::{CStr, c_char};
use std::mem::{MaybeUninit, size_of};

/// A struct that may grow: its first field is `struct_size`, and all its bytes may be zero.
///
/// # Safety
/// `repr(C)`, begins with a `usize`, and is valid when its bytes are zero.
pub(crate) unsafe trait Versioned: Copy {
    /// For messages.
    const NAME: &'static str;
}

/// Makes structs of this crate [`Versioned`], which they must be.
macro_rules! versioned {
    ($($name:ident),*) => {$(
        // SAFETY: repr(C), begins with its size, and zeros are valid.
        unsafe impl $crate::argument::Versioned for $name {
            const NAME: &'static str = stringify!($name);
        }
    )*};
}
pub(crate) use versioned;

/// A shared reference. Errors: it is null.
///
/// # Safety
/// It is null or valid for the call.
pub(crate) unsafe fn reference<'a, T>(name: &str, pointer: *const T) -> Result<&'a T> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(name))
}

/// Where a result goes. Errors: it is null.
///
/// # Safety
/// It is null or may be written for the call.
pub(crate) unsafe fn output<'a, T>(name: &str, pointer: *mut T) -> Result<&'a mut MaybeUninit<T>> {
    // SAFETY: the caller's promise.
    unsafe { pointer.cast::<MaybeUninit<T>>().as_mut() }.ok_or_else(|| null(name))
}

/// `len` values. Errors: there are some, and the pointer is null; more than memory has.
///
/// # Safety
/// It is null or points to that many values for the call.
pub(crate) unsafe fn slice<'a, T>(name: &str, pointer: *const T, len: usize) -> Result<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    check_len::<T>(name, len)?;
    if pointer.is_null() {
        return Err(null(name));
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!("{name} is not aligned for its elements")));
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// As [`slice`], to be written.
///
/// # Safety
/// It is null or points to that many values that are the call's alone.
pub(crate) unsafe fn slice_mut<'a, T>(name: &str, pointer: *mut T, len: usize) -> Result<&'a mut [T]> {
    // SAFETY: the caller's promise.
    unsafe { slice(name, pointer, len)? };
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: checked; the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
}

fn check_len<T>(name: &str, len: usize) -> Result {
    match len.checked_mul(size_of::<T>()) {
        Some(bytes) if bytes <= isize::MAX as usize => Ok(()),
        _ => Err(Failure::argument(format!("{name}: {len} elements are more than memory has"))),
    }
}

/// A text. Errors: it is null or no UTF-8.
///
/// # Safety
/// It is null or ends with a zero byte, and is valid for the call.
pub(crate) unsafe fn text<'a>(name: &str, pointer: *const c_char) -> Result<&'a str> {
    if pointer.is_null() {
        return Err(null(name));
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Failure::argument(format!("{name} is not UTF-8")))
}

/// As [`text`]; null is none.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn optional_text<'a>(name: &str, pointer: *const c_char) -> Result<Option<&'a str>> {
    // SAFETY: the caller's promise.
    if pointer.is_null() { Ok(None) } else { unsafe { text(name, pointer) }.map(Some) }
}

/// Options as far as the caller's struct goes, over `defaults`; null: `defaults`. Errors: its size is none that a header had, or
/// it sets fields that this library does not know.
///
/// # Safety
/// It is null or points to as many bytes as its `struct_size` says.
pub(crate) unsafe fn options<T: Versioned>(pointer: *const T, defaults: T) -> Result<T> {
    if pointer.is_null() {
        return Ok(defaults);
    }
    // SAFETY: whatever its size, it begins with it.
    let size = unsafe { pointer.cast::<usize>().read_unaligned() };
    check_size::<T>(size)?;
    let mut options = defaults;
    let known = size.min(size_of::<T>());
    // SAFETY: both have that many bytes, and those of T beyond them stay the defaults'.
    unsafe { std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), (&raw mut options).cast(), known) };
    // SAFETY: the caller's promise.
    let unknown = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>().add(known), size - known) };
    if unknown.iter().any(|&byte| byte != 0) {
        let name = T::NAME;
        return Err(Failure::argument(format!(
            "{name} sets fields of a newer header; update the library, or leave them zero"
        )));
    }
    Ok(options)
}

/// Writes `value` as far as the caller's struct goes; what is beyond becomes zero. Errors: it is null, or its size is none that a
/// header had.
///
/// # Safety
/// It is null or points to as many bytes as its `struct_size` says.
pub(crate) unsafe fn write<T: Versioned>(pointer: *mut T, value: T) -> Result {
    if pointer.is_null() {
        return Err(null(T::NAME));
    }
    // SAFETY: whatever its size, it begins with it.
    let size = unsafe { pointer.cast::<usize>().read_unaligned() };
    // SAFETY: the caller's promise.
    unsafe { write_sized(pointer, size, value) }
}

/// As [`write`](fn@write), to a struct whose size has not been set.
///
/// # Safety
/// It is null or points to `size` bytes.
pub(crate) unsafe fn write_sized<T: Versioned>(pointer: *mut T, size: usize, value: T) -> Result {
    if pointer.is_null() {
        return Err(null(T::NAME));
    }
    check_size::<T>(size)?;
    let known = size.min(size_of::<T>());
    let to = pointer.cast::<u8>();
    // SAFETY: both have that many bytes; T has no padding that is read as anything but bytes.
    unsafe {
        std::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), to, known);
        to.add(known).write_bytes(0, size - known);
        to.cast::<usize>().write_unaligned(size);
    }
    Ok(())
}

fn check_size<T: Versioned>(size: usize) -> Result {
    const MOST: usize = 1 << 12;
    if (size_of::<usize>()..=MOST).contains(&size) && size.is_multiple_of(4) {
        return Ok(());
    }
    Err(Failure::argument(format!("{}.struct_size is {size}; set it to sizeof", T::NAME)))
}

fn null(name: &str) -> Failure {
    Failure::argument(format!("{name} is null"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::FORETUNE_INVALID_ARGUMENT;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Grown {
        struct_size: usize,
        a: u32,
        b: u32,
        c: f64,
    }

    // SAFETY: repr(C), begins with its size, and zeros are valid.
    unsafe impl Versioned for Grown {
        const NAME: &'static str = "grown";
    }

    const DEFAULTS: Grown = Grown { struct_size: size_of::<Grown>(), a: 1, b: 2, c: 3.0 };

    /// A struct of `size` bytes in memory of exactly that size, its bytes after the size all `fill`.
    fn given(size: usize, fill: u8) -> Vec<u64> {
        let mut bytes = vec![fill; size.next_multiple_of(8)];
        bytes[..8].copy_from_slice(&size.to_ne_bytes());
        bytes.as_chunks::<8>().0.iter().map(|&chunk| u64::from_ne_bytes(chunk)).collect()
    }

    #[test]
    fn options_end_where_the_callers_struct_does() {
        // SAFETY: null, or as many bytes as they say.
        unsafe {
            assert_eq!(options(std::ptr::null(), DEFAULTS).unwrap(), DEFAULTS);
            let read = |memory: &[u64]| options(memory.as_ptr().cast::<Grown>(), DEFAULTS);
            assert_eq!(read(&given(8, 0)).unwrap(), Grown { struct_size: 8, ..DEFAULTS });
            assert_eq!(read(&given(12, 0)).unwrap(), Grown { struct_size: 12, a: 0, ..DEFAULTS });
            assert_eq!(read(&given(24, 0)).unwrap(), Grown { struct_size: 24, a: 0, b: 0, c: 0.0 });
            assert_eq!(read(&given(40, 0)).unwrap(), Grown { struct_size: 40, a: 0, b: 0, c: 0.0 });
            let mut newer = given(40, 0);
            newer[4] = 1;
            assert!(read(&newer).unwrap_err().text.contains("newer header"));
            for size in [0, 4, 7, 9, 1 << 20, usize::MAX] {
                assert_eq!(read(&[size as u64, 0, 0]).unwrap_err().status, FORETUNE_INVALID_ARGUMENT);
            }
        }
    }

    #[test]
    fn results_are_written_as_far_as_the_callers_struct_goes() {
        for size in [8, 12, 16, 24, 40] {
            let mut memory = given(size, 0xee);
            // SAFETY: as many bytes as it says.
            unsafe { write(memory.as_mut_ptr().cast::<Grown>(), DEFAULTS).unwrap() };
            let bytes: Vec<u8> = memory.iter().flat_map(|v| v.to_ne_bytes()).collect();
            assert_eq!(bytes[..8], size.to_ne_bytes());
            assert!(bytes[24.min(size)..size].iter().all(|&byte| byte == 0), "{size}");
            assert!(bytes[size..].iter().all(|&byte| byte == 0xee), "{size}");
        }
        // SAFETY: null.
        assert!(unsafe { write(std::ptr::null_mut::<Grown>(), DEFAULTS) }.is_err());
    }

    #[test]
    fn slices_and_texts_are_checked() {
        let values = [1u32, 2, 3];
        // SAFETY: null, or as many values as they say; what is absurd is refused before it is read.
        unsafe {
            assert_eq!(slice("values", values.as_ptr(), 3).unwrap(), values);
            assert!(slice::<u32>("values", std::ptr::null(), 0).unwrap().is_empty());
            assert!(slice::<u32>("values", std::ptr::null(), 1).unwrap_err().text.contains("values is null"));
            assert!(slice("values", values.as_ptr(), usize::MAX).unwrap_err().text.contains("memory"));
            assert!(slice("values", values.as_ptr().byte_add(1), 1).unwrap_err().text.contains("aligned"));
            assert_eq!(text("text", c"ab".as_ptr()).unwrap(), "ab");
            assert!(text("text", c"\xff".as_ptr()).unwrap_err().text.contains("UTF-8"));
            assert!(optional_text("text", std::ptr::null()).unwrap().is_none());
            assert!(reference::<u32>("it", std::ptr::null()).unwrap_err().text.contains("it is null"));
        }
    }
}
