// SPDX-License-Identifier: Apache-2.0
// What a program printed against what it should have. Pure; the bytes may be anything.
#ifndef SANDBOX_COMPARE_H
#define SANDBOX_COMPARE_H

#include <stdbool.h>
#include <stddef.h>

// White space is blank, tab, carriage return, vertical tab, form feed and newline.
enum compare_mode {
    COMPARE_LINES,  // equal but for white space at the ends of lines and empty lines at the end
    COMPARE_EXACT,  // every byte
    COMPARE_WORDS,  // the same words: any white space between them is as good as any other
    COMPARE_NUMBERS // the same words, where two decimal numbers are the same when they differ by at
                    // most tolerance * max(1, |expected|)
};
bool compare_mode_find(enum compare_mode *out, const char *name); // "lines", "exact", ...

bool compare_output(enum compare_mode mode, double tolerance, const char *got, size_t got_len,
                    const char *want, size_t want_len);

#endif
