#!/usr/bin/env bash
# shifted.sh OUT SET KIND: guesses and the exact gradient at equal steps, SET (cub or cars) seen through a worse camera (KIND is one of
# `foretune corrupt`'s). Continues where it stopped. STAGE=recipe leaves out the two plain guesses.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
out=$1 set=$2 kind=$3
shift_set "$out" "$set" "$kind"

# The exact gradient with the number of prompts, the block and the rate that suit it; the guesses with those of the presets.
methods=(--method 'balanced=--prompts 1 --clip 1 --lr 0.1')
if [ "${STAGE:-all}" = all ]; then
  methods+=(--method 'activation=--prompts 1 --lr 0.1' --method 'directional=--guess directional --prompts 1 --lr 0.1')
fi
"$foretune" compare --out "$out/${set}_$kind" --data "$shifted" "${common[@]}" --head-from "$clean" --steps 120 --batch 64 \
  --augment none --prefix-cache "$out/prefixes_$set" --eval-every 20 --prompts 4 --clip 0 --lrs 0.05,0.1 "${methods[@]}"
