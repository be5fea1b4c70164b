#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs a test program of cmocka, whose TAP reports what is skipped as failed ("not ok N # SKIP name"), and passes its
# output on with that put right; the comment before it is the reason. The exit code is the program's.
set -o pipefail
"$@" | awk '
    /^not ok [0-9]+ # SKIP/ {
        name = $0
        sub(/^not ok [0-9]+ # SKIP */, "", name)
        print "ok " $3 " - " name " # SKIP " reason
        next
    }
    /^# / { reason = substr($0, 3) }
    { print; fflush() }'
