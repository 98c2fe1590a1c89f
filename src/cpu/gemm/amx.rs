//! AMX bf16 micro-kernel (`tdpbf16ps`, f32 sums): up to 2 × 2 tiles of 16 × 16 outputs.
//!
//! Four of the eight tile registers are sums, two hold rows and two hold weights, 16 × 32 terms each. A step makes 4 tile
//! products (65,536 FLOPs, 64 cycles) from 4 tile loads of 1 KiB. The rows of a group and a panel of weights pass through
//! L1; sums leave through a 4 KiB buffer, because tiles can only be stored whole. The products of a pair are summed as
//! the instruction defines, subnormals flushed.
//!
//! Rust has no stable intrinsics for tiles, so the kernel is assembly. Linux lets a process use them after one request.

use super::kernels::{MicroKernel, Tile};
use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// Terms of a tile's rows.
pub(super) const TERMS: usize = 32;
/// Rows and columns of a tile of outputs.
const SIDE: usize = 16;

/// Whether the CPU has AMX bf16 and the system has granted its registers to this process.
pub(super) fn is_available() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| supported() && request())
}

#[allow(unused_unsafe)] // `__cpuid` was unsafe in older compilers.
fn supported() -> bool {
    const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    // SAFETY: every x86-64 CPU has the instruction.
    unsafe { __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BF16_AND_TILE == BF16_AND_TILE }
}

#[cfg(target_os = "linux")]
fn request() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call only changes which registers this process may use, and fails where it cannot.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn request() -> bool {
    false
}

/// The tile registers of this thread, set up; dropping it releases them.
pub(super) struct Tiles(());

/// Operand of `ldtilecfg`: palette 1, eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Tiles {
    /// # Safety
    /// [`is_available`] has returned true.
    pub(super) unsafe fn new() -> Self {
        // SAFETY: the process may use tiles, and the configuration is valid.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly, preserves_flags)) };
        Tiles(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: as it could be set up.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// Kernels for 1..=32 rows by `VECTORS` vectors.
pub(super) const fn kernels<const VECTORS: usize>() -> [MicroKernel; 2 * SIDE] {
    let mut table: [MicroKernel; 2 * SIDE] = [tile::<1, VECTORS>; 2 * SIDE];
    let mut rows = SIDE;
    while rows < 2 * SIDE {
        table[rows] = tile::<2, VECTORS>;
        rows += 1;
    }
    table
}

/// `along_depth` must be 2·16, `across_depth` 1 and `depth` a multiple of 16; rows up to a multiple of 16 are read.
///
/// # Safety
/// As [`super::kernels::MicroKernel`], on a thread with [`Tiles`].
#[target_feature(enable = "avx512f")]
unsafe fn tile<const BLOCKS: usize, const VECTORS: usize>(t: &Tile) {
    debug_assert!(t.along_depth == 2 * SIDE && t.across_depth == 1 && t.depth.is_multiple_of(SIDE));
    let mut sums = MaybeUninit::<[[f32; 2 * SIDE]; 2 * SIDE]>::uninit();
    let (x, w, out) = (t.across.cast::<u8>(), t.along.cast::<u8>(), sums.as_mut_ptr().cast::<f32>());
    let (x_row, steps) = (4 * t.across_row, t.depth / SIDE);
    // Where a second block or vector is absent its loads and products are left out. Labels, strides and registers:
    // tmm0..3 sums, tmm4..5 rows, tmm6..7 weights.
    macro_rules! product {
        ([$($zero:literal),*], [$($step:literal),*], [$($store:literal),*]) => {
            asm!(
                $($zero,)*
                "test {steps}, {steps}",
                "jz 3f",
                "2:",
                $($step,)*
                "add {x}, 64",
                "add {x2}, 64",
                "add {w}, 2048",
                "dec {steps}",
                "jnz 2b",
                "3:",
                $($store,)*
                x = inout(reg) x => _,
                x2 = inout(reg) x.wrapping_add(SIDE * x_row) => _,
                w = inout(reg) w => _,
                steps = inout(reg) steps => _,
                out = in(reg) out,
                out2 = in(reg) out.wrapping_add(2 * SIDE * SIDE),
                x_row = in(reg) x_row,
                line = in(reg) 8 * SIDE,
                options(nostack),
            )
        };
    }
    // SAFETY: the caller promises the operands, `sums` holds 2 × 2 tiles, and the tiles are set up.
    unsafe {
        match (BLOCKS, VECTORS) {
            (1, 1) => product!(
                ["tilezero tmm0"],
                ["tileloadd tmm4, [{x} + {x_row}]", "tileloadd tmm6, [{w} + {line}]", "tdpbf16ps tmm0, tmm4, tmm6"],
                ["tilestored [{out} + {line}], tmm0", "/* {out2} */"]
            ),
            (1, _) => product!(
                ["tilezero tmm0", "tilezero tmm1"],
                [
                    "tileloadd tmm4, [{x} + {x_row}]",
                    "tileloadd tmm6, [{w} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{w} + {line} + 64]",
                    "tdpbf16ps tmm1, tmm4, tmm7"
                ],
                ["tilestored [{out} + {line}], tmm0", "tilestored [{out} + {line} + 64], tmm1", "/* {out2} */"]
            ),
            (_, 1) => product!(
                ["tilezero tmm0", "tilezero tmm2"],
                [
                    "tileloadd tmm4, [{x} + {x_row}]",
                    "tileloadd tmm6, [{w} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{x2} + {x_row}]",
                    "tdpbf16ps tmm2, tmm5, tmm6"
                ],
                ["tilestored [{out} + {line}], tmm0", "tilestored [{out2} + {line}], tmm2"]
            ),
            _ => product!(
                ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
                [
                    "tileloadd tmm4, [{x} + {x_row}]",
                    "tileloadd tmm6, [{w} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{w} + {line} + 64]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{x2} + {x_row}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7"
                ],
                [
                    "tilestored [{out} + {line}], tmm0",
                    "tilestored [{out} + {line} + 64], tmm1",
                    "tilestored [{out2} + {line}], tmm2",
                    "tilestored [{out2} + {line} + 64], tmm3"
                ]
            ),
        }
        let last: __mmask16 = u16::MAX >> (SIDE - t.last);
        for r in 0..t.rows {
            for v in 0..VECTORS {
                let mask = if v + 1 == VECTORS { last } else { u16::MAX };
                let mut sum = _mm512_loadu_ps(out.add(r * 2 * SIDE + v * SIDE));
                if !t.base.is_null() {
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, t.base.add(r * t.base_row + v * SIDE)), sum);
                }
                _mm512_mask_storeu_ps(t.out.add(r * t.out_row + v * SIDE), mask, sum);
            }
        }
    }
}
