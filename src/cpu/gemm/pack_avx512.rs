//! Packing with AVX-512: 16 × 16 transposes in registers, f16 by `vcvtph2ps`, bf16 by a shift, to bf16 by
//! `vcvtne2ps2bf16` (nearest even; subnormals become zero, as the products would have them).

use super::Layout;
use super::avx512_bf16::first;
use super::matrix::Stored;
use super::pack::Block;
use std::arch::x86_64::*;
use std::mem::transmute;

const LANES: usize = 16;
/// Columns of a bf16 panel.
const PANEL: usize = 2 * LANES;

const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// Up to 16 values from `at` on, zeros beyond `count`.
///
/// # Safety
/// `count` values are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load<const STORED: u8>(at: *const u8, count: usize) -> __m512 {
    let mask = first(count);
    // SAFETY: masked lanes are not touched.
    unsafe {
        match STORED {
            F32 => _mm512_maskz_loadu_ps(mask, at.cast()),
            F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, at.cast())),
            _ => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(
                mask,
                at.cast(),
            )))),
        }
    }
}

/// Up to 32 values from `at` on as 16 pairs of bf16, zeros beyond `count`.
///
/// # Safety
/// As [`load`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn load_pairs<const STORED: u8>(at: *const u8, count: usize) -> __m512i {
    // SAFETY: masked lanes are not touched; __m512bh is 512 plain bits.
    unsafe {
        if STORED == BF16 {
            let mask = if count >= 2 * LANES { u32::MAX } else { (1 << count) - 1 };
            return _mm512_maskz_loadu_epi16(mask, at.cast());
        }
        let size = if STORED == F32 { 4 } else { 2 };
        let low = load::<STORED>(at, count);
        let high = load::<STORED>(at.wrapping_add(LANES * size), count.saturating_sub(LANES));
        transmute(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// Element (i, j) of the result is element (j, i) of `r`.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(r: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut t = r;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    // Lane l of u[4i + c] is column 4l + c of rows 4i..4i + 4.
    let mut u = t;
    for i in 0..4 {
        let [a, b, c, d] = [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]];
        u[4 * i] = _mm512_unpacklo_epi64(a, c);
        u[4 * i + 1] = _mm512_unpackhi_epi64(a, c);
        u[4 * i + 2] = _mm512_unpacklo_epi64(b, d);
        u[4 * i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    let mut out = u;
    for c in 0..4 {
        let [p, q, r, s] = [u[c], u[4 + c], u[8 + c], u[12 + c]];
        let (even, odd) = (_mm512_shuffle_i32x4::<0x88>(p, q), _mm512_shuffle_i32x4::<0xdd>(p, q));
        let (even2, odd2) = (_mm512_shuffle_i32x4::<0x88>(r, s), _mm512_shuffle_i32x4::<0xdd>(r, s));
        out[c] = _mm512_shuffle_i32x4::<0x88>(even, even2);
        out[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd, odd2);
        out[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even, even2);
        out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd, odd2);
    }
    out
}

/// Packs one f32 panel.
///
/// # Safety
/// As [`Block::pack`], with AVX-512 F, BW and VL, for panels of whole vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn panel(block: &Block, panel: usize, out: *mut f32) {
    let mut line = 0;
    for run in block.runs() {
        // SAFETY: as promised by the caller; `line` counts the rows of earlier runs.
        unsafe {
            match run.stored {
                Stored::F32 => rows::<F32>(block, run.bytes, run.rows, line, (out, panel)),
                Stored::F16 => rows::<F16>(block, run.bytes, run.rows, line, (out, panel)),
                Stored::Bf16 => rows::<BF16>(block, run.bytes, run.rows, line, (out, panel)),
            }
        }
        line += run.rows;
    }
}

/// # Safety
/// As [`panel`]; `bytes` holds `count` rows of the matrix, which are the panel's from `line` on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn rows<const STORED: u8>(
    block: &Block,
    bytes: &[u8],
    count: usize,
    line: usize,
    (out, panel): (*mut f32, usize),
) {
    let size = if STORED == F32 { 4 } else { 2 };
    let row = block.matrix.cols() * size;
    // SAFETY: loads are masked to the block's rows and stores to its panel.
    unsafe {
        match block.layout {
            Layout::Plain => {
                let width = block.columns.len();
                for i in 0..count {
                    let from = bytes.as_ptr().add(i * row + block.columns.start * size);
                    let to = out.add((line + i) * panel);
                    for c in (0..panel).step_by(LANES) {
                        let values = load::<STORED>(from.wrapping_add(c * size), width.saturating_sub(c));
                        _mm512_storeu_ps(to.add(c), values);
                    }
                }
            }
            Layout::Transposed => {
                let from = bytes.as_ptr().add(block.depth.start * size);
                transposed::<STORED>(from, row, [count, block.depth.len()], out.add(line), panel);
            }
        }
    }
}

