// SPDX-License-Identifier: Apache-2.0
#include "rollout/stop_strings.h"

#include <assert.h>
#include <string.h>

// Bytes of the string that match when `matched` did and then comes c.
static int step(const char *string, const int *fallback, int matched, char c)
{
    while (matched > 0 && string[matched] != c)
        matched = fallback[matched - 1];
    return matched + (string[matched] == c);
}

void stop_strings_init(struct stop_strings *s, const char *const *strings, int count,
                       struct arena *a)
{
    *s = (struct stop_strings){.count = count, .strings = strings};
    s->fallback = ARENA_ARRAY(a, int *, count);
    for (int k = 0; k < count; k++) {
        const char *string = strings[k];
        const size_t len = strlen(string);
        assert(len > 0);
        int *fallback = s->fallback[k] = ARENA_ARRAY(a, int, len);
        for (size_t i = 1; i < len; i++)
            fallback[i] = step(string, fallback, fallback[i - 1], string[i]);
    }
}

int stop_strings_push(const struct stop_strings *s, int *matched, const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        for (int k = 0; k < s->count; k++) {
            matched[k] = step(s->strings[k], s->fallback[k], matched[k], bytes[i]);
            if (s->strings[k][matched[k]] == '\0')
                return k;
        }
    }
    return -1;
}
