#!/usr/bin/env bash
# test_onnx.sh: exports of the built-in model, before and after tuning, in other programs: the ONNX checker and Python's onnxruntime find
# the classes that `foretune predict` finds. Needs PYTHON with onnx, onnxruntime and Pillow, and FORETUNE.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} foretune=${FORETUNE:-foretune}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"$foretune" demo --out "$out/demo" --quiet >/dev/null
mapfile -t photos < <(find "$out/demo/shifted" -name '*.png' -o -name '*.jpg' | sort | head -60)
for options in '' '--with-preprocessing' '--precision f16' '--precision f16 --with-preprocessing'; do
    # Word splitting is meant.
    # shellcheck disable=SC2086
    "$foretune" export --model "$out/demo/model" --adapter "$out/demo/adapter.safetensors" --out "$out/tuned.onnx" $options --quiet
    "$foretune" predict --model "$out/demo/model" --adapter "$out/demo/adapter.safetensors" --top 1 --json "${photos[@]}" >"$out/ours"
    "$python" examples/onnx/predict.py --check "$out/tuned.onnx" "${photos[@]}" >"$out/theirs"
    "$python" - "$out/ours" "$out/theirs" "$options" <<'PYTHON'
import json, sys
ours, theirs = ([json.loads(line) for line in open(path)] for path in sys.argv[1:3])
same = sum(a["top"][0]["name"] == b["name"] for a, b in zip(ours, theirs, strict=True))
print(f"exported {sys.argv[3] or 'as it is'}: {same} of {len(ours)} classes agree")
# Photos are decoded by another library there, which moves some pixels by a level.
sys.exit(same < 0.95 * len(ours))
PYTHON
done
