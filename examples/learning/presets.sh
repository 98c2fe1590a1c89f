#!/usr/bin/env bash
# presets.sh OUT SET KIND [SEED…]: test accuracy of the presets, which are longer than the runs of shifted.sh. PRESETS names some.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
out=$1 set=$2 kind=$3
shift_set "$out" "$set" "$kind"
shift 3
[ $# -gt 0 ] || set -- 0 1 2
for preset in ${PRESETS:-fast balanced}; do
  for seed in "$@"; do
    adapter=$out/${set}_${kind}_${preset}_$seed.safetensors
    "$foretune" tune --out "$adapter" --data "$shifted" "${common[@]}" --head-from "$clean" --preset "$preset" --seed "$seed" \
      --augment none --prefix-cache "$out/prefixes_$set" --keep last --json |
      python3 -c '
import json, sys
scores = [event for event in map(json.loads, sys.stdin) if event["event"] == "result"][-1]["scores"]
of = lambda which: "{accuracy:.4f} {loss:.4f}".format(**scores[which]["test"])
print(*sys.argv[1:], "frozen", of("frozen"), "tuned", of("tuned"))' "$set" "$kind" "$preset" "$seed"
  done
done
