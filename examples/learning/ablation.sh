#!/usr/bin/env bash
# ablation.sh OUT SET KIND: the recipe with one option changed at a time; short runs, one seed.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
out=$1 set=$2 kind=$3
shift_set "$out" "$set" "$kind"
methods=()
try() { methods+=(--method "$1=--lr 0.1 $2"); }
try 'recipe' ''
try 'no clip' '--clip 0'
try 'clip 0.3' '--clip 0.3'
try '4 prompts' '--prompts 4'
try 'block 0' '--insert-at 0'
try 'block 6' '--insert-at 6'
try 'lr 0.05' '--lr 0.05'
try 'lr 0.2' '--lr 0.2'
try 'β₁ 0.97' '--momentum 0.97'
try 'K 2' '--tangents 2'
try 'K 4' '--tangents 4'
try 'orthonormal' '--orthonormal'
try 'weight-transpose' '--guess weight-transpose'
try 'weight-transpose, power 0.5' '--guess weight-transpose --power 0.5'
try 'mixing' '--guess mixing'
try 'self-sharpening' '--guess self-sharpening'
# No prefix cache: ahead of block 0 there is nothing to keep.
"$foretune" compare --out "$out/ablation_${set}_$kind" --data "$shifted" "${common[@]}" --head-from "$clean" --steps 60 --batch 64 \
  --augment none --eval-every 20 --seeds 0 --lrs 0.1 "${methods[@]}"
