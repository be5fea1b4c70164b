// SPDX-License-Identifier: Apache-2.0
// Finds strings in a text that comes in pieces, also across their borders: by each string's longest
// beginning that the text so far ends with (Knuth, Morris and Pratt, SIAM J. Comput. 6, 1977).
#ifndef ROLLOUT_STOP_STRINGS_H
#define ROLLOUT_STOP_STRINGS_H

#include "base/mem.h"
#include <stddef.h>

struct stop_strings {
    int count;
    const char *const *strings; // [count], none of them empty; borrowed
    int **fallback; // [count], [length]: of its first i + 1 bytes, the longest end that is also a
                    // beginning
};

void stop_strings_init(struct stop_strings *s, const char *const *strings, int count,
                       struct arena *a);
// Goes on with the next bytes of a text; matched [count] starts as zeros and is the text's. Returns
// the string that ends first in them, -1 when none does; nothing may follow that.
int stop_strings_push(const struct stop_strings *s, int *matched, const char *bytes, size_t len);

#endif
