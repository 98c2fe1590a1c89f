#!/usr/bin/env bash
# onnxruntime_root.sh FOLDER LIBRARY: makes FOLDER what an unpacked release of ONNX Runtime is to a C++ compiler, include/ and lib/, of the
# library within Python's package (LIBRARY, a file or its folder). That has no headers: they come from an npm package, under the MIT licence
# as ONNX Runtime itself, checked against the sum below. Needs npm.
set -euo pipefail
if [[ $# -ne 2 ]]; then
    echo "usage: $0 FOLDER LIBRARY" >&2
    exit 2
fi
package=com.github.asus4.onnxruntime@0.4.8
sum=007a59a954d2161ffb1b3977a649c7945ee37bf30ad493891d4252c02e9536a4
headers='package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework/Headers'

library=$2
[[ ! -d $library ]] || library=$(find "$library" -name 'libonnxruntime.so*' | sort | tail -1)
[[ -f $library ]] || { echo "error: $2: no libonnxruntime.so" >&2; exit 1; }
mkdir -p "$1/lib"
for name in libonnxruntime.so libonnxruntime.so.1; do ln -sf "$(realpath "$library")" "$1/lib/$name"; done
[[ ! -f $1/include/onnxruntime_cxx_api.h ]] || exit 0

command -v npm >/dev/null || { echo 'error: no npm, which fetches the headers' >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
file=$(npm pack --silent --cache "$work/cache" --pack-destination "$work" "$package")
echo "$sum  $work/$file" | sha256sum --check --quiet
mkdir "$work/include"
tar xzf "$work/$file" -C "$work/include" --strip-components=7 "$headers"
mv "$work/include" "$1/include"
