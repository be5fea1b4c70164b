// SPDX-License-Identifier: Apache-2.0
// The tokens of a chat template. Jinja's white space rules (trim_blocks and lstrip_blocks are on,
// as in transformers; the signs - and + at the ends of tags) are applied here, so what follows sees
// the text as it is printed. Internal to the chat template.
#ifndef POLICY_JINJA_LEX_H
#define POLICY_JINJA_LEX_H

#include "base/mem.h"
#include "policy/jinja_text.h"

enum jinja_token_kind {
    JINJA_TOKEN_TEXT, // outside of tags
    JINJA_TOKEN_PRINT_BEGIN,
    JINJA_TOKEN_PRINT_END,
    JINJA_TOKEN_TAG_BEGIN,
    JINJA_TOKEN_TAG_END,
    JINJA_TOKEN_NAME,
    JINJA_TOKEN_STRING, // its text is what the literal means
    JINJA_TOKEN_INTEGER,
    JINJA_TOKEN_FLOAT,
    JINJA_TOKEN_OPERATOR,
    JINJA_TOKEN_END
};

struct jinja_token {
    enum jinja_token_kind kind;
    int line;
    struct span text;
    union {
        int64_t integer;
        double real;
    };
};

struct jinja_tokens {
    struct jinja_token *items; // [count], the last is JINJA_TOKEN_END; free()
    size_t count, cap;
};

// `name` is the template's in errors (ERR_MODEL, "NAME:LINE: what"). The tokens' texts live in the
// arena. On failure *out is untouched.
int jinja_lex(struct jinja_tokens *out, struct arena *a, const char *source, size_t len,
              const char *name);

#endif
