// SPDX-License-Identifier: Apache-2.0
// Reading tokenizer.json, shared by its two readers: tokenizer_load.c and tokenizer_vocab.c. Every
// section is checked for members that are not known, and every error names the file and the path of
// the section.
#ifndef POLICY_TOKENIZER_LOAD_H
#define POLICY_TOKENIZER_LOAD_H

#include "base/json.h"
#include "policy/tokenizer_parts.h"

struct load {
    struct tokenizer *t;
    const struct json_doc *doc;
    const char *name; // of the file
};

// Sets the message and returns ERR_MODEL.
int load_bad(const struct load *l, const char *path, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// v is an object of these members; `keys` has each of them between blanks.
int load_check_object(const struct load *l, const struct json *v, const char *path,
                      const char *keys);
// A flag that may be absent or null; out keeps its value then.
int load_flag(const struct load *l, bool *out, const struct json *v, const char *path,
              const char *key);
const char *load_type(const struct json *v); // the member "type"; "?" when there is none

int load_model(const struct load *l, const struct json *model, const struct json *added);
int load_added_tokens(const struct load *l,
                      const struct json *list); // after the normalizer and the model

#endif
