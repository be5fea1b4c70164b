// SPDX-License-Identifier: Apache-2.0
// The tokenizer: Hugging Face's tokenizer.json for byte-level BPE, read as it is and written back
// byte for byte. Encoding and decoding give what the `tokenizers` library gives for the same file;
// a section this module does not know is refused by its path in the file (ERR_MODEL), never
// ignored. The library's truncation and padding sections are batch settings that transformers
// overrides on loading, and do not take part. Thread safety: an open tokenizer is immutable; every
// function that takes it const may be called from several threads.
#ifndef POLICY_TOKENIZER_H
#define POLICY_TOKENIZER_H

#include "base/str.h"
#include <stdbool.h>
#include <stddef.h>

struct tokenizer;

// Token ids that grow by appending. A zeroed struct is an empty list.
struct token_list {
    int *ids;
    int count, cap;
};
void token_list_add(struct token_list *l, int id);
void token_list_free(struct token_list *l); // leaves an empty list

// Opens a tokenizer.json (.gz and .zst are unpacked), or the one in a model directory together with
// the files beside it that belong to it (tokenizer_config.json and the chat template). Errors:
// ERR_MODEL.
int tokenizer_open(struct tokenizer **out, const char *path);
// The same from text in memory, without companions; `name` is what errors say.
int tokenizer_parse(struct tokenizer **out, const char *json, size_t len, const char *name);
void tokenizer_free(struct tokenizer **t);

int tokenizer_vocab_size(const struct tokenizer *t); // largest id + 1

// Appends the ids of text. Added tokens written out in the text become their ids, special ones
// included: text that must not contain them is the caller's to check. add_special: also what the
// post-processor adds around it (BOS and the like). Errors (out untouched): ERR_DATA, text that is
// not UTF-8 or longer than 256 MiB, or a split regex that needs more than its step limit, which
// grows with the text.
int tokenizer_encode(struct token_list *out, const struct tokenizer *t, const char *text,
                     size_t len, bool add_special);

// Appends the text of ids; always valid UTF-8: every ill-formed part (maximal subpart, Unicode 3.9)
// becomes one U+FFFD. An id that has no token gives no text, because models pad their vocabulary.
// Errors (out untouched): ERR_DATA, a negative id.
int tokenizer_decode(struct strbuf *out, const struct tokenizer *t, const int *ids, int count,
                     bool skip_special);

// Decoding as tokens arrive: what the pushes and the flush append is together what tokenizer_decode
// gives, and each append ends between characters. A zeroed struct starts a text; flush ends it (an
// incomplete tail becomes U+FFFD) and zeroes it.
struct tokenizer_stream {
    unsigned char tail[4];    // the bytes so far of an unfinished character
    unsigned char have, need; // how many those are, and how many are to come
    unsigned char lo, hi;     // the range the next byte must be in
};
void tokenizer_stream_push(struct strbuf *out, struct tokenizer_stream *s,
                           const struct tokenizer *t, int id, bool skip_special);
void tokenizer_stream_flush(struct strbuf *out, struct tokenizer_stream *s);

// The bytes of one token as decoding concatenates them (perhaps a part of a character); NULL and 0
// when the id has no token.
const char *tokenizer_token_bytes(const struct tokenizer *t, int id, size_t *len);
bool tokenizer_is_special(const struct tokenizer *t, int id);

// The id of the added token with this text, else of the vocabulary's token of exactly these bytes
// (" the", not its byte-level spelling in the file); -1 when there is none.
int tokenizer_find(const struct tokenizer *t, const char *text);

// Named by tokenizer_config.json where there is one, else recognised among the special tokens by
// their usual spellings; -1 when there is none.
int tokenizer_bos(const struct tokenizer *t);
int tokenizer_eos(const struct tokenizer *t);
int tokenizer_pad(const struct tokenizer *t);

// Writes into the directory dir the files the tokenizer was opened from, byte for byte (unpacked);
// a tokenizer_config.json is made where there was none, so that transformers' AutoTokenizer opens
// the directory. Errors: ERR_WRITE.
int tokenizer_save(const struct tokenizer *t, const char *dir);

#endif
