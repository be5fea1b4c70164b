// SPDX-License-Identifier: Apache-2.0
// Random characters of all of Unicode, of the kinds that tokenizers treat differently more often.
#ifndef TESTS_RANDOM_TEXT_H
#define TESTS_RANDOM_TEXT_H

#include "base/philox.h"
#include "base/str.h"

static inline void put_random_char(struct strbuf *s, struct philox_stream *random)
{
    static const struct {
        unsigned lo, n;
    } ranges[] = {
        {0, 128},      {' ', 1},        {'0', 10},        {'a', 26},    {0x80, 0x780},
        {0x300, 112},  {0x800, 0xD000}, {0xE000, 0x2000}, {0x4E00, 64}, {0x10000, 0x100000},
        {0x1F600, 64}, {'\n', 1}};
    uint32_t r = philox_below(random, sizeof(ranges) / sizeof(*ranges));
    unsigned c = ranges[r].lo + philox_below(random, ranges[r].n);
    if (c < 0x80)
        strbuf_putc(s, (char)c);
    else if (c < 0x800)
        strbuf_printf(s, "%c%c", 0xC0 | c >> 6, 0x80 | (c & 63));
    else if (c < 0x10000)
        strbuf_printf(s, "%c%c%c", 0xE0 | c >> 12, 0x80 | (c >> 6 & 63), 0x80 | (c & 63));
    else
        strbuf_printf(s, "%c%c%c%c", 0xF0 | c >> 18, 0x80 | (c >> 12 & 63), 0x80 | (c >> 6 & 63),
                      0x80 | (c & 63));
}

#endif
