// SPDX-License-Identifier: Apache-2.0
// Chat templates: from messages to the text of a prompt, as transformers' apply_chat_template
// renders it. Templates are Jinja; the subset here is what published templates are made of: text,
// {{ }}, if, for, set, namespaces, expressions with slices, comparisons, arithmetic and choices,
// and the filters, tests, methods and functions of policy/jinja_builtins.c. Anything else is an
// error that names it, never another prompt. Thread safety: an open template is immutable.
#ifndef POLICY_CHAT_TEMPLATE_H
#define POLICY_CHAT_TEMPLATE_H

#include "base/json.h"
#include "base/str.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chat_template;

// From the template's text; `name` is what errors call it ("NAME:LINE: what"). ERR_MODEL: not
// UTF-8, a fault of syntax, or what is not supported, named.
int chat_template_parse(struct chat_template **out, const char *text, size_t len, const char *name);
void chat_template_free(struct chat_template **t);

struct chat_request {
    const struct json_doc *doc;   // of the values below
    const struct json *messages;  // an array of objects
    int num_messages;             // how many of them, from the first; 0: all
    const struct json *tools;     // an array; NULL: none
    const struct json *variables; // an object of more variables for the template; NULL: none
    const char *bos, *eos, *pad;  // texts of these tokens; NULL: there is none
    bool generation_prompt;       // ends with what begins the assistant's next message
    int64_t
        time; // for templates that ask for the date, seconds since 1970; negative: they get none
};

// Appends the text of a conversation. Errors (out untouched): ERR_DATA, messages that are no array
// of objects, that the template refuses (raise_exception), or that it cannot be run on; ERR_MODEL,
// what is not supported and shows only now, or a template that goes on without end.
int chat_template_render(struct strbuf *out, const struct chat_template *t,
                         const struct chat_request *c);

#endif
