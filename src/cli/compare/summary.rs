//! What the runs of a comparison amount to: learning rates, means, spreads and shares. No file is read or written here.

use super::runs::Record;
use foretune::tune::{GuessKind, TuneOptions};
use foretune::{Error, Result};
use serde::Serialize;
use std::path::Path;

/// Names of what every comparison has.
pub(super) const FROZEN: &str = "frozen";
pub(super) const EXACT: &str = "exact gradient";

/// Forward passes that a step of checkpointed backpropagation costs: forward, forward again, backward.
const BACKPROP_FORWARDS: f64 = 3.0;

/// Mean and sample standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) mean: f64,
    /// `None` of a single value.
    pub(super) sd: Option<f64>,
}

impl Spread {
    /// `None` of no values.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let sd = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        (!values.is_empty()).then_some(Spread { mean, sd })
    }

    /// From one standard deviation below the mean to one above.
    pub(super) fn band(self) -> [f64; 2] {
        let sd = self.sd.unwrap_or(0.0);
        [self.mean - sd, self.mean + sd]
    }
}

/// What a learning rate came to with the first seed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Rate {
    pub(super) lr: f64,
    /// `None` where the run diverged.
    pub(super) validation_loss: Option<f64>,
    pub(super) validation_accuracy: Option<f64>,
}

impl Rate {
    pub(super) fn of(record: &Record) -> Self {
        let validation = record.validation.filter(|_| record.failure.is_none());
        Rate {
            lr: record.lr,
            validation_loss: validation.map(|score| score.loss),
            validation_accuracy: validation.map(|score| score.accuracy),
        }
    }
}

/// The rate with the lowest validation loss, of equals the lowest rate; `None` when all diverged.
pub(super) fn best_rate(sweep: &[Rate]) -> Option<f64> {
    let finished = sweep.iter().filter_map(|rate| rate.validation_loss.map(|loss| (loss, rate.lr)));
    finished.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))).map(|(_, lr)| lr)
}

/// Forward passes of the whole model that a step takes, by count: with tangents, 1 + K × the share of blocks that carry them, and the
/// blocks that a guess runs and transposes to be made. `None` where nothing is trained.
pub(super) fn forwards_per_step(options: &TuneOptions, depth: usize) -> Option<f64> {
    let share = |blocks: usize| blocks as f64 / depth.max(1) as f64;
    let carrying = depth.saturating_sub(options.insert_at);
    let (layout, tangents) = (options.layout(), options.tangents as f64);
    let drawn = match options.guess {
        _ if options.steps == 0 => return None,
        GuessKind::None => return Some(1.0),
        GuessKind::Backprop | GuessKind::MatchedCosine => return Some(BACKPROP_FORWARDS),
        GuessKind::Mixing => share(options.insert_at + layout.sets(depth).saturating_sub(1)),
        GuessKind::Downstream(blocks) => {
            let each = usize::from(blocks).min(carrying);
            let run = share(options.insert_at + layout.blocks_below(depth, each));
            run + BACKPROP_FORWARDS * tangents * layout.sets(depth) as f64 * share(each)
        }
        _ => 0.0,
    };
    Some(1.0 + tangents * share(carrying) + drawn)
}

/// The runs of one method.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) name: String,
    /// Of the first seed; empty for the frozen model.
    pub(super) sweep: Vec<Rate>,
    /// The chosen rate.
    pub(super) lr: Option<f64>,
    /// One run per seed, at the chosen rate.
    pub(super) runs: Vec<Record>,
    pub(super) forwards_per_step: Option<f64>,
}

/// Validation scores of a method after so many steps, over its seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct CurvePoint {
    pub(super) step: u64,
    pub(super) loss: Spread,
    pub(super) accuracy: Spread,
}

