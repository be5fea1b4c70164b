// SPDX-License-Identifier: Apache-2.0
// Tests and global functions, and finding all of them.
#include "policy/jinja_builtins.h"

#include <string.h>
#include <time.h>

int jinja_want_text(struct span *out, struct jinja_run *r, const struct jinja_value *v,
                    const char *what)
{
    if (v->type != JINJA_STRING)
        return jinja_fail(r, "%s is %s, not a str", what, jinja_type_name(v->type));
    *out = v->text;
    return 0;
}
// ---- tests

#define TEST(name, condition)                                                                      \
    static int test_##name(struct jinja_value *out, struct jinja_run *r,                           \
                           const struct jinja_call *c)                                             \
    {                                                                                              \
        (void)r;                                                                                   \
        const enum jinja_type t = c->self.type;                                                    \
        *out = jinja_bool(condition);                                                              \
        return 0;                                                                                  \
    }

TEST(defined, t != JINJA_UNDEFINED)
TEST(undefined, t == JINJA_UNDEFINED)
TEST(none, t == JINJA_NONE)
TEST(boolean, t == JINJA_BOOL)
TEST(true, t == JINJA_BOOL && c->self.truth)
TEST(false, t == JINJA_BOOL && !c->self.truth)
TEST(integer, t == JINJA_INT)
TEST(float, t == JINJA_FLOAT)
TEST(number, t == JINJA_BOOL || t == JINJA_INT || t == JINJA_FLOAT)
TEST(string, t == JINJA_STRING)
TEST(mapping, t == JINJA_DICT)
TEST(iterable, t == JINJA_STRING || t == JINJA_LIST || t == JINJA_DICT || t == JINJA_VIEW ||
                   t == JINJA_GENERATOR || t == JINJA_UNDEFINED || t == JINJA_LOOP)
TEST(sequence, t == JINJA_STRING || t == JINJA_LIST || t == JINJA_DICT || t == JINJA_UNDEFINED)

static int test_equalto(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    (void)r;
    *out = jinja_bool(jinja_equal(&c->self, c->args[0]));
    return 0;
}

static int test_unequal(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    (void)r;
    *out = jinja_bool(!jinja_equal(&c->self, c->args[0]));
    return 0;
}

static int parity(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c,
                  bool odd)
{
    if (c->self.type == JINJA_FLOAT)
        return jinja_refuse(r, "asking whether a float is odd or even is not supported");
    if (!jinja_is_number(&c->self))
        return jinja_fail(r, "%s is neither odd nor even", jinja_type_name(c->self.type));
    *out = jinja_bool((jinja_integer(&c->self) & 1) == odd);
    return 0;
}

static int test_odd(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    return parity(out, r, c, true);
}

static int test_even(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    return parity(out, r, c, false);
}

// ---- global functions

static int global_raise_exception(struct jinja_value *out, struct jinja_run *r,
                                  const struct jinja_call *c)
{
    struct span t = {0};
    (void)out;
    const int rc = jinja_to_text(&t, r, c->args[0]);
    return rc ? rc
              : jinja_fail(r, "the template refuses the conversation: %.*s",
                           t.len < 400 ? (int)t.len : (int)text_offset(t, 100), t.s);
}

static int global_namespace(struct jinja_value *out, struct jinja_run *r,
                            const struct jinja_call *c)
{
    int rc = jinja_spend(r, sizeof(struct jinja_scope) + 64);
    if (rc)
        return rc;
    struct jinja_scope *space = arena_push0(r->arena, sizeof *space);
    for (size_t i = 0; i < c->num_named && rc == 0; i++)
        rc = jinja_scope_set(space, r, c->named[2 * i].text, &c->named[2 * i + 1]);
    *out = (struct jinja_value){.type = JINJA_NAMESPACE, .space = space};
    return rc;
}

static int global_strftime_now(struct jinja_value *out, struct jinja_run *r,
                               const struct jinja_call *c)
{
    struct span format = {0};
    char text[256];
    struct tm local;
    const time_t now = (time_t)r->time;
    const int rc = jinja_want_text(&format, r, c->args[0], "the format");
    if (rc)
        return rc;
    if (r->time < 0 || !localtime_r(&now, &local))
        return jinja_fail(r, "the date is not given to the template here (\"strftime_now\")");
    char *terminated = arena_strndup(r->arena, format.s, format.len);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    const size_t len = strftime(text, sizeof text, terminated, &local);
#pragma GCC diagnostic pop
    return jinja_copy(out, r, text, len);
}
// ---- finding