/// As [`super::pack::transpose`].
///
/// # Safety
/// As there, with AVX-512 F, BW and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn transpose_rows(from: *const f32, stride: usize, shape: [usize; 2], out: *mut f32, line: usize) {
    // SAFETY: as promised by the caller.
    unsafe { transposed::<F32>(from.cast(), stride * size_of::<f32>(), shape, out, line) }
}

/// Transposes `count` rows of `depth` values, `row` bytes apart, into columns of lines that are `panel` apart.
///
/// # Safety
/// The rows are readable and the columns writable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn transposed<const STORED: u8>(
    bytes: *const u8,
    row: usize,
    [count, depth]: [usize; 2],
    out: *mut f32,
    panel: usize,
) {
    let size = if STORED == F32 { 4 } else { 2 };
    for i in (0..count).step_by(LANES) {
        let columns = LANES.min(count - i);
        for p in (0..depth).step_by(LANES) {
            // SAFETY: loads are masked to the rows and stores to their columns.
            unsafe {
                let from = bytes.add(i * row + p * size);
                let mut r = [_mm512_setzero_si512(); LANES];
                for (j, r) in r.iter_mut().enumerate() {
                    if j < columns {
                        *r = _mm512_castps_si512(load::<STORED>(from.add(j * row), depth - p));
                    }
                }
                store_lines(transpose(r), depth - p, columns, (out.add(p * panel + i), panel));
            }
        }
    }
}

/// Stores the first `count` lines, `columns` elements of each.
///
/// # Safety
/// The elements are writable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store_lines(lines: [__m512i; LANES], count: usize, columns: usize, (out, panel): (*mut f32, usize)) {
    for (l, line) in lines.into_iter().enumerate() {
        if l < count {
            // SAFETY: masked to what the caller promises.
            unsafe { _mm512_mask_storeu_epi32(out.add(l * panel).cast(), first(columns), line) };
        }
    }
}

/// Packs one panel of bf16 pairs, `elements` deep.
///
/// # Safety
/// As [`Block::pack`], with AVX-512 F, BW, VL and BF16, for at most 32 columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn bf16_panel(block: &Block, elements: usize, out: *mut f32) {
    let mut line = 0;
    for run in block.runs() {
        // SAFETY: as promised by the caller; `line` counts the rows of earlier runs.
        unsafe {
            match run.stored {
                Stored::F32 => bf16_rows::<F32>(block, run.bytes, run.rows, line, elements, out),
                Stored::F16 => bf16_rows::<F16>(block, run.bytes, run.rows, line, elements, out),
                Stored::Bf16 => bf16_rows::<BF16>(block, run.bytes, run.rows, line, elements, out),
            }
        }
        line += run.rows;
    }
    if block.layout == Layout::Plain {
        // Rows beyond the depth, up to the padding; the odd half of a last pair was written with its even one.
        let written = line.div_ceil(2);
        // SAFETY: within the panel.
        unsafe { out.add(written * PANEL).write_bytes(0, (elements - written) * PANEL) };
    }
}

/// # Safety
/// As [`rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn bf16_rows<const STORED: u8>(
    block: &Block,
    bytes: &[u8],
    count: usize,
    line: usize,
    elements: usize,
    out: *mut f32,
) {
    let size = if STORED == F32 { 4 } else { 2 };
    let row = block.matrix.cols() * size;
    // SAFETY: loads are masked to the block's rows and stores to its panel.
    unsafe {
        match block.layout {
            Layout::Plain => {
                let width = block.columns.len();
                for i in 0..count {
                    let from = bytes.as_ptr().add(i * row + block.columns.start * size);
                    let to = out.add((line + i) / 2 * PANEL).cast::<i32>();
                    for half in 0..2 {
                        let at = from.wrapping_add(half * LANES * size);
                        let values = load::<STORED>(at, width.saturating_sub(half * LANES));
                        let narrow: __m256i = transmute(_mm512_cvtneps_pbh(values));
                        let mut pairs = _mm512_cvtepu16_epi32(narrow);
                        let to = to.add(half * LANES);
                        if (line + i) % 2 == 1 {
                            pairs = _mm512_or_si512(_mm512_loadu_si512(to.cast()), _mm512_slli_epi32::<16>(pairs));
                        }
                        _mm512_storeu_si512(to.cast(), pairs);
                    }
                }
            }
            Layout::Transposed => {
                let depth = block.depth.len();
                for i in (0..count).step_by(LANES) {
                    let columns = LANES.min(count - i);
                    let from = bytes.as_ptr().add(i * row + block.depth.start * size);
                    for p in (0..elements).step_by(LANES) {
                        let mut r = [_mm512_setzero_si512(); LANES];
                        for (j, r) in r.iter_mut().enumerate() {
                            if j < columns {
                                let at = from.wrapping_add(j * row + 2 * p * size);
                                *r = load_pairs::<STORED>(at, depth.saturating_sub(2 * p));
                            }
                        }
                        store_lines(transpose(r), elements - p, columns, (out.add(p * PANEL + line + i), PANEL));
                    }
                }
            }
        }
    }
}
