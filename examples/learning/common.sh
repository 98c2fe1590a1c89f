# Sourced by the scripts beside it: what they read and how they call foretune. FORETUNE, MODEL, CUB and CARS name other places;
# THREADS=N computes with as many threads, on which no result depends.
set -euo pipefail

foretune=${FORETUNE:-foretune}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
shared=$here/../../../shared
model=${MODEL:-$shared/models/vit_tiny_patch16_224}

# source_of SET: where the clean images are.
source_of() {
  case $1 in
    cub) data=${CUB:-$shared/data/CUB_200_2011_first50} format=cub ;;
    cars) data=${CARS:-$shared/data/stanford_cars_cropped20} format=csv ;;
    *) echo "$1: expected cub or cars" >&2; exit 2 ;;
  esac
  common=(--model "$model" --image-size 112 --format "$format" ${THREADS:+--threads "$THREADS"} --quiet)
}

# shift_set OUT SET KIND: the images through a worse camera, and the head that left the factory: class means of clean ones.
shift_set() {
  source_of "$2"
  clean=$1/clean_$2.safetensors shifted=$1/data/$2_$3
  mkdir -p "$1"
  if [ ! -e "$clean" ]; then
    "$foretune" tune --out "$clean" --data "$data" "${common[@]}" --guess none --augment none --val-fraction 0 --no-eval
  fi
  "$foretune" corrupt --data "$data" --format "$format" --kind "$3" --severity 3 --out "$shifted" --quiet >&2
}
