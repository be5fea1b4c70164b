// SPDX-License-Identifier: Apache-2.0
#include "rl/texts.h"

#include "base/error.h"
#include "base/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    int rc = add_text(out, row, t, row->prompt, special);
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
