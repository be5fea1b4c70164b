// SPDX-License-Identifier: Apache-2.0
#include "rl/options.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_positional(const struct option *o) { return o->name[0] != '-'; }

const char *options_nearest(const char *word, const char *const *names, int count)
{
    const char *best = NULL;
    int best_distance = (int)strlen(word) / 3 + 2;
    for (int i = 0; i < count; i++) {
        const int d = str_distance(word, names[i]);
        if (d < best_distance) {
            best = names[i];
            best_distance = d;
        }
    }
    return best;
}

static int unknown_option(const struct option *options, const char *verb, const char *word)
{
    const char *names[64];
    int count = 0;
    for (const struct option *o = options; o->name && count < 64; o++)
        if (!is_positional(o))
            names[count++] = o->name;
    const char *near = options_nearest(word, names, count);
    if (near)
        return err_set(ERR_CONFIG, "%s: unknown option \"%s\"; did you mean \"%s\"?", verb, word,
                       near);
    return err_set(ERR_CONFIG, "%s: unknown option \"%s\"; see `gradus help %s`", verb, word, verb);
}

static int set_number(const struct option *o, const char *verb, const char *text)
{
    long long i = 0;
    double d = 0;
    const bool whole = o->kind == OPTION_INT;
    const bool read = whole ? str_to_int(text, (long long)o->lo, (long long)o->hi, &i)
                            : str_to_double(text, &d) && d >= o->lo && d <= o->hi;
    if (!read)
        return err_set(ERR_CONFIG, "%s: %s is \"%s\", expected %s in [%.10g, %.10g]", verb, o->name,
                       text, whole ? "a whole number" : "a number", o->lo, o->hi);
    if (whole)
        *(int *)o->target = (int)i;
    else
        *(double *)o->target = d;
    return 0;
}

static int set_value(const struct option *o, const char *verb, const char *text)
{
    if (utf8_valid_prefix(text, strlen(text)) != strlen(text))
        return err_set(ERR_CONFIG, "%s: the value of %s is not UTF-8", verb, o->name);
    switch (o->kind) {
    case OPTION_FLAG:
        *(bool *)o->target = true;
        return 0;
    case OPTION_STRING:
        *(const char **)o->target = text;
        return 0;
    case OPTION_LIST: {
        struct option_list *list = o->target;
        list->items = mem_realloc(list->items, ((size_t)list->count + 1) * sizeof *list->items);
        list->items[list->count++] = text;
        return 0;
    }
    case OPTION_INT:
    case OPTION_REAL:
        break;
    }
    return set_number(o, verb, text);
}

static void print_usage(const struct option *options, const char *verb, const char *summary)
{
    printf("usage: gradus %s", verb);
    int width = (int)strlen("-q, -v");
    for (const struct option *o = options; o->name; o++) {
        const char *value = is_positional(o) || !o->value ? "" : o->value;
        printf(o->required ? " %s%s%s" : " [%s%s%s]", o->name, value[0] ? " " : "", value);
        if (o->kind == OPTION_LIST)
            printf("...");
        const int w = (int)(strlen(o->name) + 1 + strlen(value));
        width = w > width ? w : width;
    }
    printf(" [-q | -v]\n\n%s\n\n", summary);
    for (const struct option *o = options; o->name; o++) {
        const char *value = is_positional(o) || !o->value ? "" : o->value;
        const int rest = width - (int)strlen(o->name);
        printf("  %s %-*s %s\n", o->name, rest, value, o->help);
    }
    printf("  %-*s less, or more, on standard error\n", width + 1, "-q, -v");
}

// The option that argv[*at] names; *value is what follows "=" or NULL.
static const struct option *find_option(const struct option *options, const char *word,
                                        const char **value)
{
    const char *equals = strchr(word, '=');
    const size_t len = equals && word[1] == '-' ? (size_t)(equals - word) : strlen(word);
    for (const struct option *o = options; o->name; o++) {
        if (is_positional(o) || strlen(o->name) != len || memcmp(o->name, word, len) != 0)
            continue;
        *value = word[len] == '=' ? word + len + 1 : NULL;
        return o;
    }
    return NULL;
}

// Takes one option with its value; *at is left at the last word taken.
static int take_option(const struct option *o, const char *value, const char *verb, int argc,
                       char **argv, int *at)
{
    if (o->kind == OPTION_FLAG) {
        if (value)
            return err_set(ERR_CONFIG, "%s: %s takes no value", verb, o->name);
        return set_value(o, verb, "");
    }
    if (!value) {
        if (*at + 1 >= argc)
            return err_set(ERR_CONFIG, "%s: %s needs a value: %s", verb, o->name,
                           o->value ? o->value : "VALUE");
        value = argv[++*at];
    }
    return set_value(o, verb, value);
}

static int take_positional(const struct option *options, bool *given, const char *word,
                           const char *verb)
{
    for (int i = 0; options[i].name; i++)
        if (is_positional(&options[i]) && (!given[i] || options[i].kind == OPTION_LIST)) {
            given[i] = true;
            return set_value(&options[i], verb, word);
        }
    return err_set(ERR_CONFIG, "%s: \"%s\" is one argument too many; see `gradus help %s`", verb,
                   word, verb);
}

static int check_required(const struct option *options, const bool *given, const char *verb)
{
    for (int i = 0; options[i].name; i++)
        if (options[i].required && !given[i])
            return err_set(ERR_CONFIG, "%s: %s is missing; see `gradus help %s`", verb,
                           options[i].name, verb);
    return 0;
}

int options_parse(const struct option *options, int argc, char **argv, const char *summary,
                  bool *done)
{
    const char *verb = argv[0];
    int count = 0;
    while (options[count].name)
        count++;
    bool *given = mem_array0((size_t)count + 1, sizeof *given);
    int rc = 0;
    bool words_only = false;
    for (int i = 1; i < argc && rc == 0; i++) {
        const char *word = argv[i], *value = NULL;
        if (words_only || word[0] != '-' || !strcmp(word, "-")) {
            rc = take_positional(options, given, word, verb);
            continue;
        }
        const struct option *o = find_option(options, word, &value);
        if (o) {
            given[o - options] = true;
            rc = take_option(o, value, verb, argc, argv, &i);
        } else if (!strcmp(word, "--")) {
            words_only = true;
        } else if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
            print_usage(options, verb, summary);
            *done = true;
            goto out;
        } else if (!strcmp(word, "-q") || !strcmp(word, "-v")) {
            log_set_level(word[1] == 'q' ? LOG_WARN : LOG_DEBUG);
        } else {
            rc = unknown_option(options, verb, word);
        }
    }
    if (rc == 0)
        rc = check_required(options, given, verb);
out:
    free(given);
    return rc;
}
