#!/usr/bin/env bash
# Builds the C library and installs it into the folder $1: headers, versioned shared library, static library, foretune.pc, and CMake's
# package. More arguments go to cargo, as `--no-default-features` (no CUDA).
#
# cargo-c is installed where it is missing; FORETUNE_PROFILE names another profile than release.
set -euo pipefail
if [[ $# -lt 1 ]]; then
    echo "usage: $0 PREFIX [CARGO ARGUMENTS]" >&2
    exit 2
fi
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
if ! command -v cargo-cinstall >/dev/null; then
    scripts/install_cargo_c.sh
fi
cargo cinstall --locked --manifest-path ffi/Cargo.toml --profile "${FORETUNE_PROFILE:-release}" --prefix "$prefix" --libdir lib \
    --target-dir target/capi "$@"
