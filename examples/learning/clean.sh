#!/usr/bin/env bash
# clean.sh OUT SET HEAD: guesses and the exact gradient on clean images, with the head (prototype or linear) that they bring themselves.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
out=$1 set=$2 head=$3
source_of "$set"
"$foretune" compare --out "$out/clean_${set}_$head" --data "$data" "${common[@]}" --head "$head" --head-lr 0.003 --steps 120 --batch 64 \
  --augment none --prefix-cache "$out/prefixes_$set" --eval-every 20 --prompts 4 --clip 0 --lrs 0.03,0.1 \
  --method 'balanced=--prompts 1 --clip 1 --lr 0.1'
