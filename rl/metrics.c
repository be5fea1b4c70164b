// SPDX-License-Identifier: Apache-2.0
#include "rl/metrics.h"

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void metrics_begin(struct metrics_line *line, const char *stage, int step, int global_step)
{
    line->stage = stage;
    line->step = step;
    line->global_step = global_step;
    line->count = 0;
    arena_release(&line->names, (struct arena_mark){0});
}

void metrics_free(struct metrics_line *line)
{
    free(line->items);
    arena_free(&line->names);
    *line = (struct metrics_line){0};
}

void metrics_put(struct metrics_line *line, double value, const char *name_fmt, ...)
{
    if (line->count == line->cap) {
        line->cap = line->cap ? 2 * line->cap : 64;
        line->items = mem_realloc(line->items, (size_t)line->cap * sizeof *line->items);
    }
    char name[256];
    va_list ap;
    va_start(ap, name_fmt);
    vsnprintf(name, sizeof name, name_fmt, ap);
    va_end(ap);
    line->items[line->count++] =
        (struct metrics_item){arena_strndup(&line->names, name, strlen(name)), value};
}

double metrics_get(const struct metrics_line *line, const char *name)
{
    for (int i = 0; i < line->count; i++)
        if (strcmp(line->items[i].name, name) == 0)
            return line->items[i].value;
    return (double)NAN;
}

// Length of the whole lines among the first `len` bytes.
static int whole_lines(int64_t *out, const char *path)
{
    struct strbuf text = {0};
    const int rc = file_read(&text, path, 0, ERR_DATA);
    if (rc == 0) {
        size_t n = text.len;
        while (n > 0 && text.data[n - 1] != '\n')
            n--;
        *out = (int64_t)n;
    }
    strbuf_free(&text);
    return rc;
}

int metrics_open(struct metrics *out, const char *path, int64_t keep)
{
    if (keep < 0) {
        keep = 0;
        if (file_exists(path)) {
            const int rc = whole_lines(&keep, path);
            if (rc != 0)
                return rc;
        }
    }
    const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_set(ERR_WRITE, "'%s': %s", path, strerror(errno));
    const off_t have = lseek(fd, 0, SEEK_END);
    if (have < (off_t)keep) {
        close(fd);
        return err_set(ERR_DATA, "'%s' has %lld bytes, its checkpoint counts on %lld", path,
                       (long long)have, (long long)keep);
    }
    if (ftruncate(fd, (off_t)keep) != 0 || lseek(fd, (off_t)keep, SEEK_SET) < 0) {
        close(fd);
        return err_set(ERR_WRITE, "'%s': %s", path, strerror(errno));
    }
    out->fd = fd;
    out->bytes = keep;
    return 0;
}

int metrics_write(struct metrics *m, const struct metrics_line *line, double seconds)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_begin_object(&w);
    json_put_key(&w, "stage");
    json_put_string(&w, line->stage);
    json_put_key(&w, "step");
    json_put_int(&w, line->step);
    json_put_key(&w, "global_step");
    json_put_int(&w, line->global_step);
    json_put_key(&w, "time");
    json_put_double(&w, seconds);
    for (int i = 0; i < line->count; i++) {
        json_put_key(&w, line->items[i].name);
        json_put_double(&w, line->items[i].value);
    }
    json_end_object(&w);
    strbuf_putc(&text, '\n');
    int rc = 0;
    if (write(m->fd, text.data, text.len) != (ssize_t)text.len)
        rc = err_set(ERR_WRITE, "metrics.jsonl: %s", errno ? strerror(errno) : "short write");
    else
        m->bytes += (int64_t)text.len;
    strbuf_free(&text);
    return rc;
}

void metrics_close(struct metrics *m)
{
    if (m->fd >= 0)
        close(m->fd);
    m->fd = -1;
}
