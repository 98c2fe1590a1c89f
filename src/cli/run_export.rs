//! `foretune export`: a classifier as an ONNX file.

use super::args::Global;
use super::onnx_args::ExportArgs;
use super::output;
use foretune::model::LoadOptions;
use foretune::onnx::{ExportOptions, export};
use foretune::{Classifier, Error, Result};
use indicatif::HumanBytes;
use serde_json::json;
use std::path::Path;

pub(super) fn run(args: &ExportArgs, global: &Global) -> Result<()> {
    let options = LoadOptions { image: args.image_size, heads: args.heads };
    let classifier = Classifier::open(&args.model, args.adapter.as_deref(), &options)?;
    let options = ExportOptions { element: args.precision, preprocessing: args.with_preprocessing };
    let tensors = export(&classifier, options, &args.out)?;
    let size = |path: &Path| {
        let found = std::fs::metadata(path).map(|file| file.len());
        found.map_err(|source| Error::Io { action: "look at", path: path.to_owned(), source })
    };
    let bytes = size(&args.out)?;
    let tensor_bytes = tensors.as_deref().map(size).transpose()?;
    if global.json {
        return output::json(&json!({
            "event": "result", "path": args.out, "bytes": bytes, "tensors": tensors, "tensor_bytes": tensor_bytes,
        }));
    }
    if global.quiet {
        return Ok(());
    }
    let more = tensors.zip(tensor_bytes);
    let more = more.map_or(String::new(), |(path, bytes)| format!(" and {} ({})", path.display(), HumanBytes(bytes)));
    output::line(&format!("wrote {} ({}){more}", args.out.display(), HumanBytes(bytes)))
}
