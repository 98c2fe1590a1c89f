#!/usr/bin/env bash
# Full-size comparison after figure 9 of arXiv 2312.04709: ViT-B/16 on CUB-200-2011, Stanford Cars and Stanford Dogs; the
# frozen head, forward-only guesses and the exact gradient at equal steps. Runs `foretune compare`: interrupted, the same
# command continues. The hyperparameters below are this script's, not the paper's.
set -euo pipefail

help() {
    cat <<'TEXT'
usage: examples/figure9.sh --model PATH --data FORMAT=DIR [--data FORMAT=DIR]... [--out DIR] [--dry-run]

  --model PATH        ViT-B/16 weights
  --data FORMAT=DIR   a data set: cub=DIR, cars=DIR, dogs=DIR (or folder=DIR, csv=DIR)
  --out DIR           results, a folder per data set, head and block, and table.txt [default: figure9-out]
  --dry-run           check the paths, print the commands, run nothing

Environment, with defaults: STEPS=500 LRS=0.001,0.01,0.1 HEADS=prototype,linear INSERT_AT=0,3 IMAGE_SIZE=224 BATCH=64
MICRO_BATCH=16 TANGENTS=2 PROMPTS=10 SEEDS=0 HEAD_LR=0.003 VAL_FRACTION=0.2 CLIP=1, METHODS for other guesses than the usual, and
DEEP=1 for a prompt set per block.

What to download, and what must be where:

ViT-B/16    https://huggingface.co/google/vit-base-patch16-224-in21k
            or https://huggingface.co/timm/vit_base_patch16_224.augreg_in21k
            PATH/model.safetensors  PATH/config.json  (PATH/preprocessor_config.json)

CUB         https://data.caltech.edu/records/65de6-vp158, CUB_200_2011.tgz
            DIR/images.txt  DIR/image_class_labels.txt  DIR/train_test_split.txt  DIR/classes.txt
            DIR/images/001.Black_footed_Albatross/*.jpg ...

Cars        Stanford Cars; the original server is gone, use a mirror of the original archives
            DIR/cars_train/00001.jpg ...  DIR/cars_test/00001.jpg ...
            DIR/devkit/cars_meta.mat  DIR/devkit/cars_train_annos.mat
            DIR/devkit/cars_test_annos_withlabels.mat  (the plain cars_test_annos.mat holds no labels)
            or the older release: DIR/cars_annos.mat  DIR/car_ims/000001.jpg ...

Dogs        http://vision.stanford.edu/aditya86/ImageNetDogs/, images.tar and lists.tar
            DIR/train_list.mat  DIR/test_list.mat  (perhaps in DIR/lists/)
            DIR/Images/n02085620-Chihuahua/*.jpg ...
TEXT
}

fail() {
    printf 'error: %s\n' "$1" >&2
    printf 'examples/figure9.sh --help says what to download and where it belongs\n' >&2
    exit "${2:-1}"
}

model='' out=figure9-out dry=''
sets=()
while (($#)); do
    case $1 in
        --help | -h) help; exit ;;
        --dry-run) dry=1; shift; continue ;;
        --model | --data | --out) (($# > 1)) || fail "$1 needs a value" 2 ;;
        *) fail "unknown option $1" 2 ;;
    esac
    case $1 in
        --model) model=$2 ;;
        --data) sets+=("$2") ;;
        --out) out=$2 ;;
    esac
    shift 2
done
[[ $model ]] || fail '--model is missing' 2
((${#sets[@]})) || fail '--data is missing' 2

# Everything that may be absent is looked for before hours are spent on the first set.
need() {
    local any
    for any in "$@"; do [[ -e $any ]] && return; done
    fail "$1: not found"
}
need "$model"
for set in "${sets[@]}"; do
    format=${set%%=*} dir=${set#*=}
    [[ $set == *=* ]] || fail "--data $set: expected FORMAT=DIR" 2
    need "$dir"
    case $format in
        cub)
            [[ -e $dir/images.txt ]] || dir=$dir/CUB_200_2011
            for file in images.txt image_class_labels.txt train_test_split.txt classes.txt images; do need "$dir/$file"; done
            ;;
        cars)
            if [[ ! -e $dir/cars_annos.mat ]]; then
                for file in cars_meta.mat cars_train_annos.mat cars_test_annos_withlabels.mat; do
                    need "$dir/devkit/$file" "$dir/$file" "$dir/car_devkit/devkit/$file"
                done
                need "$dir/cars_train"
                need "$dir/cars_test"
            else
                need "$dir/car_ims"
            fi
            ;;
        dogs)
            for list in train_list.mat test_list.mat; do need "$dir/$list" "$dir/lists/$list"; done
            need "$dir/Images" "$dir/images"
            ;;
        folder | csv) ;;
        *) fail "--data $set: unknown format $format; use cub, cars, dogs, folder or csv" 2 ;;
    esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
run() {
    printf '+%s\n' "$(printf ' %q' "$@")" >&2
    [[ $dry ]] || "$@"
}
run cargo build --manifest-path "$root/Cargo.toml" --release --bin foretune
foretune=${CARGO_TARGET_DIR:-$root/target}/release/foretune
run mkdir -p "$out"

table=$out/table.txt
if [[ $dry ]]; then table=/dev/null; fi
: >"$table"
IFS=, read -ra heads <<<"${HEADS:-prototype,linear}"
IFS=, read -ra blocks <<<"${INSERT_AT:-0,3}"
for set in "${sets[@]}"; do
    format=${set%%=*} dir=${set#*=}
    for head in "${heads[@]}"; do
        for block in "${blocks[@]}"; do
            name=$format-$(basename "$dir")-$head-$block
            printf '%s\n' "$name" | tee -a "$table"
            # VPT's recipe (resize 256, random crop 224, flip) for full-size photos.
            run "$foretune" compare --model "$model" --data "$dir" --format "$format" --out "$out/$name" --augment vpt \
                --image-size "${IMAGE_SIZE:-224}" --head "$head" --head-lr "${HEAD_LR:-0.003}" --insert-at "$block" \
                --lrs "${LRS:-0.001,0.01,0.1}" --seeds "${SEEDS:-0}" --steps "${STEPS:-500}" --batch "${BATCH:-64}" \
                --val-fraction "${VAL_FRACTION:-0.2}" --micro-batch "${MICRO_BATCH:-16}" --tangents "${TANGENTS:-2}" \
                --prompts "${PROMPTS:-10}" --clip "${CLIP:-1}" ${METHODS:+--methods "$METHODS"} ${DEEP:+--deep} | tee -a "$table"
        done
    done
done
