//! Progress: a bar on a terminal, now and then a line elsewhere, JSON events on standard output, or nothing.

use super::args::Global;
use super::{interrupt, output};
use foretune::tune::{Event, Noise, Observer};
use foretune::{Error, Result};
use indicatif::{FormattedDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// All bars of the process, so that whoever else writes to standard error can have them moved out of the way.
static BARS: LazyLock<MultiProgress> = LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::hidden()));

/// Runs `write` while no bar is on the screen.
pub(super) fn suspended<T>(write: impl FnOnce() -> T) -> T {
    BARS.suspend(write)
}

/// Seconds between plain lines.
const EVERY: Duration = Duration::from_secs(10);
/// The line of a run among several.
const RUNS: &str = "{msg} {wide_bar}";
/// Weight of history in the loss and accuracy shown, which single batches make jump.
const SMOOTHING: f64 = 0.9;

enum Mode {
    Bar,
    Lines(Box<dyn Write + Send>),
    Json,
    Quiet,
}

/// Shows a run.
pub(super) struct Screen {
    mode: Mode,
    every: Duration,
    last_line: Option<Instant>,
    /// Line of the run, where there are several.
    runs: Option<ProgressBar>,
    /// When and after how many runs this process began with them.
    runs_began: Option<(Instant, usize)>,
    /// Bar of the steps, there from the first step on.
    steps: Option<ProgressBar>,
    /// Bar of the current phase.
    phase: Option<ProgressBar>,
    phase_name: &'static str,
    phase_total: usize,
    /// When and at which step this process began to step.
    began: Option<(Instant, u64)>,
    /// Smoothed loss and accuracy.
    recent: Option<[f64; 2]>,
    /// Smoothed signal-to-noise ratio of the gradient, and the share of the noise that more tangents would lessen.
    noise: Option<(f64, Option<f64>)>,
    /// Why standard output cannot be written.
    failed: Option<Error>,
}

impl Screen {
    pub(super) fn new(global: &Global) -> Self {
        let terminal = std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let mode = match global {
            Global { json: true, quiet: false, .. } => Mode::Json,
            Global { quiet: true, .. } => Mode::Quiet,
            _ if terminal => {
                BARS.set_draw_target(ProgressDrawTarget::stderr());
                Mode::Bar
            }
            _ => Mode::Lines(Box::new(std::io::stderr())),
        };
        Self::with(mode, EVERY)
    }

    fn with(mode: Mode, every: Duration) -> Self {
        Screen {
            mode,
            every,
            last_line: None,
            runs: None,
            runs_began: None,
            steps: None,
            phase: None,
            phase_name: "",
            phase_total: 0,
            began: None,
            recent: None,
            noise: None,
            failed: None,
        }
    }

