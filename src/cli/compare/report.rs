//! What a comparison leaves behind, and what it prints.

use super::super::args::Global;
use super::super::output;
use super::super::table::Table;
use super::args::CompareJob;
use super::plot::{Quantity, svg};
use super::summary::{Row, Spread, csv};
use foretune::{Error, Result, write_atomic};
use serde::Serialize;
use serde_json::{Value, json};

/// `value` as a line of `--json`.
pub(super) fn event(name: &str, value: &impl Serialize) -> Value {
    let mut object = json!({"event": name});
    // Structs of numbers, names and lists, whose fields cannot fail to become JSON.
    if let (Value::Object(fields), Ok(Value::Object(all))) = (&mut object, serde_json::to_value(value)) {
        fields.extend(all);
    }
    object
}

/// Replaces `compare.csv`, `compare.json`, `loss.svg` and `accuracy.svg`.
pub(super) fn write(rows: &[Row], job: &CompareJob) -> Result<()> {
    let path = |name: &str| job.out.join(name);
    let json = path("compare.json");
    let text = serde_json::to_vec_pretty(&json!({"seeds": job.seeds, "methods": rows})).map_err(|error| Error::Io {
        action: "write",
        path: json.clone(),
        source: error.into(),
    })?;
    let [loss, accuracy] = ["loss.svg", "accuracy.svg"].map(path);
    for (bytes, path) in [
        (csv(rows, &path("compare.csv"))?, path("compare.csv")),
        (text, json),
        (svg(rows, Quantity::Loss, &loss)?.into_bytes(), loss),
        (svg(rows, Quantity::Accuracy, &accuracy)?.into_bytes(), accuracy),
    ] {
        write_atomic(&path, |writer| writer.write_all(&bytes))?;
    }
    Ok(())
}

/// Prints the table, or with `--json` one object.
pub(super) fn print(rows: &[Row], job: &CompareJob, global: &Global) -> Result<()> {
    if global.json {
        return output::json(&json!({"event": "result", "out": job.out, "seeds": job.seeds, "methods": rows}));
    }
    let mut table = Table::new([
        "method",
        "lr",
        "validation loss",
        "test accuracy, %",
        "test loss",
        "share of exact",
        "img/s",
        "forwards/step",
    ]);
    let dash = || "–".to_owned();
    for row in rows {
        let failed = row.diverged.len();
        let method = match (row.lr, failed) {
            (None, _) if !row.sweep.is_empty() => format!("{} (diverged)", row.method),
            (_, 0) => row.method.clone(),
            _ => format!("{} ({failed} of {} diverged)", row.method, failed + row.seeds.len()),
        };
        let percent = |spread: Spread| Spread { mean: 100.0 * spread.mean, sd: spread.sd.map(|sd| 100.0 * sd) };
        table.row([
            method,
            row.lr.map_or_else(dash, |lr| lr.to_string()),
            spread(row.validation_loss, 4),
            spread(row.test_accuracy.map(percent), 2),
            spread(row.test_loss, 4),
            spread(row.share, 2),
            row.images_per_second.map_or_else(dash, |rate| format!("{rate:.1}")),
            row.forwards_per_step.map_or_else(dash, |forwards| format!("{forwards:.2}")),
        ]);
    }
    output::line(&table.render())?;
    if global.quiet {
        return Ok(());
    }
    let seeds = job.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    output::line(&format!(
        "Mean ± standard deviation over seeds {seeds}, after the last step. Each learning rate has the lowest \
         validation loss of its method with seed {}; test images were scored for it alone. \
         Share: (frozen − method)/(frozen − exact) of the test loss.",
        job.seeds[0]
    ))?;
    for row in rows.iter().filter(|row| row.at_edge()) {
        let lr = row.lr.unwrap_or_default();
        output::line(&format!(
            "{}: {lr} is at the end of its rates; with more of them in --lrs it may do better.",
            row.method
        ))?;
    }
    let out = output::printable(&job.out.display().to_string());
    output::line(&format!("{out}: runs.jsonl, compare.csv, compare.json, loss.svg, accuracy.svg"))
}

fn spread(spread: Option<Spread>, digits: usize) -> String {
    match spread {
        None => "–".to_owned(),
        Some(Spread { mean, sd: None }) => format!("{mean:.digits$}"),
        Some(Spread { mean, sd: Some(sd) }) => format!("{mean:.digits$} ± {sd:.digits$}"),
    }
}