// clang-format off
static const struct jinja_builtin builtins_own[] = {
    {"defined", JINJA_TEST_BUILTIN, "", 0, test_defined},
    {"undefined", JINJA_TEST_BUILTIN, "", 0, test_undefined},
    {"none", JINJA_TEST_BUILTIN, "", 0, test_none},
    {"boolean", JINJA_TEST_BUILTIN, "", 0, test_boolean},
    {"true", JINJA_TEST_BUILTIN, "", 0, test_true},
    {"false", JINJA_TEST_BUILTIN, "", 0, test_false},
    {"integer", JINJA_TEST_BUILTIN, "", 0, test_integer},
    {"float", JINJA_TEST_BUILTIN, "", 0, test_float},
    {"number", JINJA_TEST_BUILTIN, "", 0, test_number},
    {"string", JINJA_TEST_BUILTIN, "", 0, test_string},
    {"mapping", JINJA_TEST_BUILTIN, "", 0, test_mapping},
    {"iterable", JINJA_TEST_BUILTIN, "", 0, test_iterable},
    {"sequence", JINJA_TEST_BUILTIN, "", 0, test_sequence},
    {"equalto", JINJA_TEST_BUILTIN, " b ", 1, test_equalto},
    {"eq", JINJA_TEST_BUILTIN, " b ", 1, test_equalto},
    {"ne", JINJA_TEST_BUILTIN, " b ", 1, test_unequal},
    {"odd", JINJA_TEST_BUILTIN, "", 0, test_odd},
    {"even", JINJA_TEST_BUILTIN, "", 0, test_even},
    {"raise_exception", JINJA_GLOBAL_BUILTIN, " message ", 1, global_raise_exception},
    {"namespace", JINJA_GLOBAL_BUILTIN, "**", 0, global_namespace},
    {"strftime_now", JINJA_GLOBAL_BUILTIN, " format ", 1, global_strftime_now},
    {0}};
// clang-format on

const struct jinja_builtin *jinja_builtin_find(enum jinja_builtin_kind kind, struct span name)
{
    const struct jinja_builtin *const tables[] = {builtins_own, jinja_builtins_text,
                                                  jinja_builtins_items};
    for (int i = 0; i < 3; i++) {
        for (const struct jinja_builtin *b = tables[i]; b->name; b++) {
            const struct span own = {b->name, strlen(b->name)};
            if (b->kind == kind && text_equal(own, name))
                return b;
        }
    }
    return NULL;
}

// Place of a word in a list of words between blanks; -1: it is not there.
static int place_of(const char *words, struct span name)
{
    int place = 0;
    for (const char *w = words + strspn(words, " "); *w; w += strspn(w, " "), place++) {
        const size_t len = strcspn(w, " ");
        if (text_equal((struct span){w, len}, name))
            return place;
        w += len;
    }
    return -1;
}

int jinja_builtin_param(const struct jinja_builtin *b, struct span name)
{
    return place_of(b->params, name);
}

int jinja_builtin_num_params(const struct jinja_builtin *b)
{
    int n = 0;
    for (const char *at = b->params; *at; at++)
        n += at[0] == ' ' && at[1] != 0;
    return n;
}

bool jinja_is_global(struct span name)
{
    return place_of(" raise_exception namespace strftime_now range dict lipsum cycler joiner ",
                    name) >= 0;
}

bool jinja_type_has_method(enum jinja_type t, struct span name)
{
    static const char of_text[] =
        " capitalize casefold center count encode endswith expandtabs find format format_map "
        "index isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric "
        "isprintable isspace istitle isupper join ljust lower lstrip maketrans partition "
        "removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split "
        "splitlines startswith strip swapcase title translate upper zfill ";
    static const char of_list[] =
        " append clear copy count extend index insert pop remove reverse sort ";
    static const char of_dict[] =
        " clear copy fromkeys get items keys pop popitem setdefault update values ";
    static const char of_number[] =
        " as_integer_ratio bit_count bit_length conjugate denominator from_bytes fromhex hex imag "
        "is_integer numerator real to_bytes ";
    static const char of_others[] = " isdisjoint mapping close send throw ";
    const bool number = t == JINJA_BOOL || t == JINJA_INT || t == JINJA_FLOAT;
    const char *names = t == JINJA_STRING                         ? of_text
                        : t == JINJA_LIST                         ? of_list
                        : t == JINJA_DICT                         ? of_dict
                        : number                                  ? of_number
                        : t == JINJA_VIEW || t == JINJA_GENERATOR ? of_others
                                                                  : "";
    return place_of(names, name) >= 0;
}
