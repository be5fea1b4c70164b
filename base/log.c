// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define BAR_WIDTH    24
#define REDRAW_AFTER 0.1 // seconds

// The process has one terminal, so it has one log. Guarded by lock.
static struct {
    pthread_mutex_t lock;
    enum log_level level;
    int file; // descriptor of the log file, 0: none
    bool bar_shown;
    double bar_drawn;              // when
    double bar_began, bar_resumed; // when it was first drawn, and what was done then
} log_state = {.lock = PTHREAD_MUTEX_INITIALIZER, .level = LOG_INFO};

double log_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool log_is_terminal(void) { return isatty(STDERR_FILENO); }

// One write a line, so that lines of several processes do not mix; a log that cannot be written
// stops nobody.
static void write_whole(int fd, const struct strbuf *b)
{
    const ssize_t n = write(fd, b->data, b->len);
    (void)n;
}

static void erase_bar(struct strbuf *out)
{
    if (log_state.bar_shown)
        strbuf_puts(out, "\r\x1b[K");
    log_state.bar_shown = false;
}

// Each line of text after the prefix, with nothing in it that a terminal would obey.
static void put_lines(struct strbuf *out, const char *prefix, const char *text)
{
    for (const char *line = text;; line++) {
        const size_t len = strcspn(line, "\n");
        strbuf_puts(out, prefix);
        strbuf_put_visible(out, line, len);
        strbuf_putc(out, '\n');
        line += len;
        if (!*line)
            return;
    }
}

static void write_to_file(enum log_level level, const char *text)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    const time_t now = time(NULL);
    struct tm utc;
    char stamp[32], prefix[64];
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    snprintf(prefix, sizeof prefix, "%s %s: ", stamp, names[level]);
    struct strbuf out = {0};
    put_lines(&out, prefix, text);
    write_whole(log_state.file, &out);
    strbuf_free(&out);
}

static void write_to_terminal(enum log_level level, const char *text)
{
    struct strbuf out = {0};
    erase_bar(&out);
    put_lines(&out, level == LOG_ERROR ? "error: " : level == LOG_WARN ? "warning: " : "", text);
    write_whole(STDERR_FILENO, &out);
    strbuf_free(&out);
}

void log_set_level(enum log_level level)
{
    pthread_mutex_lock(&log_state.lock);
    log_state.level = level;
    pthread_mutex_unlock(&log_state.lock);
}

void log_open_file(const char *path)
{
    log_close_file();
    const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0)
        log_line(LOG_WARN, "no log is kept: \"%s\": %s", path, strerror(errno));
    pthread_mutex_lock(&log_state.lock);
    log_state.file = fd > 0 ? fd : 0;
    pthread_mutex_unlock(&log_state.lock);
}

void log_close_file(void)
{
    log_progress_end();
    pthread_mutex_lock(&log_state.lock);
    if (log_state.file)
        close(log_state.file);
    log_state.file = 0;
    pthread_mutex_unlock(&log_state.lock);
}

void log_line(enum log_level level, const char *fmt, ...)
{
    char *text;
    va_list ap;
    va_start(ap, fmt);
    const int len = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (len < 0)
        return;
    pthread_mutex_lock(&log_state.lock);
    if (level <= log_state.level)
        write_to_terminal(level, text);
    if (log_state.file && (level <= log_state.level || level <= LOG_INFO))
        write_to_file(level, text);
    pthread_mutex_unlock(&log_state.lock);
    free(text);
}

static int terminal_columns(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;
}

static void put_time_left(struct strbuf *out, double seconds)
{
    const long s = (long)(seconds + 0.5);
    if (s >= 3600)
        strbuf_printf(out, "%ldh%02ldm left", s / 3600, s / 60 % 60);
    else if (s >= 60)
        strbuf_printf(out, "%ldm%02lds left", s / 60, s % 60);
    else
        strbuf_printf(out, "%lds left", s);
}

// "[####----] 42% 1m03s left TEXT", cut to the width of the terminal.
static void put_bar(struct strbuf *out, double done, double total, double now, const char *text)
{
    const double share = total > 0 && done > 0 ? (done < total ? done / total : 1) : 0;
    const int full = (int)(share * BAR_WIDTH);
    struct strbuf bar = {0};
    strbuf_putc(&bar, '[');
    for (int i = 0; i < BAR_WIDTH; i++)
        strbuf_putc(&bar, i < full ? '#' : '-');
    strbuf_printf(&bar, "] %3.0f%% ", 100 * share);
    const double advanced = done - log_state.bar_resumed;
    if (advanced > 0 && done < total)
        put_time_left(&bar, (now - log_state.bar_began) * (total - done) / advanced);
    strbuf_putc(&bar, ' ');
    strbuf_put_visible(&bar, text, strlen(text));
    const size_t columns = (size_t)terminal_columns() - 1;
    strbuf_append(out, bar.data,
                  bar.len > columns ? utf8_complete_prefix(bar.data, columns) : bar.len);
    strbuf_free(&bar);
}

void log_progress(double done, double total, const char *text)
{
    pthread_mutex_lock(&log_state.lock);
    const double now = log_clock();
    if (log_state.bar_began == 0) {
        log_state.bar_began = now;
        log_state.bar_resumed = done;
    }
    const bool due = !log_state.bar_shown || now - log_state.bar_drawn >= REDRAW_AFTER;
    if (due && log_state.level >= LOG_INFO && log_is_terminal()) {
        struct strbuf out = {0};
        erase_bar(&out);
        put_bar(&out, done, total, now, text);
        write_whole(STDERR_FILENO, &out);
        strbuf_free(&out);
        log_state.bar_shown = true;
        log_state.bar_drawn = now;
    }
    pthread_mutex_unlock(&log_state.lock);
}

void log_progress_end(void)
{
    pthread_mutex_lock(&log_state.lock);
    if (log_state.bar_shown) {
        struct strbuf out = {0};
        erase_bar(&out);
        write_whole(STDERR_FILENO, &out);
        strbuf_free(&out);
    }
    log_state.bar_began = 0;
    pthread_mutex_unlock(&log_state.lock);
}
