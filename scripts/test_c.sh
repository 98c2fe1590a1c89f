#!/usr/bin/env bash
# Everything about the installed C library that cargo does not test: headers, the C tests, also under sanitizers and valgrind, the
# examples in C, C++, Python and Rust, what is exported, and the size. Builds and installs it first. $1: a folder for all of it.
#
# Needs gcc, and clang, cmake, valgrind and pkg-config where they are there; what is missing is said.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/c}
mkdir -p "$out"
out=$(cd "$out" && pwd)
prefix=$out/prefix checked=$out/checked
model=tests/golden/timm_gap
has() { command -v "$1" >/dev/null || { echo "SKIPPED: no $1"; return 1; }; }
# Runs what must write nothing to stderr.
silent() {
    "$@" 2>"$out/stderr" || { cat "$out/stderr" >&2; return 1; }
    [[ ! -s $out/stderr ]] || { echo "$1 writes to stderr:"; cat "$out/stderr"; return 1; } >&2
}

# As it ships, and with the panics that tests inject.
export FORETUNE_PROFILE=tests
rm -rf "$prefix" "$checked"
scripts/install_c.sh "$prefix"
scripts/install_c.sh "$checked" --features fault-injection --library-type cdylib
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig

echo '--- headers alone, in every compiler'
for compiler in gcc clang; do
    has "$compiler" || continue
    for source in ffi/tests/c/layout.c; do
        "$compiler" -std=c11 -Wall -Wextra -Wpedantic -Werror -I"$prefix/include" -fsyntax-only "$source"
        "$compiler" -x c++ -std=c++17 -D_Static_assert=static_assert -Wall -Wextra -Wpedantic -Werror -I"$prefix/include" -fsyntax-only "$source"
    done
    echo '#include <foretune.hpp>' | "$compiler" -x c++ -std=c++17 -Wall -Wextra -Wpedantic -Werror -I"$prefix/include" -fsyntax-only -
done

echo '--- what is exported'
library=$prefix/lib/libforetune.so
exported=$(nm -D --defined-only "$library" | awk '{print $3}' | grep -v '^foretune_' || true)
[[ -z $exported ]] || { echo "exported besides foretune_*: $exported"; exit 1; }
declared=$(grep -o '\bforetune_[a-z_]*(' "$prefix/include/foretune.h" | tr -d '(' | sort -u)
missing=$(comm -13 <(nm -D --defined-only "$library" | awk '{print $3}' | sort) <(echo "$declared"))
[[ -z $missing ]] || { echo "declared and not exported: $missing"; exit 1; }
readelf -d "$library" | grep -q NODELETE
strip -o "$out/stripped.so" "$library"
size=$(stat -c %s "$out/stripped.so")
echo "stripped: $size bytes"
[[ $size -le 6291456 ]]

echo '--- C tests'
flags=(-std=c11 -D_POSIX_C_SOURCE=200809L -g -O1 -Wall -Wextra -Wpedantic -Werror -DFAULT_INJECTION -I"$checked/include")
# Valgrind takes minutes to read the library's own line tables.
strip "$checked/lib/libforetune.so"
link=(-L"$checked/lib" -lforetune "-Wl,-rpath,$checked/lib" -lm -lpthread -ldl)
for test in session threads dataset cuda onnx; do
    gcc "${flags[@]}" "ffi/tests/c/$test.c" -o "$out/$test" "${link[@]}"
    gcc "${flags[@]}" -fsanitize=address,undefined -fno-sanitize-recover=all "ffi/tests/c/$test.c" -o "$out/$test.asan" "${link[@]}"
done
gcc -std=c11 -Wall -Wextra -Werror -I"$prefix/include" ffi/tests/c/reload.c -o "$out/reload" -ldl
mkdir -p "$out/scratch"
"$out/session" "$model" "$out/scratch"
"$out/threads" "$model"
SLOW=1 "$out/session.asan" "$model" "$out/scratch"
SLOW=1 "$out/threads.asan" "$model"
"$out/reload" "$library" "$model"
silent "$out/onnx" "$model" "$out/scratch" >"$out/onnx.log" || { cat "$out/onnx.log"; exit 1; }
cat "$out/onnx.log"
ort=$(grep -q '^SKIPPED' "$out/onnx.log" || echo ort)
SLOW=1 silent "$out/onnx.asan" "$model" "$out/scratch"
# Also where it is unloaded before the process ends.
[[ -z $ort ]] || silent "$out/reload" "$library" "$model" ort
bash tests/emulator/build.sh target/emulator
# The emulator keeps its contexts for good.
EMULATED=1 ASAN_OPTIONS=detect_leaks=0 LD_LIBRARY_PATH=target/emulator "$out/cuda.asan" "$model"
if has valgrind; then
    # AVX-512 is unknown to it. Threads of pools that are still ending hold their stacks: possibly lost.
    check=(valgrind -q --fair-sched=yes --leak-check=full --show-possibly-lost=no --errors-for-leak-kinds=definite --error-exitcode=9
        --suppressions=ffi/tests/c/valgrind.supp)
    # Each runs on one core.
    running=()
    for test in session threads onnx; do
        scratch=("$out/$test.scratch")
        mkdir -p "${scratch[@]}"
        [[ $test != threads ]] || scratch=()
        FORETUNE_ISA=avx2 SLOW=1 "${check[@]}" "$out/$test" "$model" "${scratch[@]}" &
        running+=($!)
    done
    for pid in "${running[@]}"; do wait "$pid"; done
