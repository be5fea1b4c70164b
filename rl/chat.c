// SPDX-License-Identifier: Apache-2.0
#include "rl/chat.h"

#include "base/error.h"

#include <string.h>

int chat_open(struct chat *out, const struct tokenizer *t, int64_t time)
{
    struct tokenizer_chat *templates = NULL;
    const int rc = tokenizer_chat_open(&templates, t);
    if (rc == 0)
        *out = (struct chat){.tokenizer = t, .templates = templates, .time = time};
    return rc;
}

void chat_close(struct chat *c)
{
    tokenizer_chat_free(&c->templates);
    *c = (struct chat){0};
}

void chat_text_free(struct chat_text *t)
{
    strbuf_free(&t->prompt);
    strbuf_free(&t->completion);
    *t = (struct chat_text){0};
}

static const char *content_by(const struct json *message, const char *role)
{
    const char *own = json_string(json_get(message, "role"));
    return own && strcmp(own, role) == 0 ? json_string(json_get(message, "content")) : NULL;
}

static int render_plainly(struct chat_text *out, const struct json *messages, const char *where)
{
    const struct json *first = json_first(messages), *second = json_next(first);
    const char *prompt = content_by(first, "user");
    const char *completion = second ? content_by(second, "assistant") : NULL;
    if (!prompt || json_count(messages) > 2 || (second && !completion))
        return err_set(ERR_MODEL,
                       "%s: a conversation of more than a user's message and its answer needs a "
                       "chat template, and the tokenizer has none",
                       where);
    strbuf_puts(&out->prompt, prompt);
    out->answered = out->has_completion = completion != NULL;
    if (completion)
        strbuf_puts(&out->completion, completion);
    return 0;
}

// Bytes of the longest end of a that is a beginning of b.
static size_t overlap(const struct strbuf *a, const char *b)
{
    size_t n = strlen(b) < a->len ? strlen(b) : a->len;
    while (n > 0 && memcmp(a->data + a->len - n, b, n) != 0)
        n--;
    return n;
}

static bool is_blank(const char *s, size_t len)
{
    while (len > 0 && strchr(" \t\r\n", s[len - 1]))
        len--;
    return len == 0;
}

// Drops the last occurrence of the end token's text and what follows it.
static void cut_end(struct strbuf *text, const struct tokenizer *t)
{
    size_t len = 0;
    const char *end = tokenizer_token_bytes(t, tokenizer_eos(t), &len);
    for (size_t at = text->len; end && len > 0 && at >= len; at--) {
        if (memcmp(text->data + at - len, end, len) == 0) {
            text->len = at - len;
            text->data[text->len] = 0;
            return;
        }
    }
}

// The completion from the text of the whole conversation and the last message's own.
static void find_completion(struct chat_text *out, const struct strbuf *whole, const char *content,
                            const struct tokenizer *t)
{
    const struct strbuf *prompt = &out->prompt;
    if (whole->len >= prompt->len &&
        (prompt->len == 0 || memcmp(whole->data, prompt->data, prompt->len) == 0)) {
        strbuf_append(&out->completion, whole->len ? whole->data + prompt->len : "",
                      whole->len - prompt->len);
        cut_end(&out->completion, t);
        out->has_completion = true;
        return;
    }
    const size_t common = content ? overlap(prompt, content) : 0;
    if (!is_blank(content, common)) {
        strbuf_puts(&out->completion, content + common);
        out->has_completion = true;
    }
}

static int render_by_template(struct chat_text *out, const struct chat *c,
                              const struct json_doc *doc)
{
    const struct json *root = json_root(doc), *messages = json_get(root, "messages"), *last = NULL;
    struct chat_request request = {.doc = doc,
                                   .messages = messages,
                                   .tools = json_get(root, "tools"),
                                   .variables = json_get(root, "variables"),
                                   .time = c->time};
    for (const struct json *m = json_first(messages); m; m = json_next(m))
        last = m;
    const char *role = json_string(json_get(last, "role"));
    const bool answered = out->answered =
        role && strcmp(role, "assistant") == 0 && json_count(messages) > 1;
    struct strbuf whole = {0};
    int rc = answered ? tokenizer_chat_render(&whole, c->templates, &request) : 0;
    request.generation_prompt = true;
    request.num_messages = json_count(messages) - answered;
    rc = rc ? rc : tokenizer_chat_render(&out->prompt, c->templates, &request);
    if (rc == 0 && answered)
        find_completion(out, &whole, content_by(last, "assistant"), c->tokenizer);
    out->rendered = true;
    strbuf_free(&whole);
    return rc;
}

int chat_render(struct chat_text *out, const struct chat *c, const char *conversation,
                const char *where)
{
    struct chat_text text = {0};
    struct json_doc *doc = NULL;
    int rc = json_parse(&doc, conversation, strlen(conversation), 0, where, 1, ERR_DATA);
    if (rc)
        return rc;
    if (c->templates)
        rc = render_by_template(&text, c, doc);
    else
        rc = render_plainly(&text, json_get(json_root(doc), "messages"), where);
    if (rc && c->templates)
        err_set(rc, "%s: %s", where, err_message());
    json_free(&doc);
    if (rc)
        chat_text_free(&text);
    else
        *out = text;
    return rc;
}
