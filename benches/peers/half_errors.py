#!/usr/bin/env python3
"""PyTorch's own error in bf16, f16 (or f64) on golden cases, against the float64 values they hold.

    python benches/peers/half_errors.py tests/golden/timm_gap

The model, images, prompts and tangents are cast to the dtype, attention is unfused, and the loss is computed from f32
logits (f64 in f64).
Printed per quantity: ‖output − reference‖ / ‖reference‖ over all its values.
"""
import argparse
import json
import sys
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/golden"))
import prompted  # noqa: E402

QUANTITIES = ["features", "logits", "losses", "jvps"]
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "f64": torch.float64}


def load(folder, image, dtype):
    """The model of a checkpoint's folder, for images of `image` pixels."""
    config = json.loads((folder / "config.json").read_text())
    if "architecture" in config:
        model_args = config.get("model_args", {})
        model = timm.create_model(config["architecture"], num_classes=config["num_classes"], **model_args)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return prompted.Timm(model.to(dtype).eval(), image, fused=False)
    model_class = getattr(transformers, config["architectures"][0])
    model = model_class.from_pretrained(folder, attn_implementation="eager", local_files_only=True)
    return prompted.Transformers(model.to(dtype).eval(), image)


def errors(folder, model_folder, dtype):
    """Quantity → relative error, of one case."""
    with safe_open(folder / "case.safetensors", "pt") as file:
        meta = json.loads(file.metadata()["meta"])
        case = {name: file.get_tensor(name) for name in file.keys()}
    images, prompts, tangents = (case[name].to(dtype) for name in ("images", "prompts", "tangents"))
    net = load(folder if (folder / "config.json").exists() else model_folder, images.shape[2:], dtype)

    def forward(p):
        features, _, logits = prompted.forward(net, images, p, meta.get("insert_at", 0), meta["deep"])
        wide = logits.to(torch.promote_types(dtype, torch.float32))
        return F.cross_entropy(wide, case["labels"], reduction="none"), features, logits

    own = prompts.expand(len(images), *prompts.shape).clone()
    with torch.no_grad():
        losses, features, logits = forward(own)
        derivatives = [torch.func.jvp(lambda p: forward(p)[0], (own,), (t,))[1] for t in tangents.unbind(1)]
    found = {"features": features, "logits": logits, "losses": losses, "jvps": torch.stack(derivatives, 1)}
    return {name: ((found[name].double() - case[name]).norm() / case[name].norm()).item()
            for name in QUANTITIES}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASE", help="folder with case.safetensors")
    parser.add_argument("--model", type=Path, help="checkpoint's folder for cases without one of their own")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--out", type=Path, help="also write all cases to one JSON file")
    args = parser.parse_args()
    for folder in args.cases:
        if not (folder / "case.safetensors").exists():
            parser.error(f"{folder} has no case.safetensors")
        if not (folder / "config.json").exists() and args.model is None:
            parser.error(f"{folder} has no checkpoint of its own: name one with --model")
    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    if args.dtype == "f64":
        prompted.interpolate_in_f64()
    if not args.json:
        print(f"{'case, ' + args.dtype:34}" + "".join(f"{name:>10}" for name in QUANTITIES))
    cases = {}
    for folder in args.cases:
        name = folder.resolve().name
        cases[name] = errors(folder, args.model, DTYPES[args.dtype])
        if args.json:
            about = {"case": name, "dtype": args.dtype, "torch": torch.__version__}
            print(json.dumps({**about, **cases[name]}), flush=True)
        else:
            print(f"{name:34}" + "".join(f"{cases[name][q]:10.1e}" for q in QUANTITIES), flush=True)
    if args.out:
        rounded = {name: {q: float(f"{e:.4g}") for q, e in cases[name].items()} for name in sorted(cases)}
        document = {"torch": torch.__version__, "cases": rounded}
        args.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
