// SPDX-License-Identifier: Apache-2.0
#include "reward/format.h"

#include "base/error.h"
#include "reward/split.h"
#include "reward/steps.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <ctype.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

enum format_kind { FORMAT_AUTO, FORMAT_STEPS, FORMAT_PROGRAM, FORMAT_THINK, FORMAT_PATTERN };

enum { MATCH_LIMIT = 1000000 }; // of PCRE2's own counter: some tens of milliseconds

struct format {
    enum format_kind kind;
    pcre2_code *pattern; // of FORMAT_PATTERN
    pcre2_match_data *match;
    pcre2_match_context *limits;
};

static bool line_is_program(const char *s, size_t len)
{
    size_t i = 0;
    while (i < len && (isalnum((unsigned char)s[i]) || s[i] == '_'))
        i++;
    return i > 0 && !isdigit((unsigned char)s[0]) && len > i + 3 && memcmp(s + i, " = ", 3) == 0 &&
           s[i + 3] != ' ';
}

static bool every_line(struct arena *a, const struct reward_item *item, enum format_kind kind)
{
    struct reward_step *lines;
    const int n = steps_split(&lines, a, item->completion, item->len, NULL, NULL, 0);
    bool ok = n > 0;
    for (int i = 0; i < n && ok; i++) {
        const char *text = item->completion + lines[i].begin;
        const size_t len = lines[i].end - lines[i].begin;
        ok = kind == FORMAT_STEPS ? step_has_form(text, len, item->ref->puzzle->rules)
                                  : line_is_program(text, len);
    }
    return ok;
}

static bool is_thought(const char *text, size_t len)
{
    static const char open[] = "<think>", close[] = "</think>";
    const size_t open_len = sizeof(open) - 1, close_len = sizeof(close) - 1;
    if (len < open_len || memcmp(text, open, open_len) != 0 ||
        memmem(text + 1, len - 1, open, open_len) != NULL)
        return false;
    const char *end = memmem(text, len, close, close_len);
    if (end == NULL)
        return false;
    const char *rest = end + close_len;
    const size_t rest_len = len - (size_t)(rest - text);
    if (memmem(rest, rest_len, close, close_len) != NULL)
        return false;
    for (size_t i = 0; i < rest_len; i++)
        if (!isspace((unsigned char)rest[i]))
            return true;
    return false;
}

static void score_pattern(struct reward_result *out, const struct format *f,
                          const struct reward_item *item)
{
    const int rc =
        pcre2_match(f->pattern, (PCRE2_SPTR)item->completion, item->len, 0, 0, f->match, f->limits);
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
        PCRE2_UCHAR message[100] = "";
        pcre2_get_error_message(rc, message, sizeof(message));
        reward_set_unscorable(out, "the pattern: %s", (const char *)message);
    } else {
        reward_set_value(out, rc >= 0);
    }
}

static enum format_kind kind_for(const struct format *f, const struct reward_item *item)
{
    if (f->kind != FORMAT_AUTO)
        return f->kind;
    if (item->ref != NULL && item->ref->puzzle != NULL)
        return FORMAT_STEPS;
    return item->ref != NULL && item->ref->tests != NULL ? FORMAT_PROGRAM : FORMAT_THINK;
}

static void score_one(struct reward_result *out, const struct format *f, struct arena *a,
                      const struct reward_item *item)
{
    const enum format_kind kind = kind_for(f, item);
    if (kind == FORMAT_STEPS && (item->ref == NULL || item->ref->puzzle == NULL))
        reward_set_unscorable(out, "no puzzle, so no rules for its steps");
    else if (!item->finished)
        reward_set_value(out, 0);
    else if (kind == FORMAT_PATTERN)
        score_pattern(out, f, item);
    else if (kind == FORMAT_THINK)
        reward_set_value(out, is_thought(item->completion, item->len));
    else
        reward_set_value(out, every_line(a, item, kind));
}

static int score(void *state, struct arena *a, struct reward_result *out,
                 const struct reward_item *items, int n)
{
    for (int i = 0; i < n; i++)
        score_one(&out[i], state, a, &items[i]);
    return 0;
}

static void close_format(void *state)
{
    struct format *f = state;
    pcre2_code_free(f->pattern);
    pcre2_match_data_free(f->match);
    pcre2_match_context_free(f->limits);
    free(f);
}

static int kind_parse(enum format_kind *out, const char *kind)
{
    static const char *const names[] = {"", "steps", "program", "think", "pattern"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(kind, names[i]) == 0) {
            *out = (enum format_kind)i;
            return 0;
        }
    }
    return err_set(ERR_CONFIG, "unknown kind of format '%s' (steps, program, think, pattern)",
                   kind);
}

static int pattern_open(struct format *f, const char *pattern)
{
    int code;
    size_t at;
    f->pattern = pcre2_compile(
        (PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
        PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED, &code, &at, NULL);
    if (f->pattern == NULL) {
        PCRE2_UCHAR message[100] = "";
        pcre2_get_error_message(code, message, sizeof(message));
        return err_set(ERR_CONFIG, "pattern '%s': %s at byte %zu", pattern, (const char *)message,
                       at);
    }
    f->match = pcre2_match_data_create_from_pattern(f->pattern, NULL);
    f->limits = pcre2_match_context_create(NULL);
    if (f->match == NULL || f->limits == NULL)
        die_out_of_memory(0);
    pcre2_set_match_limit(f->limits, MATCH_LIMIT);
    return 0;
}

int format_scorer_open(struct reward_scorer *out, const char *kind, const char *pattern)
{
    enum format_kind k = FORMAT_AUTO;
    const int rc = kind_parse(&k, kind != NULL ? kind : "");
    if (rc != 0)
        return rc;
    const bool given = pattern != NULL && pattern[0] != '\0';
    if (given != (k == FORMAT_PATTERN))
        return err_set(ERR_CONFIG,
                       "a format of kind \"pattern\" and the key \"pattern\" belong together");
    struct format *f = mem_alloc0(sizeof(*f));
    f->kind = k;
    if (given && pattern_open(f, pattern) != 0) {
        close_format(f);
        return ERR_CONFIG;
    }
    *out =
        (struct reward_scorer){.name = "format", .score = score, .close = close_format, .state = f};
    return 0;
}
