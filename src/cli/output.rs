//! Standard output, line by line. A reader that has gone away (`| head`) is no error: the rest is dropped.

use foretune::{Error, Result};
use serde::Serialize;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether the reader has gone away, so that there is no use in computing more to print.
pub(super) fn closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

/// Prints `text` and a line feed, at once.
pub(super) fn line(text: &str) -> Result<()> {
    if closed() {
        return Ok(());
    }
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            CLOSED.store(true, Ordering::Relaxed);
            Ok(())
        }
        result => result.map_err(failed),
    }
}

/// Prints `value` as one line of JSON.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string(value).map_err(|error| failed(error.into()))?)
}

/// A line on standard error; there is nowhere to report that it cannot be written.
pub(super) fn note(text: &str) {
    super::screen::suspended(|| {
        let _ = writeln!(std::io::stderr(), "{text}");
    });
}

/// `text` with control characters escaped: names from files must not steer the terminal.
pub(super) fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

fn failed(source: std::io::Error) -> Error {
    Error::Io { action: "write", path: Path::new("standard output").to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("naïve \u{1b}[31m\n\tred"), "naïve \\u{1b}[31m\\n\\tred");
    }
}
