// SPDX-License-Identifier: Apache-2.0
// The chat template among a tokenizer's files.
#ifndef POLICY_TOKENIZER_CHAT_H
#define POLICY_TOKENIZER_CHAT_H

#include "policy/chat_template.h"
#include "policy/tokenizer.h"

struct tokenizer_chat; // immutable; borrows the tokenizer

// Parses the template: chat_template.jinja, else "chat_template" of tokenizer_config.json, which is
// one template, or several with names. *out is NULL when there is none. Errors: ERR_MODEL.
int tokenizer_chat_open(struct tokenizer_chat **out, const struct tokenizer *t);
void tokenizer_chat_free(struct tokenizer_chat **c);

// chat_template_render with the tokenizer's own tokens for those of the request. Of several
// templates it takes "tool_use" for a conversation with tools where there is one, else "default",
// as transformers does. The text holds its special tokens: it is encoded without any more.
int tokenizer_chat_render(struct strbuf *out, const struct tokenizer_chat *c,
                          const struct chat_request *request);

#endif