/// One method's line of the summary.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) method: String,
    pub(super) lr: Option<f64>,
    pub(super) sweep: Vec<Rate>,
    /// Seeds whose runs finished, and those that diverged at the chosen rate.
    pub(super) seeds: Vec<u64>,
    pub(super) diverged: Vec<u64>,
    pub(super) validation_loss: Option<Spread>,
    pub(super) validation_accuracy: Option<Spread>,
    pub(super) test_loss: Option<Spread>,
    pub(super) test_accuracy: Option<Spread>,
    /// (frozen − method)/(frozen − exact): of the exact gradient's reduction of the test loss, how much this reaches.
    pub(super) share: Option<Spread>,
    pub(super) images_per_second: Option<f64>,
    pub(super) forwards_per_step: Option<f64>,
    pub(super) curve: Vec<CurvePoint>,
}

impl Row {
    fn of(group: Group) -> Self {
        let (failed, finished): (Vec<_>, Vec<_>) = group.runs.iter().partition(|run| run.failure.is_some());
        let over = |value: &dyn Fn(&Record) -> Option<f64>| Spread::of(finished.iter().filter_map(|run| value(run)));
        Row {
            seeds: finished.iter().map(|run| run.seed).collect(),
            diverged: failed.iter().map(|run| run.seed).collect(),
            validation_loss: over(&|run| run.validation.map(|score| score.loss)),
            validation_accuracy: over(&|run| run.validation.map(|score| score.accuracy)),
            test_loss: over(&|run| run.test.map(|score| score.loss)),
            test_accuracy: over(&|run| run.test.map(|score| score.accuracy)),
            share: None,
            images_per_second: over(&|run| run.images_per_second).map(|spread| spread.mean),
            forwards_per_step: group.forwards_per_step,
            curve: curve(&finished),
            method: group.name,
            lr: group.lr,
            sweep: group.sweep,
        }
    }

    /// Whether the chosen rate is the lowest or highest of several, so that one outside might do better.
    pub(super) fn at_edge(&self) -> bool {
        let rates = || self.sweep.iter().map(|rate| rate.lr);
        let edges = [rates().min_by(f64::total_cmp), rates().max_by(f64::total_cmp)];
        self.sweep.len() > 1 && self.lr.is_some() && edges.contains(&self.lr)
    }
}

/// Steps at which every one of `runs` has a finite loss.
fn curve(runs: &[&Record]) -> Vec<CurvePoint> {
    let Some(first) = runs.first() else { return Vec::new() };
    let at = |step: u64| {
        let points = runs.iter().map(|run| run.curve.iter().find(|point| point.step == step));
        let scores = points.map(|point| point.and_then(|point| Some((point.loss?, point.accuracy))));
        let scores = scores.collect::<Option<Vec<_>>>()?;
        let loss = Spread::of(scores.iter().map(|score| score.0))?;
        Some(CurvePoint { step, loss, accuracy: Spread::of(scores.iter().map(|score| score.1))? })
    };
    first.curve.iter().filter_map(|point| at(point.step)).collect()
}

/// The rows of `groups`, in their order, with shares where frozen model and exact gradient have test losses and the
/// latter is the lower one. The spread of a share is that of the method's test loss.
pub(super) fn rows(groups: Vec<Group>) -> Vec<Row> {
    let mut rows: Vec<Row> = groups.into_iter().map(Row::of).collect();
    let loss_of = |name: &str| rows.iter().find(|row| row.method == name)?.test_loss.map(|loss| loss.mean);
    if let (Some(frozen), Some(exact)) = (loss_of(FROZEN), loss_of(EXACT))
        && frozen > exact
    {
        for row in &mut rows {
            row.share = row.test_loss.map(|loss| Spread {
                mean: (frozen - loss.mean) / (frozen - exact),
                sd: loss.sd.map(|sd| sd / (frozen - exact)),
            });
        }
    }
    rows
}

