//! Writes the images that `models/train.py` trains the demo's model on: `demo_images DIR [SEED] [PER_CLASS]`.
//!
//! Scenes as they are drawn, in the layout of CUB-200-2011: set 0 of the seed for training, set 1 (a tenth as many) for the
//! test. `foretune demo` uses sets 2 and 3, of any seed, so that it never shows the model an image it was trained on.

use foretune::demo::{Subset, write_cub};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| args.get(at).map_or(Ok(default), |text| text.parse());
    let (Some(root), Ok(seed), Ok(per_class)) = (args.first(), number(1, 0), number(2, 2000)) else {
        eprintln!("usage: demo_images DIR [SEED] [PER_CLASS]");
        return ExitCode::from(2);
    };
    let Ok(per_class) = u32::try_from(per_class) else {
        eprintln!("error: {per_class} images per class; give fewer");
        return ExitCode::from(2);
    };
    let subsets =
        [Subset { set: 0, per_class, train: true }, Subset { set: 1, per_class: per_class.div_ceil(10), train: false }];
    match write_cub(Path::new(root), seed, &subsets, false) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
