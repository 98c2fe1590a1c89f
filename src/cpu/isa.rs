//! Which instruction set the CPU kernels use.

use crate::{Error, Result};

/// Environment variable that forces an instruction set: `scalar`, `avx2`, `avx512` or `neon`.
pub const ISA_VARIABLE: &str = "FORETUNE_ISA";

/// An instruction set the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What every CPU of the target architecture has; no fused multiply-add.
    Scalar,
    /// x86-64-v3: AVX2 and FMA, 8 lanes.
    Avx2,
    /// x86-64-v4: AVX-512 F, BW, CD, DQ and VL, 16 lanes.
    Avx512,
    /// AArch64 NEON, 4 lanes.
    Neon,
}

impl Isa {
    /// Every instruction set, narrowest first.
    const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Neon];

    /// The name [`ISA_VARIABLE`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        }
    }

    /// Whether this CPU has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => pulp::x86::V3::is_available(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => pulp::x86::V4::is_available(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => pulp::aarch64::Neon::is_available(),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The instruction sets of this CPU, narrowest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The widest instruction set of this CPU, or the one that [`ISA_VARIABLE`] forces.
    ///
    /// # Errors
    /// [`Error::Options`] if the variable names an unknown instruction set or one that this CPU lacks.
    pub fn detect() -> Result<Self> {
        match std::env::var_os(ISA_VARIABLE) {
            None => Ok(Self::widest()),
            Some(value) => Self::forced(&value.to_string_lossy()),
        }
    }

    /// The widest instruction set of this CPU.
    pub(super) fn widest() -> Self {
        Self::available().last().unwrap_or(Isa::Scalar)
    }

    fn forced(value: &str) -> Result<Self> {
        let names = || Self::available().map(Isa::name).collect::<Vec<_>>().join(", ");
        if value.is_empty() {
            return Ok(Self::widest());
        }
        match Self::ALL.into_iter().find(|isa| isa.name().eq_ignore_ascii_case(value)) {
            None => Err(Error::Options(format!(
                "{ISA_VARIABLE}={value}: unknown instruction set; this CPU has {}, or unset the variable",
                names()
            ))),
            Some(isa) if !isa.is_available() => Err(Error::Options(format!(
                "{ISA_VARIABLE}={value}: this CPU (or this build, for {}) lacks it; it has {}, or unset the variable",
                std::env::consts::ARCH,
                names()
            ))),
            Some(isa) => Ok(isa),
        }
    }

    /// Runs `op` compiled for this instruction set.
    ///
    /// # Panics
    /// If the CPU lacks it, which values from [`Isa::detect`] and [`Isa::available`] exclude.
    #[inline(always)]
    pub(crate) fn dispatch<Op: pulp::WithSimd>(self, op: Op) -> Op::Output {
        use pulp::Simd as _;
        const LACKING: &str = "an available instruction set";
        match self {
            Isa::Scalar => pulp::Scalar::new().vectorize(op),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => pulp::Simd::vectorize(pulp::x86::V3::try_new().expect(LACKING), op),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => pulp::Simd::vectorize(pulp::x86::V4::try_new().expect(LACKING), op),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => pulp::Simd::vectorize(pulp::aarch64::Neon::try_new().expect(LACKING), op),
            #[allow(unreachable_patterns)]
            other => unreachable!("{} on {}", other.name(), std::env::consts::ARCH),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forcing_is_honoured_or_explained() {
        for isa in Isa::available() {
            assert_eq!(Isa::forced(isa.name()).unwrap(), isa);
        }
        assert_eq!(Isa::forced("SCALAR").unwrap(), Isa::Scalar);
        let unknown = Isa::forced("sse9").unwrap_err();
        assert!(unknown.is_usage() && unknown.to_string().contains("sse9") && unknown.to_string().contains("scalar"));
        let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
        let lacking = Isa::forced(foreign).unwrap_err();
        assert!(lacking.is_usage() && lacking.to_string().contains("lacks it"), "{lacking}");
    }

    #[test]
    fn dispatch_runs_with_the_lanes_of_the_instruction_set() {
        struct Lanes;
        impl pulp::WithSimd for Lanes {
            type Output = usize;
            #[inline(always)]
            fn with_simd<S: pulp::Simd>(self, _: S) -> usize {
                S::F32_LANES
            }
        }
        for isa in Isa::available() {
            let lanes = match isa {
                Isa::Scalar => 1,
                Isa::Neon => 4,
                Isa::Avx2 => 8,
                Isa::Avx512 => 16,
            };
            assert_eq!(isa.dispatch(Lanes), lanes);
        }
    }
}
