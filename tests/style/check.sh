#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The rules of the tree that a script can hold, one test each (TAP). usage: check.sh ROOT CC [LIBRARY]...
set -uo pipefail
cd "$1" || exit 1
cc=$2
libraries=("${@:3}")
export LC_ALL=C.UTF-8

files() { # tracked files that still exist; without git, all that were not built
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files --cached -- "$@" | while read -r f; do [ -f "$f" ] && echo "$f"; done
    else
        local p
        for p in "$@"; do find . -path ./build\* -prune -o -type f -name "$p" -print; done | sed 's|^\./||'
    fi
}

code() { files '*.c' '*.h' '*.cu' '*.cuh' '*.cpp'; }

number=0 failed=0
# A property holds when its check prints nothing.
check() {
    local name=$1 faults
    number=$((number + 1))
    faults=$("${@:2}" 2>&1)
    if [ -z "$faults" ]; then
        echo "ok $number - $name"
    else
        echo "not ok $number - $name"
        head -40 <<<"$faults" | sed 's/^/# /'
        failed=1
    fi
}

skip() {
    number=$((number + 1))
    echo "ok $number - $1 # SKIP $2"
}

# The arrows of the architecture: the folders that a folder may include from, itself included.
allowed() {
    case $1 in
    base) echo base ;;
    kernels) echo base kernels ;;
    policy) echo base kernels policy ;;
    rollout) echo base kernels policy rollout ;;
    sandbox) echo base sandbox ;;
    reward) echo base kernels policy sandbox reward ;;
    configs) echo configs ;;
    rl) echo base kernels policy rollout sandbox reward configs rl ;;
    tests) echo base kernels policy rollout sandbox reward configs rl tests ;;
    esac
}

bad_includes() {
    local file from to
    code | xargs grep -nH '^ *# *include *"' | while IFS= read -r line; do
        file=${line%%:*}
        from=${file%%/*}
        to=$(sed 's/.*include *"\([^"]*\)".*/\1/' <<<"$line")
        case " $(allowed "$from") " in
        *" ${to%%/*} "*) ;;
        *) echo "$line" ;;
        esac
        # Some files are written by the build.
        [ -f "$to" ] || [ -f "$to.in" ] || [ -f "${to%.inc}.py" ] || echo "$line: no such file from the root"
    done
}

planted_include_is_found() {
    local found
    found=$(code() { echo base/planted.h; }; xargs() { echo 'base/planted.h:1:#include "rl/config.h"'; }; bad_includes)
    [ -n "$found" ] || echo "an include of rl from base went by"
}

without_licence() {
    local f
    { code; files '*.in' '*.py' '*.sh' gradus .ci/run; } | while read -r f; do
        head -2 "$f" | grep -q 'SPDX-License-Identifier: Apache-2.0' || echo "$f"
    done
}

headers_that_need_others() {
    local f isa
    files '*.h' | grep -v '^tests/cuda_emul/' | while read -r f; do
        isa=
        case $f in kernels/cpu/fast*.h | kernels/cpu/vec*.h) isa='-mavx2 -mfma' ;; esac
        $cc $isa -std=gnu17 -D_GNU_SOURCE -I. $(pkg-config --cflags python3-embed 2>/dev/null) -Wall -Wextra -Werror \
            -DTEST_DATA='""' -DTEST_GOLDEN='""' -Wno-unused -fsyntax-only -x c "$f" 2>&1 | head -3
    done
    # Those of CUDA with the emulation's in place of NVIDIA's; what has a twin there is for nvcc alone.
    { files '*.cuh'; files 'tests/cuda_emul/*.h'; } | while read -r f; do
        [ ! -f "tests/cuda_emul/$f" ] || continue
        $cc -std=gnu++17 -Itests/cuda_emul -I. -Wall -Wextra -Werror -Wno-unused -Wno-unknown-pragmas \
            -fsyntax-only -x c++ "$f" 2>&1 | grep -v 'pragma once' | head -3
    done
}

wrong_guards() {
    local f guard
    files '*.h' '*.cuh' | grep -v ^tests/ | while read -r f; do
        guard=$(tr 'a-z/.' 'A-Z__' <<<"$f")
        grep -q "^#ifndef $guard\$" "$f" || echo "$f: the guard is not $guard"
    done
}

long_lines() {
    { code; files '*.py' '*.sh' 'meson.build' '*/meson.build' gradus; } |
        xargs awk 'length > 120 { print FILENAME ":" FNR ": " length " columns" }'
}

long_files() { code | xargs wc -l | awk '$2 != "total" && $1 > 700 { print $2 ": " $1 " lines" }'; }

long_functions() {
    code | xargs awk '
        FNR == 1 { start = 0 }
        /^\{/ { if (before !~ /^namespace/) start = FNR }
        /^\}/ { if (start && FNR - start > 100) print FILENAME ":" start ": " FNR - start " lines"; start = 0 }
        { before = $0 }'
}

# configs/config.h is the table that rl/config.h makes structs of; the emulation of a GPU has twins of headers.
names_used_twice() { code | grep -vE '^(configs/config.h$|tests/cuda_emul/kernels/)' | sed 's|.*/||' | sort | uniq -d; }

machine_paths() {
    { code; files '*.py' '*.sh' '*.md' '*.json' '*.build' gradus; } | grep -v '^tests/style/' |
        xargs grep -nHE '(^|[^a-z])/(work|root|home)/' | cut -c1-160
}

unfinished() { code | xargs grep -nHwE 'TODO|FIXME|XXX' | cut -c1-160; }

# Variables that can be written, as the compiled libraries list them. The exceptions: the message of an error, the state
# of the log, and what a signal handler sets.
state() {
    local lib
    for lib in "${libraries[@]}"; do
        objdump -t "$lib" | awk -v lib="${lib##*/}" '
            /file format/ { object = $1 }
            $0 ~ / O / && $0 ~ /[ \t]\.(data|bss|tdata|tbss|data\.[^r][^ \t]*)[ \t]/ { print lib ": " object " " $NF }'
    done | grep -vE 'error\.c\.o|log\.c\.o|train\.c\.o: stop_signal'
}

unformatted() {
    code | xargs clang-format --dry-run --Werror 2>&1 | grep -oE '^[^ ]+: error' | cut -d: -f1 | sort | uniq -c
}

echo 1..13
check 'folders include only what the architecture allows' bad_includes
check 'an include against the arrows would be found' planted_include_is_found
check 'every source begins with its licence' without_licence
check 'every header compiles alone' headers_that_need_others
check 'guards are named after their files' wrong_guards
check 'lines have at most 120 columns' long_lines
check 'files have at most 700 lines' long_files
check 'functions have at most 100 lines' long_functions
check 'names of files are unique' names_used_twice
check 'no path of one machine is in the tree' machine_paths
check 'nothing is marked as unfinished' unfinished
if [ ${#libraries[@]} -gt 0 ]; then
    check 'no variable outlives a function' state
else
    skip 'no variable outlives a function' 'sanitizers add their own'
fi
# Versions of clang-format differ in what they make of the same code.
if clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
    check 'the code is formatted' unformatted
else
    skip 'the code is formatted' 'there is no clang-format 14'
fi
exit $failed
