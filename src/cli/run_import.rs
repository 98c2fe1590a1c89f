//! `foretune import`: an ONNX file as a checkpoint folder.

use super::args::Global;
use super::onnx_args::ImportArgs;
use super::output;
use foretune::Result;
use foretune::model::import_onnx;
use serde_json::json;

pub(super) fn run(args: &ImportArgs, global: &Global) -> Result<()> {
    let model = import_onnx(&args.model, &args.out, args.image_size)?;
    if global.json {
        return output::json(&json!({ "event": "result", "path": args.out, "spec": model.spec }));
    }
    if global.quiet {
        return Ok(());
    }
    output::line(&format!("wrote model.safetensors and config.json into {}", args.out.display()))
}
