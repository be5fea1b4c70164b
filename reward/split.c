// SPDX-License-Identifier: Apache-2.0
#include "reward/split.h"

#include <string.h>

static bool is_blank(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (strchr(" \t\r\n", s[i]) == NULL || s[i] == '\0')
            return false;
    return true;
}

// The end of the piece that starts at `from`: where its separator starts, or len. *next: past the
// separator.
static size_t piece_end(size_t *next, const char *text, size_t len, size_t from,
                        const char *separator, size_t separator_len)
{
    const char *hit = memmem(text + from, len - from, separator, separator_len);
    const size_t end = hit != NULL ? (size_t)(hit - text) : len;
    *next = hit != NULL ? end + separator_len : len;
    return end;
}

int steps_split(struct reward_step **out, struct arena *a, const char *text, size_t len,
                const char *separator, const int *token_ends, int num_tokens)
{
    if (separator == NULL || separator[0] == '\0')
        separator = "\n";
    const size_t separator_len = strlen(separator);
    int count = 0;
    for (size_t at = 0, next; at < len; at = next)
        count +=
            !is_blank(text + at, piece_end(&next, text, len, at, separator, separator_len) - at);
    *out = count > 0 ? ARENA_ARRAY(a, struct reward_step, count) : NULL;
    int n = 0, token = 0;
    for (size_t at = 0, next; at < len; at = next) {
        const size_t end = piece_end(&next, text, len, at, separator, separator_len);
        if (is_blank(text + at, end - at))
            continue;
        while (token_ends != NULL && token < num_tokens && (size_t)token_ends[token] < next)
            token++;
        (*out)[n++] =
            (struct reward_step){.begin = at,
                                 .end = end,
                                 .token = token_ends != NULL && token < num_tokens ? token : -1};
    }
    return n;
}
