// SPDX-License-Identifier: Apache-2.0
// The regular expressions of pre-tokenizers. They are written for Oniguruma (Ruby syntax, UTF-8);
// here they are rewritten into what means the same to PCRE2, and refused where that is not certain.
// A compiled expression is immutable; a matcher belongs to one thread.
#ifndef POLICY_TOKENIZER_REGEX_H
#define POLICY_TOKENIZER_REGEX_H

#include "base/str.h"
#include <stdbool.h>
#include <stddef.h>

struct token_regex;

// `where` is the file and the path of the section, for errors (ERR_MODEL).
int token_regex_open(struct token_regex **out, const char *pattern, const char *where);
void token_regex_free(struct token_regex **r);

// Appends the PCRE2 form of an Oniguruma expression; errors as above.
int token_regex_translate(struct strbuf *out, const char *pattern, const char *where);

struct token_matcher;
// For texts of up to len bytes in total: the step limit of each search grows with it.
struct token_matcher *token_matcher_new(size_t len);
void token_matcher_free(struct token_matcher **m);

// A walk over the matches in one text, as Oniguruma's find_iter does it: left to right, without
// overlap, and no empty match right behind a match. Zero all but text and len to start.
struct token_scan {
    const char *text; // UTF-8
    size_t len;
    size_t at;  // where the next search starts
    bool after; // `last` is the end of a match
    size_t last;
};
// 1: the match is [*start, *end); 0: there is none; ERR_DATA: the step limit was reached.
int token_regex_next(size_t *start, size_t *end, struct token_scan *scan,
                     const struct token_regex *r, struct token_matcher *m);

#endif
