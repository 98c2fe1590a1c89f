#!/usr/bin/env bash
# Builds the GPU emulator into the folder $1, as libcuda.so, if its sources have changed. Exit code 77: no C++ compiler.
set -euo pipefail
out=$1
cd "$(dirname "$0")/../.."
cxx=${CXX:-c++}
if ! command -v "$cxx" >/dev/null; then
    echo "the GPU emulator needs a C++ compiler: $cxx is not there" >&2
    exit 77
fi
mkdir -p "$out"
exec 9>"$out/lock"
flock 9
sources=(src/cuda/kernels/*.cu tests/emulator/*.cpp)
hash=$(cat "${sources[@]}" src/cuda/kernels/*.cuh tests/emulator/*.h tests/emulator/build.sh | sha256sum)
if [ -e "$out/libcuda.so" ] && [ "$(cat "$out/hash" 2>/dev/null)" = "$hash" ]; then
    exit 0
fi
work=$(mktemp -d "$out/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
flags=(-O3 -std=c++17 -fPIC -ffp-contract=off -Wall -Wextra -Werror -Wno-unknown-pragmas -Isrc/cuda/kernels -include tests/emulator/device.h)
printf '%s\0' "${sources[@]}" | xargs -0 -P "$(nproc)" -I{} bash -c \
    '"$0" "${@:2}" -x c++ -c "$1" -o "'"$work"'/$(basename "$1").o"' "$cxx" {} "${flags[@]}"
objects=$(find "$work" -name '*.o' ! -name 'cublaslt.cpp.o')
# shellcheck disable=SC2086
"$cxx" -shared -Wl,-soname,libcuda.so -o "$work/libcuda.so" $objects -lpthread -ldl
mv "$work/libcuda.so" "$out/libcuda.so"
if [ -e "$work/cublaslt.cpp.o" ]; then
    "$cxx" -shared -Wl,-soname,libcublasLt.so -o "$work/libcublasLt.so" "$work/cublaslt.cpp.o"
    mkdir -p "$out/blas"
    mv "$work/libcublasLt.so" "$out/blas/libcublasLt.so"
fi
echo "$hash" >"$out/hash"
