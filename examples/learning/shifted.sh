#!/usr/bin/env bash
# The tables of docs/learning.md on shifted data: shifted.sh OUT DATA_SET KIND, where DATA_SET is cub or cars and KIND one of
# `foretune corrupt`'s. Continues where it stopped. FORETUNE, MODEL, CUB and CARS name the program and what it reads; STAGE=recipe
# leaves out the baselines, THREADS=N computes with as many threads (no result depends on it).
set -euo pipefail
out=$1 set=$2 kind=$3
foretune=${FORETUNE:-foretune}
model=${MODEL:-../shared/models/vit_tiny_patch16_224}
case $set in
  cub) data=${CUB:-../shared/data/CUB_200_2011_first50} format=cub ;;
  cars) data=${CARS:-../shared/data/stanford_cars_cropped20} format=csv ;;
  *) echo "$set: expected cub or cars" >&2; exit 2 ;;
esac
mkdir -p "$out"
common=(--model "$model" --image-size 112 --format "$format" ${THREADS:+--threads "$THREADS"} --quiet)

# Class means of the clean images: the head that left the factory.
clean=$out/clean_$set.safetensors
[ -e "$clean" ] || "$foretune" tune --out "$clean" --data "$data" "${common[@]}" --guess none --augment none --val-fraction 0 --no-eval

shifted=$out/data/${set}_$kind
"$foretune" corrupt --data "$data" --format "$format" --kind "$kind" --severity 3 --out "$shifted" --quiet

# The exact gradient with the number of prompts, place and rate that suit it; guesses with those of the presets.
methods=(--method 'balanced=--prompts 1 --clip 1 --lr 0.1')
if [ "${STAGE:-all}" = all ]; then
  methods+=(--method 'activation=--prompts 1 --lr 0.1' --method 'directional=--guess directional --prompts 1 --lr 0.1')
fi
"$foretune" compare --out "$out/${set}_$kind" --data "$shifted" "${common[@]}" --head-from "$clean" --steps 120 --batch 64 \
  --augment none --prefix-cache "$out/prefixes_$set" --eval-every 20 --prompts 4 --clip 0 --lrs 0.05,0.1 "${methods[@]}"
