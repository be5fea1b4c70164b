// SPDX-License-Identifier: Apache-2.0
#include "sandbox/records.h"

#include <string.h>

int records_next(struct record *out, size_t *at, const uint8_t *stream, size_t len)
{
    struct wire_record head;
    if (*at == len)
        return 0;
    if (len - *at < sizeof head)
        return -1;
    memcpy(&head, stream + *at, sizeof head);
    if (head.len > len - *at - sizeof head || memchr("ARXEP", head.kind, 5) == NULL ||
        head.cause > WIRE_CAUSE_EXIT || head.zero != 0)
        return -1;
    out->kind = head.kind;
    out->cause = head.cause;
    out->call = head.call;
    out->data = stream + *at + sizeof head;
    out->len = head.len;
    *at += sizeof head + head.len;
    return 1;
}