fi

echo '--- the same adapter from C, C++, Python and Rust'
cc -Wall -Wextra -Werror examples/c/tune.c $(pkg-config --cflags --libs foretune) "-Wl,-rpath,$prefix/lib" -lpthread -o "$out/tune"
"$out/tune" models/demo "$out/c.safetensors"
if has cmake; then
    for static in OFF ON; do
        cmake -S examples/cpp -B "$out/cpp-$static" -DCMAKE_PREFIX_PATH="$prefix" -DFORETUNE_USE_STATIC=$static -DCMAKE_BUILD_TYPE=Release >/dev/null
        cmake --build "$out/cpp-$static" >/dev/null
        "$out/cpp-$static/main" models/demo "$out/cpp-$static.safetensors"
        cmp "$out/c.safetensors" "$out/cpp-$static.safetensors"
    done
fi
FORETUNE_LIB=$library python3 examples/python/tune.py models/demo "$out/python.safetensors"
cmp "$out/c.safetensors" "$out/python.safetensors"
# Of the workspace, as the tests' build leaves them: a package built alone has other features of its dependencies.
cargo build --locked --profile tests --workspace --bin foretune --example rust
built=${CARGO_TARGET_DIR:-target}/tests
"$built/examples/rust" models/demo "$out/rust.safetensors" >/dev/null
cmp "$out/c.safetensors" "$out/rust.safetensors"

echo '--- the same adapter from the shell and from C, also where the run was stopped and resumed'
run() { "$built/foretune" "$@"; }
rm -rf "$out/demo"
run demo --out "$out/demo" --quiet >/dev/null
run tune --model models/demo --data "$out/demo/shifted" --format cub --out "$out/cli.safetensors" --steps 6 --batch 8 --insert-at 2 \
    --seed 3 --eval-every 4 --no-eval --quiet
"$out/dataset.asan" models/demo "$out/demo/shifted" "$out/dataset.safetensors"
cmp "$out/cli.safetensors" "$out/dataset.safetensors"
if [[ -n $ort ]]; then
    run tune --model models/demo --data "$out/demo/shifted" --format cub --out "$out/cli-ort.safetensors" --steps 6 --batch 8 --insert-at 2 \
        --seed 3 --eval-every 4 --no-eval --quiet --engine ort
    ENGINE=ort silent "$out/dataset.asan" models/demo "$out/demo/shifted" "$out/dataset-ort.safetensors"
    cmp "$out/cli-ort.safetensors" "$out/dataset-ort.safetensors"
fi
rm -f "$out/stopped.ckpt"
"$out/dataset" models/demo "$out/demo/shifted" "$out/resumed.safetensors" 3 "$out/stopped.ckpt"
cmp "$out/cli.safetensors" "$out/resumed.safetensors"

echo '--- the same export from the shell, C++ and Python'
run export --model models/demo --adapter "$out/c.safetensors" --with-preprocessing --out "$out/cli.onnx" --quiet
c++ -std=c++17 -Wall -Wextra -Wpedantic -Werror ffi/tests/c/onnx.cpp $(pkg-config --cflags --libs foretune) "-Wl,-rpath,$prefix/lib" -o "$out/onnx-cpp"
silent "$out/onnx-cpp" models/demo "$out/c.safetensors" "$out/cpp.onnx" $ort
cmp "$out/cli.onnx" "$out/cpp.onnx"
FORETUNE_LIB=$library PYTHONPATH=examples/python PYTHONDONTWRITEBYTECODE=1 python3 - "$out" $ort <<'PYTHON'
import sys
import foretune
folder, engine = sys.argv[1], (sys.argv[2:] or [None])[0]
with foretune.Model("models/demo") as model:
    foretune.export_onnx(model, folder + "/c.safetensors", folder + "/python.onnx", with_preprocessing=1)
    try:
        foretune.Session(model, foretune.session_options(engine="ort:none"))
    except foretune.Error as error:
        assert "no execution provider" in str(error), error
    if engine:
        with foretune.Session(model, foretune.session_options(engine=engine, ort_lib=foretune.onnx_runtime()["path"])):
            pass
PYTHON
cmp "$out/cli.onnx" "$out/python.onnx"

cc -Wall -Wextra -Werror examples/c/first.c $(pkg-config --cflags --libs foretune) "-Wl,-rpath,$prefix/lib" -o "$out/first"
"$out/first" /nowhere 2>&1 | grep -q usage

echo 'C library: all passed'