    /// Takes the bars off the screen.
    ///
    /// # Errors
    /// [`Error::Io`] when an event could not be written to standard output.
    pub(super) fn finish(mut self) -> Result<()> {
        self.clear();
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Begins a run of `total`, of which `done` are complete; what was shown of the last one goes.
    pub(super) fn run(&mut self, name: &str, done: usize, total: usize) {
        let (began, first) = *self.runs_began.get_or_insert_with(|| (Instant::now(), done));
        let eta = match done.saturating_sub(first) {
            0 => String::new(),
            made => {
                let left = began.elapsed().mul_f64(total.saturating_sub(done) as f64 / made as f64);
                format!("  ETA {}", FormattedDuration(left))
            }
        };
        let text = format!("run {}/{total}: {}{eta}", done + 1, output::printable(name));
        (self.began, self.recent) = (None, None);
        match self.mode {
            Mode::Bar => {
                self.clear();
                let bar = BARS.add(ProgressBar::new(total as u64));
                bar.set_style(style(RUNS));
                bar.set_position(done as u64);
                bar.set_message(text);
                self.runs = Some(bar);
            }
            _ => self.say(&text),
        }
    }

    fn clear(&mut self) {
        for bar in [self.phase.take(), self.steps.take(), self.runs.take()].into_iter().flatten() {
            bar.finish_and_clear();
        }
    }

    /// A line for people, whatever is drawn.
    fn say(&mut self, text: &str) {
        self.last_line = Some(Instant::now());
        match &mut self.mode {
            Mode::Bar => output::note(text),
            // Standard error that cannot be written is no reason to stop a run.
            Mode::Lines(stream) => drop(writeln!(stream, "{text}")),
            Mode::Json | Mode::Quiet => {}
        }
    }

    fn due(&self) -> bool {
        self.last_line.is_none_or(|last| last.elapsed() >= self.every)
    }

    fn phase(&mut self, name: &'static str, total: usize) {
        (self.phase_name, self.phase_total) = (name, total);
        match self.mode {
            Mode::Bar => {
                if let Some(old) = self.phase.take() {
                    old.finish_and_clear();
                }
                let bar = BARS.add(ProgressBar::new(total as u64));
                bar.set_style(style("{msg} {wide_bar} {pos}/{len} images  {per_sec}  ETA {eta}"));
                bar.set_message(name);
                self.phase = Some(bar);
            }
            _ => self.say(&format!("{name}: {total} images")),
        }
    }

    fn progress(&mut self, done: usize) {
        match &self.phase {
            Some(bar) => {
                bar.set_position(done as u64);
                if done >= self.phase_total {
                    bar.finish_and_clear();
                    self.phase = None;
                }
            }
            None if self.due() => self.say(&format!("{}: {done}/{}", self.phase_name, self.phase_total)),
            None => {}
        }
    }

    fn noise(&mut self, found: &Noise) {
        let Noise { signal_to_noise, guessing } = *found;
        self.noise = Some(match self.noise {
            Some((old, share)) => (blend(old, signal_to_noise), share.zip(guessing).map(|(a, b)| blend(a, b))),
            None => (signal_to_noise, guessing),
        });
    }

    fn step(&mut self, step: u64, steps: u64, [loss, accuracy]: [f64; 2], images_per_second: f64) {
        let [loss, accuracy] = match self.recent {
            Some([old_loss, old_accuracy]) => [blend(old_loss, loss), blend(old_accuracy, accuracy)],
            None => [loss, accuracy],
        };
        self.recent = Some([loss, accuracy]);
        let (began, first) = *self.began.get_or_insert_with(|| (Instant::now(), step));
        let noise = match self.noise {
            Some((ratio, Some(share))) => format!("  S/N {ratio:.2} (noise: {:.0} % guessing)", share * 100.0),
            Some((ratio, None)) => format!("  S/N {ratio:.2}"),
            None => String::new(),
        };
        let figures = || format!("loss {loss:.4}  acc {:.1} %{noise}  {images_per_second:.1} img/s", accuracy * 100.0);
        match self.mode {
            Mode::Bar => {
                if let Some(phase) = self.phase.take() {
                    phase.finish_and_clear();
                }
                let bar = self.steps.get_or_insert_with(|| {
                    let bar = BARS.add(ProgressBar::new(steps));
                    bar.set_style(style("tune {wide_bar} {pos}/{len} steps  {msg}  ETA {eta}"));
                    // A resumed run begins in the middle; that took no time.
                    bar.set_position(step);
                    bar.reset_eta();
                    bar
                });
                bar.set_position(step);
                bar.set_message(figures());
            }
            _ if self.due() || step == steps => {
                let rest = match step - first {
                    0 => String::new(),
                    taken => {
                        let left = began.elapsed().mul_f64((steps - step) as f64 / taken as f64);
                        format!("  ETA {}", FormattedDuration(left))
                    }
                };
                self.say(&format!("step {step}/{steps}  {}{rest}", figures()));
            }
            _ => {}
        }
    }
}

/// Of an old smoothed value and a new one.
fn blend(old: f64, new: f64) -> f64 {
    SMOOTHING * old + (1.0 - SMOOTHING) * new
}

impl Observer for Screen {
    fn event(&mut self, event: &Event) {
        if let Mode::Json = self.mode {
            // Reported by `finish`; the run is cancelled meanwhile.
            if let Err(error) = output::json(event) {
                self.failed.get_or_insert(error);
            }
            return;
        }
        match event {
            Event::Phase { name, total } => self.phase(name, *total),
            Event::Progress { done } => self.progress(*done),
            Event::Step { step, steps, loss, accuracy, images_per_second, .. } => {
                self.step(*step, *steps, [*loss, *accuracy], *images_per_second);
            }
            Event::Noise { noise, .. } => self.noise(noise),
            Event::Skipped { step, reason } => self.say(&format!("step {step} skipped: {reason}")),
            Event::Evaluated { step, score, best } => {
                let best = if *best { " (best so far)" } else { "" };
                let accuracy = score.accuracy * 100.0;
                self.say(&format!("step {step}: validation accuracy {accuracy:.1} %, loss {:.4}{best}", score.loss));
            }
            Event::Checkpoint { step, path } => log::info!("step {step}: checkpoint {}", path.display()),
            other => log::debug!("{other:?}"),
        }
    }

