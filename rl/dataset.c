// SPDX-License-Identifier: Apache-2.0
#include "rl/dataset.h"

#include "base/error.h"
#include "base/file.h"
#include "rl/dataset_columns.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BYTES_MAX     ((size_t)8 << 30) // of an unpacked file: a packed one may claim anything
#define EXCERPT_BYTES ((size_t)80)

struct reader {
    const char *file; // as errors name it
    struct strbuf text;
    size_t at; // the next line
    int line;  // its number
    int cap;   // items allocated
};

// Adds the head of the line to the message.
static int quote_line(int rc, const char *text, size_t len)
{
    struct strbuf excerpt = {0};
    const size_t shown = len > EXCERPT_BYTES ? utf8_complete_prefix(text, EXCERPT_BYTES) : len;
    strbuf_put_visible(&excerpt, text, shown);
    err_set(rc, "%s, in `%s%s`", err_message(), excerpt.data ? excerpt.data : "",
            shown < len ? "..." : "");
    strbuf_free(&excerpt);
    return rc;
}

static struct problem *push_item(struct dataset *d, struct reader *r)
{
    if (d->count == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 64;
        d->items = mem_realloc(d->items, (size_t)r->cap * sizeof *d->items);
    }
    d->items[d->count] = (struct problem){0};
    return &d->items[d->count++];
}

static int read_row(struct dataset *d, struct reader *r, const char *text, size_t len)
{
    struct json_doc *doc = NULL;
    int rc = json_parse(&doc, text, len, 0, r->file, r->line, ERR_DATA);
    if (rc)
        return quote_line(rc, text, len);
    struct problem *p = push_item(d, r);
    const struct dataset_row row = {doc, json_root(doc), r->file, r->line};
    rc = dataset_columns(p, &d->arena, &row);
    json_free(&doc);
    if (rc)
        return quote_line(rc, text, len);
    if (!p->id) {
        char number[16];
        snprintf(number, sizeof number, "%d", r->line);
        p->id = arena_strndup(&d->arena, number, strlen(number));
    }
    return 0;
}

static bool is_blank(const char *text, size_t len)
{
    while (len && strchr(" \t\r", text[len - 1]) && text[len - 1])
        len--;
    return len == 0;
}

static int read_rows(struct dataset *d, struct reader *r, int limit)
{
    for (; r->at < r->text.len && (limit == 0 || d->count < limit); r->line++) {
        const char *line = r->text.data + r->at;
        const size_t left = r->text.len - r->at;
        const char *end = memchr(line, '\n', left);
        const size_t len = end ? (size_t)(end - line) : left;
        r->at += len + 1;
        if (d->count == INT_MAX / 2 || r->line == INT_MAX)
            return err_set(ERR_DATA, "%s: too many rows", r->file);
        const int rc = is_blank(line, len) ? 0 : read_row(d, r, line, len);
        if (rc)
            return rc;
    }
    return d->count ? 0 : err_set(ERR_DATA, "\"%s\": no rows", r->file);
}

// By id, then by sample, then by line.
static int by_identity(const void *x, const void *y)
{
    const struct problem *a = *(const struct problem *const *)x;
    const struct problem *b = *(const struct problem *const *)y;
    const int ids = strcmp(a->id, b->id);
    if (ids)
        return ids;
    return a->sample != b->sample ? (a->sample > b->sample) - (a->sample < b->sample)
                                  : (a->line > b->line) - (a->line < b->line);
}

static int check_ids(const struct dataset *d, const char *file)
{
    const struct problem **sorted = mem_array0((size_t)d->count, sizeof *sorted);
    int n = 0, rc = 0;
    for (int i = 0; i < d->count; i++)
        if (d->items[i].prompt)
            sorted[n++] = &d->items[i];
    qsort(sorted, (size_t)n, sizeof *sorted, by_identity);
    for (int i = 1; i < n && !rc; i++) {
        const struct problem *a = sorted[i - 1], *b = sorted[i];
        if (strcmp(a->id, b->id) == 0 && a->sample == b->sample)
            rc = err_set(ERR_DATA, "%s:%d: the id \"%s\" is that of line %d", file, b->line, b->id,
                         a->line);
    }
    free(sorted);
    return rc;
}

int dataset_open(struct dataset **out, const char *path, int limit)
{
    const bool standard = strcmp(path, "-") == 0;
    struct reader r = {.file = standard ? "standard input" : path, .line = 1};
    int rc = file_read_unpacked(&r.text, standard ? "/dev/stdin" : path, BYTES_MAX, ERR_DATA);
    if (rc)
        return rc;
    struct dataset *d = mem_alloc0(sizeof *d);
    rc = read_rows(d, &r, limit);
    if (!rc)
        rc = check_ids(d, r.file);
    strbuf_free(&r.text);
    if (rc)
        dataset_close(&d);
    else
        *out = d;
    return rc;
}

void dataset_close(struct dataset **d)
{
    if (!d || !*d)
        return;
    arena_free(&(*d)->arena);
    free((*d)->items);
    free(*d);
    *d = NULL;
}
