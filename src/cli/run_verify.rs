//! `foretune data verify`: what a data set holds and which of its images cannot be used.

use super::args::Global;
use super::job::DataSource;
use super::output;
use super::screen::Screen;
use foretune::Result;
use foretune::data::{Dataset, OpenOptions, Problem, Split};
use foretune::tune::{Event, Observer};
use serde_json::json;

/// Whether there were no problems.
pub(super) fn run(source: &DataSource, global: &Global) -> Result<bool> {
    let mut dataset = open_quietly(source)?;
    let mut screen = Screen::new(global);
    // Standard output gets findings and a summary, not progress.
    if !global.json {
        screen.event(&Event::Phase { name: "decode", total: dataset.items.len() });
    }
    let found = dataset.verify(&mut |done| {
        if !global.json {
            screen.event(&Event::Progress { done });
        }
    });
    screen.finish()?;
    dataset.skip(found);
    for problem in &dataset.problems {
        print_problem(problem, global.json)?;
    }
    print_summary("data set", &dataset, global.json)?;
    let count = dataset.problems.len();
    if count == 0 || source.options.skip_bad {
        return Ok(true);
    }
    note_problems(source, count, "listed above");
    Ok(false)
}

/// The one error that stands for problems which have been printed.
pub(super) fn note_problems(source: &DataSource, count: usize, listed: &str) {
    let plural = if count == 1 { "" } else { "s" };
    output::note(&format!("error: {}: {count} problem{plural}, {listed}", source.root.display()));
}

/// Opens the data set past its problems, which the caller prints, all of them.
pub(super) fn open_quietly(source: &DataSource) -> Result<Dataset> {
    let level = log::max_level();
    log::set_max_level(level.min(log::LevelFilter::Error));
    let opened = Dataset::open(&source.root, source.format, &OpenOptions { skip_bad: true, ..source.options.clone() });
    log::set_max_level(level);
    opened
}

pub(super) fn print_problem(problem: &Problem, json: bool) -> Result<()> {
    match json {
        true => output::json(&json!({"path": problem.path, "problem": problem.what})),
        false => output::line(&output::printable(&problem.to_string())),
    }
}

/// Format, classes, and images of each split with the span of their class counts.
pub(super) fn print_summary(kind: &str, dataset: &Dataset, json: bool) -> Result<()> {
    let splits = [("train", Split::Train), ("val", Split::Val), ("test", Split::Test)];
    let counts = splits.map(|(name, split)| (name, dataset.class_counts(split)));
    if json {
        let images: serde_json::Map<_, _> =
            counts.iter().map(|(name, counts)| ((*name).to_owned(), counts.iter().sum::<usize>().into())).collect();
        return output::json(&json!({
            "kind": kind,
            "path": dataset.root,
            "format": dataset.format,
            "classes": dataset.classes,
            "images": images,
            "problems": dataset.problems.len(),
        }));
    }
    output::line(&format!("{kind:<10} {} ({})", dataset.root.display(), dataset.format))?;
    output::line(&format!("classes    {}", dataset.classes.len()))?;
    for (name, counts) in counts {
        let total: usize = counts.iter().sum();
        let span = match (counts.iter().min(), counts.iter().max()) {
            (Some(least), Some(most)) if total > 0 => format!(", {least} to {most} per class"),
            _ => String::new(),
        };
        output::line(&format!("{name:<10} {total} images{span}"))?;
    }
    output::line(&format!("problems   {}", dataset.problems.len()))
}
