// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static _Thread_local char message[4096];

int err_set(int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    // The message may quote the previous one, so it is formed aside.
    char text[sizeof message];
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    __builtin_memcpy(message, text, sizeof message);
    return code;
}

const char *err_message(void) { return message; }

void die_out_of_memory(unsigned long bytes)
{
    dprintf(STDERR_FILENO, "gradus: out of memory: %lu bytes could not be allocated\n", bytes);
    _exit(-ERR_ENV);
}
