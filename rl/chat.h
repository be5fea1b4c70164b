// SPDX-License-Identifier: Apache-2.0
// Conversations of data rows as the texts that a model reads and writes.
#ifndef RL_CHAT_H
#define RL_CHAT_H

#include "policy/tokenizer.h"
#include "policy/tokenizer_chat.h"

struct chat {
    const struct tokenizer *tokenizer; // borrowed
    struct tokenizer_chat *templates;  // NULL: the tokenizer has none
    int64_t time; // that templates are told; negative: none, so that runs can be repeated
};

// Parses the tokenizer's template. Errors: ERR_MODEL.
int chat_open(struct chat *out, const struct tokenizer *t, int64_t time);
void chat_close(struct chat *c); // leaves a zeroed struct

// What a conversation comes to. The last message, when it is the assistant's, is the completion.
struct chat_text {
    struct strbuf prompt;     // ends where the assistant begins to write
    struct strbuf completion; // without the end token
    bool answered;            // the last message is the assistant's
    bool has_completion;
    bool rendered; // by a template, so that the prompt holds its special tokens
};

// conversation: JSON text of {"messages", "tools", "variables"}, the last two perhaps absent;
// `where` is the row's in errors. The completion is what the template writes between prompt and end
// token. Where it does not go on from the prompt, but the prompt's end is how the message begins (a
// template that opens "<think>" and drops what was thought), it is the rest of the message; else
// there is none. Without a template a lone message of the user is the prompt as it stands, and the
// assistant's after it the completion; of more there is no text. Errors: ERR_DATA, ERR_MODEL.
int chat_render(struct chat_text *out, const struct chat *c, const char *conversation,
                const char *where);
void chat_text_free(struct chat_text *t); // leaves a zeroed struct

#endif
