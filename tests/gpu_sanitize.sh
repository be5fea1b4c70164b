#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every kernel under a tool of compute-sanitizer, on the first GPU, in TAP: a line for each slot of the table, so that a
# slow one takes no time from the others. One that is not through after LIMIT seconds counts as skipped when nothing was
# found until then. The tool's findings are shown.
# usage: gpu_sanitize.sh COMPUTE_SANITIZER TOOL LIMIT KERNELCHECK
set -uo pipefail
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
skip=$("$4" --device cuda --slot add | sed -n 's/.*# SKIP //p')
if [ -n "$skip" ] || ! command -v "$1" >/dev/null; then
    echo 1..1
    echo "ok 1 - $2 # SKIP ${skip:-there is no compute-sanitizer}"
    exit 0
fi
mapfile -t slots < <("$4" --list)
echo "1..${#slots[@]}"
number=0 failed=0
for slot in "${slots[@]}"; do
    number=$((number + 1))
    timeout -k 5 "$3" "$1" --tool "$2" --error-exitcode 1 --log-file "$log/tool" "$4" --device cuda --slot "$slot" \
        >"$log/output"
    code=$?
    if [ $code -eq 0 ]; then
        echo "ok $number - $2 of $slot"
    elif [ $code -ge 124 ] && ! grep -qE 'Error: |Invalid |Barrier error|hazard' "$log/tool"; then
        echo "ok $number - $2 of $slot # SKIP nothing was found in $3 s, and it was not through"
    else
        echo "not ok $number - $2 of $slot"
        { head -80 "$log/tool"; grep -A1 '^not ok' "$log/output"; } | sed 's/^/# /'
        failed=1
    fi
done
exit $failed