    fn cancelled(&self) -> bool {
        interrupt::requested() || self.failed.is_some()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; a wrong one falls back to the library's own.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use foretune::tune::Score;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(every: Duration, events: &[Event]) -> Vec<String> {
        let buffer = Buffer::default();
        let mut screen = Screen::with(Mode::Lines(Box::new(buffer.clone())), every);
        for event in events {
            screen.event(event);
        }
        screen.finish().unwrap();
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn step(step: u64) -> Event {
        Event::Step { step, steps: 40, loss: 2.0, accuracy: 0.25, lr: 0.1, images_per_second: 12.5 }
    }

    #[test]
    fn plain_lines_say_what_the_bar_shows() {
        let score = Score { accuracy: 0.5, loss: 1.25, examples: 8 };
        let found = lines(
            Duration::ZERO,
            &[
                Event::Phase { name: "head inputs", total: 64 },
                Event::Progress { done: 32 },
                step(1),
                step(2),
                Event::Evaluated { step: 2, score, best: true },
                Event::Skipped { step: 3, reason: "the loss is NaN".into() },
            ],
        );
        assert_eq!(
            found[..3],
            ["head inputs: 64 images", "head inputs: 32/64", "step 1/40  loss 2.0000  acc 25.0 %  12.5 img/s"]
        );
        assert!(found[3].starts_with("step 2/40  loss 2.0000  acc 25.0 %  12.5 img/s  ETA 00:0"), "{}", found[3]);
        assert_eq!(
            found[4..],
            ["step 2: validation accuracy 50.0 %, loss 1.2500 (best so far)", "step 3 skipped: the loss is NaN"]
        );
    }

    #[test]
    fn lines_come_at_a_sensible_rate_and_the_last_step_is_shown() {
        let found = lines(Duration::from_secs(3600), &(1..=40).map(step).collect::<Vec<_>>());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("step 1/40") && found[1].starts_with("step 40/40"));
    }

    #[test]
    fn runs_are_counted_and_begin_anew() {
        let buffer = Buffer::default();
        let mut screen = Screen::with(Mode::Lines(Box::new(buffer.clone())), Duration::ZERO);
        for done in 2..4 {
            screen.run("activation, lr 0.1, seed 0", done, 5);
            screen.event(&step(30));
        }
        screen.finish().unwrap();
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "run 3/5: activation, lr 0.1, seed 0");
        assert!(lines[2].starts_with("run 4/5: activation, lr 0.1, seed 0  ETA 00:0"), "{}", lines[2]);
        assert!(!lines[3].contains("ETA"), "{}", lines[3]);
    }

    #[test]
    fn templates_are_valid() {
        for template in [
            "{msg} {wide_bar} {pos}/{len} images  {per_sec}  ETA {eta}",
            "tune {wide_bar} {pos}/{len} steps  {msg}  ETA {eta}",
            RUNS,
        ] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
