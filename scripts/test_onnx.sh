#!/usr/bin/env bash
# test_onnx.sh: exports of the built-in model, before and after tuning, in other programs: the ONNX checker, Python's onnxruntime and a C++
# program find the classes that `foretune predict` finds. Needs PYTHON with onnx, onnxruntime and Pillow, FORETUNE, and ONNXRUNTIME_ROOT, an
# unpacked release of ONNX Runtime or what scripts/onnxruntime_root.sh makes; without that, C++ is skipped. FORETUNE_KEEP_EXPORTS: a folder of
# exports that the ONNX checker is to pass.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} foretune=${FORETUNE:-foretune}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# Says how many lines of the files $1 and $2 name the same class; $3: what wrote the second.
agree() {
    "$python" - "$@" <<'PYTHON'
import json, sys
ours, theirs = ([json.loads(line) for line in open(path)] for path in sys.argv[1:3])
same = sum(a["top"][0]["name"] == b["name"] for a, b in zip(ours, theirs, strict=True))
print(f"{sys.argv[3]}: {same} of {len(ours)} classes agree")
# Photos are decoded by another library there, which moves some pixels by a level.
sys.exit(same < 0.95 * len(ours))
PYTHON
}

# Every golden case, with its prompts, as `cargo test --test onnx` leaves it.
if [[ -n ${FORETUNE_KEEP_EXPORTS:-} ]]; then
    "$python" - "$FORETUNE_KEEP_EXPORTS" <<'PYTHON'
import pathlib, sys
import onnx
paths = sorted(pathlib.Path(sys.argv[1]).glob("*.onnx"))
for path in paths:
    onnx.checker.check_model(str(path), full_check=True)
print(f"the ONNX checker passes {len(paths)} exports of golden cases")
sys.exit(len(paths) < 20)
PYTHON
fi

cpp=
if [[ -z ${ONNXRUNTIME_ROOT:-} ]]; then
    echo 'SKIPPED: no ONNXRUNTIME_ROOT; examples/onnx/predict.cpp is NOT built by this run'
    [[ -z ${FORETUNE_NEED_ORT:-} ]]
else
    cmake -S examples/onnx -B "$out/cpp" -DONNXRUNTIME_ROOT="$ONNXRUNTIME_ROOT" -DCMAKE_BUILD_TYPE=Release \
        -DCMAKE_CXX_FLAGS='-Wall -Wextra -Wpedantic -Werror' >/dev/null
    cmake --build "$out/cpp" >/dev/null
    cpp=$out/cpp/predict
fi
"$foretune" demo --out "$out/demo" --quiet >/dev/null
mapfile -t photos < <(find "$out/demo/shifted" -name '*.png' -o -name '*.jpg' | sort | head -60)
mapfile -t pixels < <("$python" - "$out/ppm" "${photos[@]}" <<'PYTHON'
import pathlib, sys
from PIL import Image
folder = pathlib.Path(sys.argv[1])
folder.mkdir()
for number, photo in enumerate(sys.argv[2:]):
    path = folder / f"{number}.ppm"
    Image.open(photo).convert("RGB").save(path)
    print(path)
PYTHON
)
"$foretune" predict --model "$out/demo/model" --adapter "$out/demo/adapter.safetensors" --top 1 --json "${photos[@]}" >"$out/ours"
for options in '' '--with-preprocessing' '--precision f16' '--precision f16 --with-preprocessing'; do
    # Word splitting is meant.
    # shellcheck disable=SC2086
    "$foretune" export --model "$out/demo/model" --adapter "$out/demo/adapter.safetensors" --out "$out/tuned.onnx" $options --quiet
    "$python" examples/onnx/predict.py --check "$out/tuned.onnx" "${photos[@]}" >"$out/theirs"
    agree "$out/ours" "$out/theirs" "exported ${options:-as it is}, Python"
    [[ -n $cpp ]] || continue
    if [[ $options == *--with-preprocessing ]]; then
        "$cpp" "$out/tuned.onnx" "${pixels[@]}" >"$out/theirs"
        agree "$out/ours" "$out/theirs" "exported $options, C++"
    else
        ! "$cpp" "$out/tuned.onnx" "${pixels[@]}" 2>"$out/refused"
        grep -q 'export it with --with-preprocessing' "$out/refused"
    fi
done
[[ -z $cpp ]] || { ! "$cpp" "$out/tuned.onnx" "$out/ours" 2>"$out/refused" && grep -q 'no binary PPM' "$out/refused"; }