/// `compare.csv`, for messages at `path`.
pub(super) fn csv(rows: &[Row], path: &Path) -> Result<Vec<u8>> {
    let spreads = ["validation_loss", "validation_accuracy", "test_loss", "test_accuracy", "share_of_exact"];
    let mut header: Vec<String> = ["method", "lr", "seeds", "diverged"].map(Into::into).to_vec();
    header.extend(spreads.iter().flat_map(|name| [format!("{name}_mean"), format!("{name}_sd")]));
    header.extend(["images_per_second", "forwards_per_step"].map(Into::into));
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let mut write = |cells: Vec<String>| writer.write_record(cells).map_err(std::io::Error::from);
    let mut all = write(header);
    for row in rows {
        let mut cells = vec![row.method.clone(), number(row.lr)];
        cells.extend([&row.seeds, &row.diverged].map(|seeds| seeds.len().to_string()));
        for spread in [row.validation_loss, row.validation_accuracy, row.test_loss, row.test_accuracy, row.share] {
            cells.extend([number(spread.map(|s| s.mean)), number(spread.and_then(|s| s.sd))]);
        }
        cells.extend([number(row.images_per_second), number(row.forwards_per_step)]);
        all = all.and_then(|()| write(cells));
    }
    let bytes = all.and_then(|()| writer.into_inner().map_err(|error| error.into_error()));
    bytes.map_err(|source| Error::Io { action: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::super::runs::tests::record;
    use super::*;

    fn rate(lr: f64, validation_loss: Option<f64>) -> Rate {
        Rate { lr, validation_loss, validation_accuracy: validation_loss.map(|_| 0.5) }
    }

    fn group(name: &str, losses: &[f64]) -> Group {
        let runs = (0..).zip(losses).map(|(seed, &loss)| record(&format!("{name}{seed}"), 0.1, seed, 1.0, Some(loss)));
        let sweep = vec![rate(0.01, Some(2.0)), rate(0.1, Some(1.0))];
        Group { name: name.into(), sweep, lr: Some(0.1), runs: runs.collect(), forwards_per_step: Some(2.0) }
    }

    #[test]
    fn spreads_are_means_and_sample_deviations() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0]), Some(Spread { mean: 3.0, sd: None }));
        assert_eq!(Spread::of([1.0, 2.0, 3.0]), Some(Spread { mean: 2.0, sd: Some(1.0) }));
        assert_eq!(Spread::of([1.0, 2.0, 3.0]).unwrap().band(), [1.0, 3.0]);
        assert_eq!(Spread { mean: 3.0, sd: None }.band(), [3.0, 3.0]);
    }

    #[test]
    fn the_rate_of_the_lowest_validation_loss_is_chosen() {
        let sweep = [rate(0.1, Some(1.5)), rate(0.01, Some(1.2)), rate(0.03, Some(1.2)), rate(1.0, None)];
        assert_eq!(best_rate(&sweep), Some(0.01));
        assert_eq!(best_rate(&sweep[..1]), Some(0.1));
        assert_eq!(best_rate(&sweep[3..]), None);
        assert_eq!(best_rate(&[]), None);
        let mut diverged = record("a", 0.3, 0, 0.1, None);
        diverged.failure = Some("diverged".into());
        assert_eq!(Rate::of(&diverged), Rate { lr: 0.3, validation_loss: None, validation_accuracy: None });
    }

    #[test]
    fn a_rate_at_the_grids_edge_is_known() {
        let mut row = Row::of(group("activation", &[1.0]));
        assert!(row.at_edge());
        row.sweep.push(rate(1.0, Some(9.0)));
        assert!(!row.at_edge());
        row.sweep.truncate(1);
        row.lr = Some(0.01);
        assert!(!row.at_edge(), "a single rate has no edge");
    }

    #[test]
    fn steps_are_counted_in_forward_passes() {
        let of = |guess, tangents, insert_at| {
            let options = TuneOptions { guess, tangents, insert_at, ..TuneOptions::default() };
            forwards_per_step(&options, 12)
        };
        assert_eq!(of(GuessKind::Backprop, 8, 3), Some(3.0));
        assert_eq!(of(GuessKind::None, 8, 3), Some(1.0));
        assert_eq!(of(GuessKind::WeightTranspose, 2, 0), Some(3.0));
        assert_eq!(of(GuessKind::Activation, 2, 3), Some(2.5));
        assert_eq!(forwards_per_step(&TuneOptions { steps: 0, ..TuneOptions::default() }, 12), None);
    }

    #[test]
    fn shares_are_of_the_exact_gradients_reduction() {
        let all = rows(vec![group(FROZEN, &[2.0]), group("activation", &[1.5, 1.7]), group(EXACT, &[1.0, 1.2])]);
        let shares: Vec<Spread> = all.iter().map(|row| row.share.unwrap()).collect();
        assert_eq!(shares[0], Spread { mean: 0.0, sd: None });
        assert!((shares[1].mean - 0.4 / 0.9).abs() < 1e-12);
        assert!((shares[1].sd.unwrap() - 0.02f64.sqrt() / 0.9).abs() < 1e-12);
        assert!((shares[2].mean - 1.0).abs() < 1e-12);
        // Nothing to have a share of.
        let none = rows(vec![group(FROZEN, &[1.0]), group("activation", &[0.9]), group(EXACT, &[1.0])]);
        assert!(none.iter().all(|row| row.share.is_none()));
        assert!(rows(vec![group(FROZEN, &[1.0]), group("activation", &[0.9])]).iter().all(|row| row.share.is_none()));
    }

    #[test]
    fn diverged_runs_are_counted_and_enter_no_mean() {
        let mut group = group("activation", &[1.0, 50.0, 3.0]);
        group.runs[1].failure = Some("diverged after 2 of 4 steps".into());
        let row = Row::of(group);
        assert_eq!((row.seeds, row.diverged), (vec![0, 2], vec![1]));
        assert_eq!(row.test_loss, Some(Spread { mean: 2.0, sd: Some(2f64.sqrt()) }));
        let nothing = Row::of(Group {
            name: "x".into(),
            sweep: vec![rate(0.1, None)],
            lr: None,
            runs: Vec::new(),
            forwards_per_step: None,
        });
        assert_eq!((nothing.test_loss, nothing.curve.len(), nothing.at_edge()), (None, 0, false));
    }

    #[test]
    fn curves_have_the_steps_that_all_runs_have() {
        let mut group = group("activation", &[1.0, 1.0]);
        group.runs[1].curve[1].loss = Some(3.0);
        let row = Row::of(group.clone());
        assert_eq!(row.curve.iter().map(|point| point.step).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(row.curve[1].loss, Spread { mean: 2.0, sd: Some(2f64.sqrt()) });
        group.runs[1].curve[0].loss = None;
        assert_eq!(Row::of(group).curve.iter().map(|point| point.step).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn csv_has_a_line_per_method_and_quotes_names() {
        let all = rows(vec![group(FROZEN, &[2.0]), group("a, \"b\"", &[1.5, 1.7]), group(EXACT, &[1.0])]);
        let bytes = csv(&all, Path::new("compare.csv")).unwrap();
        let mut reader = ::csv::Reader::from_reader(bytes.as_slice());
        let header = reader.headers().unwrap().clone();
        let lines: Vec<_> = reader.records().collect::<Result<_, _>>().unwrap();
        assert_eq!(lines.len(), 3);
        let cell = |line: usize, name: &str| lines[line][header.iter().position(|h| h == name).unwrap()].to_owned();
        assert_eq!(cell(1, "method"), "a, \"b\"");
        assert_eq!(
            (cell(1, "test_loss_mean"), cell(1, "seeds"), cell(2, "test_loss_sd")),
            ("1.6".into(), "2".into(), String::new())
        );
        assert_eq!(cell(2, "share_of_exact_mean"), "1");
    }
}
