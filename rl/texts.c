// SPDX-License-Identifier: Apache-2.0
#include "rl/texts.h"

#include "base/error.h"
#include "base/file.h"
#include "rl/chat.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// ---- reading

static int open_text(struct texts *t, const char *option, const char *text)
{
    if (strcmp(text, "-") == 0) {
        const int rc = file_read(&t->text, "/dev/stdin", 0, ERR_DATA);
        if (rc != 0)
            return rc;
        if (t->text.len > 0 && strlen(t->text.data) != t->text.len)
            return err_set(ERR_DATA, "standard input holds a NUL byte");
    } else {
        strbuf_puts(&t->text, text);
    }
    t->rows = mem_array0(1, sizeof *t->rows);
    t->rows[0] =
        (struct text_row){.id = "0", .where = option, .prompt = t->text.len ? t->text.data : ""};
    t->count = 1;
    return 0;
}

static const char *where(struct texts *t, const char *name, int line)
{
    char number[16];
    const int digits = snprintf(number, sizeof number, ":%d", line);
    const size_t len = strlen(name);
    char *s = arena_push(&t->arena, len + (size_t)digits + 1);
    memcpy(s, name, len);
    memcpy(s + len, number, (size_t)digits + 1);
    return s;
}

static int open_data(struct texts *t, const char *path)
{
    const char *name = strcmp(path, "-") == 0 ? "standard input" : path;
    const int rc = dataset_open(&t->data, path, 0);
    if (rc != 0)
        return rc;
    t->count = t->data->count;
    t->rows = mem_array0((size_t)t->count, sizeof *t->rows);
    for (int i = 0; i < t->count; i++) {
        const struct problem *p = &t->data->items[i];
        t->rows[i] = (struct text_row){.id = p->id,
                                       .where = where(t, name, p->line),
                                       .prompt = p->prompt,
                                       .completion = p->completion,
                                       .conversation = p->conversation,
                                       .tokens = p->tokens,
                                       .num_tokens = p->num_tokens};
    }
    return 0;
}

int texts_open(struct texts *out, const char *verb, const char *option, const char *text,
               const char *data)
{
    if ((text != NULL) == (data != NULL))
        return err_set(ERR_CONFIG, "%s: exactly one of %s and --data is needed", verb, option);
    struct texts t = {0};
    const int rc = text ? open_text(&t, option, text) : open_data(&t, data);
    if (rc != 0) {
        texts_close(&t);
        return rc;
    }
    *out = t;
    return 0;
}

void texts_close(struct texts *t)
{
    free(t->rows);
    dataset_close(&t->data);
    strbuf_free(&t->text);
    arena_free(&t->arena);
    memset(t, 0, sizeof *t);
}

// ---- conversations

// A lone message of the user, as a row of a data file would have it.
static const char *conversation_of_prompt(struct texts *t, const char *prompt)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_begin_object(&w);
    json_put_key(&w, "messages");
    json_begin_array(&w);
    json_begin_object(&w);
    json_put_key(&w, "role");
    json_put_string(&w, "user");
    json_put_key(&w, "content");
    json_put_string(&w, prompt);
    json_end_object(&w);
    json_end_array(&w);
    json_end_object(&w);
    const char *copy = arena_strndup(&t->arena, text.data, text.len);
    strbuf_free(&text);
    return copy;
}

// The conversation with variables in place of its own.
static int with_variables(const char **out, struct texts *t, const char *conversation,
                          const char *variables)
{
    struct json_doc *doc = NULL, *given = NULL;
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    int rc = json_parse(&given, variables, strlen(variables), 0, "--chat-args", 1, ERR_CONFIG);
    if (rc == 0 && json_type(json_root(given)) != JSON_OBJECT)
        rc = err_set(ERR_CONFIG, "--chat-args must be a JSON object, found %s",
                     json_type_name(json_type(json_root(given))));
    if (rc == 0)
        rc = json_parse(&doc, conversation, strlen(conversation), 0, "a conversation", 1, ERR_DATA);
    if (rc == 0) {
        json_begin_object(&w);
        for (const struct json *v = json_first(json_root(doc)); v; v = json_next(v)) {
            if (strcmp(json_key(v), "variables") != 0) {
                json_put_key(&w, json_key(v));
                json_put_value(&w, doc, v);
            }
        }
        json_put_key(&w, "variables");
        json_put_value(&w, given, json_root(given));
        json_end_object(&w);
        *out = arena_strndup(&t->arena, text.data, text.len);
    }
    strbuf_free(&text);
    json_free(&doc);
    json_free(&given);
    return rc;
}

