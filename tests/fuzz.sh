#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Searches for inputs that break a fuzz target: clang's libFuzzer under address and undefined-behaviour sanitizers, from
# the kept seeds. What it finds is in build-fuzz/found/TARGET; inputs worth keeping go to tests/seeds/TARGET.
# usage: tests/fuzz.sh SECONDS TARGET [LIBFUZZER_OPTION]...
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -lt 2 ] || [ ! -d "tests/seeds/$2" ]; then
    echo "usage: $0 SECONDS TARGET [LIBFUZZER_OPTION]...; targets: $(ls tests/seeds | xargs)" >&2
    exit 2
fi
[ -f build-fuzz/build.ninja ] || CC=clang CXX=clang++ meson setup build-fuzz -Dfuzz=true -Dcuda=disabled \
    -Db_sanitize=address,undefined -Db_lundef=false >/dev/null
ninja -C build-fuzz "tests/fuzz_$2" >/dev/null
mkdir -p "build-fuzz/corpus/$2" "build-fuzz/found/$2"
UBSAN_OPTIONS=halt_on_error=1 exec "build-fuzz/tests/fuzz_$2" -max_total_time="$1" -timeout=20 -rss_limit_mb=3000 \
    -print_final_stats=1 -artifact_prefix="build-fuzz/found/$2/" "${@:3}" "build-fuzz/corpus/$2" "tests/seeds/$2"
