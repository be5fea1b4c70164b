#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds onednn.cpp against the libraries of a build directory and oneDNN (Debian: libdnnl-dev) and runs it with one
# thread and with two. Not part of the tests: it is a measurement, to be read beside its machine.
#
# usage: tests/peers/onednn.sh [BUILD_DIR]
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$root/build}
ninja -C "$build" tests/kernelcheck >/dev/null # which needs all of them
program=$(mktemp)
trap 'rm -f "$program"' EXIT
variants=$(ls "$build"/kernels/libkernels_avx*.a "$build"/kernels/libkernels_amx.a)
# shellcheck disable=SC2086
c++ -std=c++17 -O2 -Wall -Wextra -fopenmp -I"$root" "$root/tests/peers/onednn.cpp" -o "$program" \
    -Wl,--start-group "$build/kernels/libkernels.a" $variants "$build/base/libbase.a" -Wl,--end-group \
    -ldnnl -lcjson -lzstd -lz -lxxhash -lm -lpthread
# oneDNN's threads poll that often before they sleep: long enough between its calls, and over when ours come.
for threads in 1 2; do
    GOMP_SPINCOUNT=20000 "$program" $threads
done
