#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds peer_free_engine in a build directory (oneDNN: Debian's libdnnl-dev) and runs it for a model, a type and
# numbers of sequences, each in a process of its own. Not part of the tests: it is a measurement, to be read beside its
# machine.
#
# usage: tests/peers/free_engine.sh BUILD_DIR tiny|small|medium float32|bfloat16 PAIRS BATCH...
set -eu
build=$1 model=$2 type=$3 pairs=$4
shift 4
ninja -C "$build" tests/peer_free_engine >/dev/null
for batch in "$@"; do
    "$build/tests/peer_free_engine" "$model" "$type" "$batch" "$pairs"
done
