#!/usr/bin/env bash
# Installs the cargo-c that `scripts/install_c.sh` runs. Unoptimised: it builds in a third of the time, and most of its work is rustc's.
set -euo pipefail
exec cargo install cargo-c@0.10.24 --locked --debug --config profile.dev.debug=0