static int render_row(struct texts *t, struct text_row *row, const struct chat *chat,
                      const char *variables)
{
    struct chat_text text = {0};
    const char *conversation = row->conversation;
    int rc = variables ? with_variables(&conversation, t, conversation, variables) : 0;
    rc = rc ? rc : chat_render(&text, chat, conversation, row->where);
    if (rc == 0) {
        row->prompt =
            arena_strndup(&t->arena, text.prompt.len ? text.prompt.data : "", text.prompt.len);
        row->rendered = text.rendered;
        if (text.answered)
            row->completion = NULL;
        if (text.has_completion)
            row->completion = arena_strndup(
                &t->arena, text.completion.len ? text.completion.data : "", text.completion.len);
    }
    chat_text_free(&text);
    return rc;
}

int texts_render(struct texts *t, const struct tokenizer *tokenizer, bool always,
                 const char *variables)
{
    struct chat chat = {0};
    int rc = tokenizer ? chat_open(&chat, tokenizer, (int64_t)time(NULL)) : 0;
    bool needed = always;
    for (int i = 0; i < t->count; i++) {
        struct text_row *row = &t->rows[i];
        if (always && !row->conversation && row->prompt)
            row->conversation = conversation_of_prompt(t, row->prompt);
        needed = needed || row->conversation;
    }
    if (!needed) // a template that is not used may be what it likes
        rc = 0;
    else if (rc == 0 && always && !chat.templates)
        rc = err_set(ERR_MODEL, "the tokenizer has no chat template");
    for (int i = 0; i < t->count && rc == 0 && tokenizer; i++)
        if (t->rows[i].conversation)
            rc = render_row(t, &t->rows[i], &chat, variables);
    chat_close(&chat);
    return rc;
}

// ---- tokens

static int add_tokens(struct token_list *out, const struct text_row *row, int V)
{
    for (int i = 0; i < row->num_tokens; i++) {
        const int id = row->tokens[i];
        if (id < 0 || (V > 0 && id >= V))
            return err_set(ERR_DATA, "%s: token %d is %d, ids are 0 to %d", row->where, i, id,
                           V - 1);
    }
    for (int i = 0; i < row->num_tokens; i++)
        token_list_add(out, row->tokens[i]);
    return 0;
}

static int add_text(struct token_list *out, const struct text_row *row, const struct tokenizer *t,
                    const char *text, bool special)
{
    if (text == NULL)
        return 0;
    if (t == NULL)
        return err_set(ERR_MODEL, "%s: a text, and the model directory has no tokenizer.json",
                       row->where);
    return tokenizer_encode(out, t, text, strlen(text), special);
}

int texts_encode(struct token_list *out, const struct text_row *row, const struct tokenizer *t,
                 int V, bool special, bool with_completion)
{
    if (row->tokens)
        return add_tokens(out, row, V);
    const int before = out->count;
    int rc = add_text(out, row, t, row->prompt, special && !row->rendered);
    if (rc == 0 && with_completion)
        rc = add_text(out, row, t, row->completion, false);
    if (rc != 0)
        out->count = before;
    return rc;
}

// ---- writing

void texts_put_id(struct json_writer *w, const struct text_row *row)
{
    json_put_key(w, "id");
    json_put_string(w, row->id);
}

void texts_put_ids(struct json_writer *w, const char *key, const int *ids, int count)
{
    json_put_key(w, key);
    json_begin_array(w);
    for (int i = 0; i < count; i++)
        json_put_int(w, ids[i]);
    json_end_array(w);
}

void texts_put_floats(struct json_writer *w, const char *key, const float *x, int count)
{
    json_put_key(w, key);
    json_begin_array(w);
    for (int i = 0; i < count; i++)
        json_put_float(w, x[i]);
    json_end_array(w);
}

int texts_write(const char *path, const struct strbuf *lines)
{
    if (path != NULL && strcmp(path, "-") != 0)
        return file_write_atomic(path, lines->data, lines->len);
    if (fwrite(lines->data, 1, lines->len, stdout) != lines->len || fflush(stdout) != 0)
        return err_set(ERR_WRITE, "standard output: %s", strerror(errno));
    return 0;
}
