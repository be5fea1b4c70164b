#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs a test that speaks TAP with the first GPU as the only device of test programs; without a GPU it is skipped.
# usage: on_gpu.sh KERNELCHECK NAME COMMAND...
set -uo pipefail
skip=$("$1" --device cuda --slot add | sed -n 's/.*# SKIP //p')
if [ -n "$skip" ]; then
    echo 1..1
    echo "ok 1 - $2 # SKIP $skip"
    exit 0
fi
TEST_DEVICES=cuda CMOCKA_MESSAGE_OUTPUT=TAP exec "${@:3}"
