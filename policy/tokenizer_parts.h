// SPDX-License-Identifier: Apache-2.0
// What an open tokenizer is made of, shared by the sources of the tokenizer and seen by nothing
// else.
#ifndef POLICY_TOKENIZER_PARTS_H
#define POLICY_TOKENIZER_PARTS_H

#include "policy/tokenizer.h"
#include "policy/tokenizer_bpe.h"
#include "policy/tokenizer_regex.h"

struct added_token {
    char *content;
    char *match; // what is looked for: the content, normalized if the token is
    size_t match_len;
    int id, order; // order: special ones first, then as in the file; decides between equal matches
    bool special, normalized, lstrip, rstrip, single_word;
};

struct added_set {
    struct added_token *tokens; // (count), sorted by match, then order
    int count;
    int first[257]; // those whose match begins with byte c are [first[c], first[c + 1])
};

// One step of the pre-tokenizer: isolates the matches of a regex in every piece, or puts a blank
// before pieces without one.
struct split_stage {
    struct token_regex *regex; // NULL: the blank
};

enum { STAGES_MAX = 16 };

// The files a tokenizer is made of, in the order of tokenizer_file_names.
enum { FILE_TOKENIZER, FILE_CONFIG, FILE_TEMPLATE, FILE_COUNT };

struct tokenizer {
    struct bpe bpe;
    struct added_set raw, normalized; // looked for before and after the normalizer
    bool nfc;
    struct split_stage stages[STAGES_MAX];
    int stage_count;
    struct token_list before, after; // added around a text by the post-processor
    int bos, eos, pad;               // -1: none
    struct strbuf files[FILE_COUNT]; // their text; data NULL: absent
    char *names[FILE_COUNT];         // what errors call them
};

// Fills a zeroed tokenizer from the text of a tokenizer.json; on failure what was filled is still
// to be freed.
int tokenizer_load(struct tokenizer *t, const char *text, size_t len, const char *name);

// Appends the bytes that a token's spelling stands for: those of the byte-level alphabet if every
// character is in it (true), else the spelling itself (false).
bool tokenizer_spelled_bytes(struct strbuf *out, const char *spelling);

// Appends s in Unicode's normalization form C. s is UTF-8 of at most 256 MiB.
void tokenizer_normalize(struct strbuf *out, const char *s, size_t len);

#endif
