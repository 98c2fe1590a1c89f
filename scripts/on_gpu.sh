#!/usr/bin/env bash
# Everything that needs a GPU, in one command, on a machine that has one: parity, determinism, budgets, memory checks, speed beside
# PyTorch. Writes its output to the folder $1 (default: gpu-results).
#
#     cargo build --release && cargo test --release --no-run    # here or elsewhere; the machine then needs no Rust
#     scripts/on_gpu.sh results
#
# FORETUNE is the binary (default target/release/foretune). PyTorch with timm and compute-sanitizer are used where they are there.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu-results}
mkdir -p "$out"
foretune=${FORETUNE:-target/release/foretune}
export FORETUNE_TEST_DEVICE=cuda
failed=0
run() {
    local name=$1
    shift
    echo "=== $name: $*"
    if "$@" >"$out/$name.log" 2>&1; then tail -n 3 "$out/$name.log"; else
        echo "FAILED: $out/$name.log"
        tail -n 5 "$out/$name.log"
        failed=1
    fi
}
test_binary() { ls -t target/release/deps/"$1"-* 2>/dev/null | grep -v '\.d$' | head -n 1; }

run doctor "$foretune" doctor
for dtype in f32 f16 bf16; do
    for case in tests/golden/*/ ../shared/fixtures/*/; do
        [ -e "$case/case.safetensors" ] || continue
        model=()
        [ -e "$case/config.json" ] || model=(--model ../shared/models/vit_tiny_patch16_224)
        run "case-$dtype-$(basename "$case")" "$foretune" selftest --device cuda --dtype "$dtype" --case "$case" "${model[@]}"
    done
done
# The table of operations, streaming and noise; then the small sizes under compute-sanitizer.
lib=$(test_binary foretune)
if [ -n "$lib" ]; then
    run operations "$lib" cuda:: --test-threads 1
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck initcheck; do
            run "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 "$foretune" selftest --device cuda --dtype f16
        done
    fi
fi
# Budgets: the run reports nothing of the driver's own memory; free memory before and after a run is the same.
free() { nvidia-smi --query-gpu=memory.free --format=csv,noheader,nounits | head -n 1; }
data=$out/demo
run demo "$foretune" demo --out "$data" --quiet
for size in vit_base_patch16_224:64MiB vit_large_patch16_224:96MiB vit_huge_patch14_224:160MiB; do
    arch=${size%%:*} budget=${size##*:}
    run "synth-$arch" "$foretune" synth-model --arch "$arch" --out "$out/$arch"
    before=$(free)
    run "budget-$arch" "$foretune" tune --model "$out/$arch" --data "$data/shifted" --format cub --out "$out/$arch.safetensors" \
        --device cuda --precision f16 --budget "$budget" --steps 4 --batch 64 --tangents 1 --no-eval --json
    echo "free MiB before $before, after $(free)"
done
run thousand-steps "$foretune" tune --model "$data/model" --data "$data/shifted" --format cub --out "$out/thousand.safetensors" \
    --device cuda --steps 1000 --no-eval --quiet
echo "free MiB after 1000 steps: $(free)"
# Speed, in one run: ours resident, by our own products, streamed at 256 images, then PyTorch's.
bench=("$foretune" bench --device cuda --precision bf16 --json --rounds 10)
run bench "${bench[@]}" --micro-batch 64 --tangents 0,1,4,8
run bench-own "${bench[@]}" --micro-batch 64 --tangents 0,1 --own-products
# Small passes, replayed as graphs and launched one by one.
run bench-small "${bench[@]}" --micro-batch 1 --tangents 0,1
run bench-small-separate "${bench[@]}" --micro-batch 1 --tangents 0,1 --separate-launches
run bench-resident-256 "${bench[@]}" --micro-batch 256 --tangents 1
run bench-streamed-256 "${bench[@]}" --micro-batch 256 --tangents 1 --streamed --by-blocks 64
if python3 -c 'import torch, timm' 2>/dev/null; then
    run torch python3 benches/peers/torch_gpu.py --batch 64 --dtype bf16
    cat "$out/torch.log"
fi
cat "$out"/bench*.log
exit $failed
