//! Memory of this process.

/// Largest resident memory so far, in bytes; `None` where the system does not tell (everywhere but Linux).
pub(super) fn peak() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Bytes by which `run` raised this process's resident memory at most; `None` where the system does not tell.
#[cfg(feature = "ort")]
pub(super) fn growth<T>(run: impl FnOnce() -> foretune::Result<T>) -> foretune::Result<(T, Option<u64>)> {
    // What was freed before is no part of what comes.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
    // The high-water mark begins anew at what is resident now.
    let before = std::fs::write("/proc/self/clear_refs", "5").ok().and_then(|()| peak());
    let value = run()?;
    let grown = before.zip(peak()).map(|(before, peak)| peak.saturating_sub(before));
    Ok((value, grown))
}

fn parse(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_high_water_mark() {
        assert_eq!(parse("Name:\tforetune\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"), Some(2 << 20));
        assert_eq!(parse("Name:\tforetune\n"), None);
        assert_eq!(parse("VmHWM:\tmany kB\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_one() {
        assert!(peak().unwrap() > 1 << 20);
    }
}
