// SPDX-License-Identifier: Apache-2.0
#include "sandbox/language.h"

#include "sandbox/wire.h"

#include <string.h>

const struct language languages[SANDBOX_LANGUAGES] = {
    [SANDBOX_PYTHON] = {WIRE_PYTHON, false},
    [SANDBOX_C] = {WIRE_C, true},
};

const char *sandbox_language_name(enum sandbox_language l) { return languages[l].name; }

bool sandbox_language_find(enum sandbox_language *out, const char *name)
{
    for (int i = 0; i < SANDBOX_LANGUAGES; i++) {
        if (strcmp(name, languages[i].name) == 0) {
            *out = (enum sandbox_language)i;
            return true;
        }
    }
    return false;
}

const char *sandbox_tier_name(enum sandbox_tier t)
{
    return t == SANDBOX_JAIL ? WIRE_JAIL : WIRE_CAGE;
}

bool sandbox_tier_find(enum sandbox_tier *out, const char *name)
{
    const bool jail = strcmp(name, WIRE_JAIL) == 0;
    if (!jail && strcmp(name, WIRE_CAGE) != 0)
        return false;
    *out = jail ? SANDBOX_JAIL : SANDBOX_CAGE;
    return true;
}
