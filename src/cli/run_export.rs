//! `foretune export`: a classifier as an ONNX file.

use super::args::{ExportArgs, Global};
use super::output;
use foretune::model::LoadOptions;
use foretune::onnx::{ExportOptions, export};
use foretune::{Classifier, Error, Result};
use indicatif::HumanBytes;
use serde_json::json;

pub(super) fn run(args: &ExportArgs, global: &Global) -> Result<()> {
    let options = LoadOptions { image: args.image_size, heads: args.heads };
    let classifier = Classifier::open(&args.model, args.adapter.as_deref(), &options)?;
    let options = ExportOptions { element: args.precision, preprocessing: args.with_preprocessing };
    export(&classifier, options, &args.out)?;
    let size = std::fs::metadata(&args.out).map_err(|source| Error::Io {
        action: "look at",
        path: args.out.clone(),
        source,
    })?;
    if global.json {
        return output::json(&json!({ "event": "result", "path": args.out, "bytes": size.len() }));
    }
    if global.quiet {
        return Ok(());
    }
    output::line(&format!("wrote {} ({})", args.out.display(), HumanBytes(size.len())))
}
