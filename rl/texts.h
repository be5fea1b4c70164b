// SPDX-License-Identifier: Apache-2.0
// What the verbs on texts read and write: one text of the command line or of standard input, or the
// rows of a data file; JSON lines.
#ifndef RL_TEXTS_H
#define RL_TEXTS_H

#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "policy/tokenizer.h"
#include "rl/dataset.h"

struct text_row {
    const char *id;
    const char *where; // for errors: FILE:LINE, or the option of a single text
    // What the row says: tokens, or a prompt, a completion, or both. NULL: not given.
    const char *prompt, *completion;
    const int *tokens; // [num_tokens]
    int num_tokens;
    const char *conversation; // as in struct problem; NULL: none
    bool rendered;            // the prompt is a chat template's, with its special tokens
};

struct texts {
    struct text_row *rows;
    int count;
    struct dataset *data; // NULL: a single text, which is a prompt with the id "0"
    struct strbuf text;   // the single text
    struct arena arena;
};

// From exactly one of `text` (`option` is its name in errors, with the verb) and the data file; "-"
// of either reads standard input, a text to its last byte. Errors: ERR_CONFIG, ERR_DATA.
int texts_open(struct texts *out, const char *verb, const char *option, const char *text,
               const char *data);
void texts_close(struct texts *t); // leaves a zeroed struct

// Gives rows that are conversations their prompts and completions, by the tokenizer's chat template
// (NULL: such rows are an error). always: every prompt is taken for a message of the user, and
// there must be a template. variables: JSON text of an object that templates are given (NULL:
// none). Errors: ERR_DATA, ERR_MODEL; ERR_CONFIG, variables that are no object.
int texts_render(struct texts *t, const struct tokenizer *tokenizer, bool always,
                 const char *variables);

// Appends the tokens of a row: its own, checked against a vocabulary of size V (0: unchecked), or
// the prompt's with what the post-processor adds (special, and the prompt is no template's), then
// the completion's when asked for. Errors (out as it was): ERR_DATA; ERR_MODEL when a text meets a
// model without tokenizer (NULL).
int texts_encode(struct token_list *out, const struct text_row *row, const struct tokenizer *t,
                 int V, bool special, bool with_completion);

// Members of a line.
void texts_put_id(struct json_writer *w, const struct text_row *row);
void texts_put_ids(struct json_writer *w, const char *key, const int *ids, int count);
void texts_put_floats(struct json_writer *w, const char *key, const float *x, int count);

// Writes the lines to a file, at once, or to standard output (path NULL or "-").
int texts_write(const char *path, const struct strbuf *lines);

#endif
