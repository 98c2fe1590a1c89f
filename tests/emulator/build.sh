#!/usr/bin/env bash
# Builds the GPU emulator into the folder $1: libcuda.so.1, and libcublasLt.so.12 if there are sources for one. Compiles
# what has changed, and says nothing. Exit code 77: no C++ compiler.
#
# LD_LIBRARY_PATH=$1 has a program load them. Links: libcuda.so, the first name that is tried; blas/libcublasLt.so, which
# is alone in its folder.
set -euo pipefail
if [[ $# -ne 1 ]]; then
    echo "usage: $0 FOLDER" >&2
    exit 2
fi
cxx=${CXX:-c++}
if ! command -v "$cxx" >/dev/null; then
    echo "the GPU emulator needs a C++ compiler: $cxx is not there" >&2
    exit 77
fi
mkdir -p "$1/objects"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
# Tests of several processes begin at once.
exec 9>"$out/lock"
flock 9

# Not -O3: GCC 12 then keeps digits that a conversion from double to float takes away.
export flags="-O2 -std=c++17 -fPIC -fno-semantic-interposition -ffp-contract=off -Wall -Wextra -Werror -Wno-unknown-pragmas -Isrc/cuda/kernels"
shared=(-shared -Wl,-z,defs -Wl,-Bsymbolic)
common=$({
    "$cxx" --version
    cat src/cuda/kernels/*.cuh tests/emulator/*.h tests/emulator/build.sh
} | sha256sum)

# Objects are called by what they were made from: $out/objects/NAME.HASH.o.
objects() {
    local source
    for source in "$@"; do
        echo "$out/objects/$(basename "$source").$(echo "$common" | cat - "$source" | sha256sum | cut -c1-16).o"
    done
}
compile() {
    local include=()
    if [[ $2 == *.cu ]]; then include=(-include tests/emulator/device.h); fi
    # shellcheck disable=SC2086
    "$1" $flags "${include[@]}" -x c++ -c "$2" -o "$3.part" && mv "$3.part" "$3"
}
export -f compile

mapfile -t driver < <(ls src/cuda/kernels/*.cu tests/emulator/*.cpp | grep -v /cublaslt)
mapfile -t blas < <(compgen -G 'tests/emulator/cublaslt*.cpp' || true)
mapfile -t driver_objects < <(objects "${driver[@]}")
mapfile -t blas_objects < <(objects "${blas[@]}")
made=$(printf '%s\n' "${driver_objects[@]}" "${blas_objects[@]}")
if [[ -e $out/libcuda.so.1 && $(cat "$out/made" 2>/dev/null) == "$made" ]]; then
    exit 0
fi

paste -d '\n' <(printf '%s\n' "${driver[@]}" "${blas[@]}") <(echo "$made") |
    while read -r source && read -r object; do
        [[ -z $source || -e $object ]] || printf '%s\0' "$source" "$object"
    done | xargs -0 -r -n 2 -P "$(nproc)" bash -c 'compile "$0" "$@"' "$cxx"

# Never unloaded: programs look whether there is a driver by loading it and closing it again.
"$cxx" "${shared[@]}" -Wl,-soname,libcuda.so -Wl,-z,nodelete -o "$out/libcuda.so.part" \
    "${driver_objects[@]}" -lpthread -ldl
mv "$out/libcuda.so.part" "$out/libcuda.so.1"
ln -sf libcuda.so.1 "$out/libcuda.so"
if [[ ${#blas[@]} -gt 0 ]]; then
    "$cxx" "${shared[@]}" -Wl,-soname,libcublasLt.so -Wl,-rpath,"\$ORIGIN:\$ORIGIN/.." -o "$out/libcublasLt.so.part" \
        "${blas_objects[@]}" "$out/libcuda.so.1" -lpthread -ldl
    mv "$out/libcublasLt.so.part" "$out/libcublasLt.so.12"
    mkdir -p "$out/blas"
    ln -sf ../libcublasLt.so.12 "$out/blas/libcublasLt.so"
fi
find "$out/objects" -type f | { grep -vxF "$made" || true; } | xargs -r rm
echo "$made" >"$out/made"
