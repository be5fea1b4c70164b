#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every kernel under a tool of compute-sanitizer, on the first GPU; one line of TAP. The tool's findings are shown.
# usage: gpu_sanitize.sh COMPUTE_SANITIZER TOOL KERNELCHECK
set -uo pipefail
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
echo 1..1
skip=$("$3" --device cuda --slot add | sed -n 's/.*# SKIP //p')
if [ -n "$skip" ] || ! command -v "$1" >/dev/null; then
    echo "ok 1 - $2 # SKIP ${skip:-there is no compute-sanitizer}"
elif "$1" --tool "$2" --error-exitcode 1 --log-file "$log/tool" "$3" --device cuda >"$log/output"; then
    echo "ok 1 - $2"
else
    echo "not ok 1 - $2"
    { head -80 "$log/tool"; grep -A1 '^not ok' "$log/output"; } | sed 's/^/# /'
    exit 1
fi
