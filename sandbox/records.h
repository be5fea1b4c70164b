// SPDX-License-Identifier: Apache-2.0
// Reads what a program's process wrote into its record pipe (wire.h): bytes of which nothing may be
// assumed.
#ifndef SANDBOX_RECORDS_H
#define SANDBOX_RECORDS_H

#include "sandbox/wire.h"
#include <stddef.h>

struct record {
    enum wire_record_kind kind;
    enum wire_cause cause;
    uint32_t call;
    const uint8_t *data; // into the stream
    size_t len;
};

// The record at *at, which moves past it. 1: there is one; 0: the end; -1: no record, and nothing
// after it can be read.
int records_next(struct record *out, size_t *at, const uint8_t *stream, size_t len);

#endif
