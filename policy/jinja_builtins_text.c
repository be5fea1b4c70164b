// SPDX-License-Identifier: Apache-2.0
// Filters and methods on text. Filters take what str() gives, methods a str alone.
#include "policy/jinja_builtins.h"

#include <string.h>

static int strip(struct jinja_value *out, struct jinja_run *r, struct span t,
                 const struct jinja_value *chars, bool left, bool right)
{
    int rc = jinja_spend(r, t.len);
    struct span set = {0};
    const bool white = !chars || chars->type == JINJA_NONE;
    if (rc == 0 && !white)
        rc = jinja_want_text(&set, r, chars, "the set of characters");
    if (left)
        t = white ? text_strip_left(t) : text_strip_left_of(t, set);
    if (right)
        t = white ? text_strip_right(t) : text_strip_right_of(t, set);
    *out = jinja_string(t.s, t.len);
    return rc;
}

static int filter_trim(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    struct span t = {0};
    const int rc = jinja_to_text(&t, r, &c->self);
    return rc ? rc : strip(out, r, t, c->args[0], true, true);
}

static int method_strip(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    struct span t = {0};
    const int rc = jinja_want_text(&t, r, &c->self, "what is stripped");
    return rc ? rc : strip(out, r, t, c->args[0], true, true);
}

static int method_lstrip(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    struct span t = {0};
    const int rc = jinja_want_text(&t, r, &c->self, "what is stripped");
    return rc ? rc : strip(out, r, t, c->args[0], true, false);
}

static int method_rstrip(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    struct span t = {0};
    const int rc = jinja_want_text(&t, r, &c->self, "what is stripped");
    return rc ? rc : strip(out, r, t, c->args[0], false, true);
}

// Beyond ASCII the letters of one case may be several of the other.
static int change_case(struct jinja_value *out, struct jinja_run *r, const struct jinja_value *v,
                       char from, char to)
{
    struct span t = {0};
    int rc = jinja_to_text(&t, r, v);
    rc = rc ? rc : jinja_copy(out, r, t.s, t.len);
    char *s = rc ? NULL : (char *)out->text.s; // the copy that was just made
    for (size_t i = 0; i < t.len && rc == 0; i++) {
        if ((unsigned char)s[i] >= 0x80)
            return jinja_refuse(r, "changing the case of text beyond ASCII is not supported");
        if (s[i] >= from && s[i] <= from + 25)
            s[i] = (char)(s[i] - from + to);
    }
    return rc;
}

static int filter_lower(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    return change_case(out, r, &c->self, 'A', 'a');
}

static int filter_upper(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    return change_case(out, r, &c->self, 'a', 'A');
}

static int method_lower(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    struct span t = {0};
    const int rc = jinja_want_text(&t, r, &c->self, "what is lowered");
    return rc ? rc : change_case(out, r, &c->self, 'A', 'a');
}

static int method_upper(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    struct span t = {0};
    const int rc = jinja_want_text(&t, r, &c->self, "what is raised");
    return rc ? rc : change_case(out, r, &c->self, 'a', 'A');
}

static int filter_string(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    struct span t = {0};
    const int rc = jinja_to_text(&t, r, &c->self);
    *out = jinja_string(t.s, t.len);
    return rc;
}

static int replace(struct jinja_value *out, struct jinja_run *r, struct span t,
                   const struct jinja_call *c)
{
    struct span from = {0}, to = {0};
    struct strbuf text = {0};
    int rc = jinja_want_text(&from, r, c->args[0], "what is replaced");
    rc = rc ? rc : jinja_want_text(&to, r, c->args[1], "what replaces it");
    if (rc == 0 && from.len == 0)
        rc = jinja_refuse(r, "replacing nothing is not supported");
    size_t done = 0, at = 0;
    while (rc == 0 && (at = text_find(t, done, from)) != SIZE_MAX) {
        rc = jinja_spend(r, at - done + to.len + 1);
        if (rc)
            break;
        strbuf_append(&text, t.s + done, at - done);
        strbuf_append(&text, to.s, to.len);
        done = at + from.len;
    }
    if (rc == 0) {
        strbuf_append(&text, t.s + done, t.len - done);
        rc = jinja_copy(out, r, text.data, text.len);
    }
    strbuf_free(&text);
    return rc;
}

static int filter_replace(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    struct span t = {0};
    const int rc = jinja_to_text(&t, r, &c->self);
    return rc ? rc : replace(out, r, t, c);
}

static int method_replace(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    struct span t = {0};
    const int rc = jinja_want_text(&t, r, &c->self, "where it is replaced");
    return rc ? rc : replace(out, r, t, c);
}

static int affix(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c, bool end)
{
    struct span t = {0}, part = {0};
    int rc = jinja_want_text(&t, r, &c->self, "what is searched");
    rc = rc ? rc : jinja_want_text(&part, r, c->args[0], "what is searched for");
    const struct span cut = {t.s + (end && part.len <= t.len ? t.len - part.len : 0), part.len};
    *out = jinja_bool(rc == 0 && part.len <= t.len && text_equal(cut, part));
    return rc ? rc : jinja_spend(r, part.len);
}

static int method_startswith(struct jinja_value *out, struct jinja_run *r,
                             const struct jinja_call *c)
{
    return affix(out, r, c, false);
}

static int method_endswith(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    return affix(out, r, c, true);
}

// The next piece of *t, which is cut off with its separator; sep empty: white space, of which *t
// has none at its start.
static struct span next_piece(struct span *t, struct span sep, bool *last)
{
    size_t end = 0, size = sep.len;
    if (sep.len > 0) {
        end = text_find(*t, 0, sep);
    } else {
        while (end < t->len && (size = text_offset((struct span){t->s + end, t->len - end}, 1),
                                text_strip_left((struct span){t->s + end, size}).len > 0))
            end += size;
        end = end < t->len ? end : SIZE_MAX;
    }
    *last = end == SIZE_MAX;
    const struct span piece = {t->s, *last ? t->len : end};
    *t = *last ? (struct span){t->s + t->len, 0}
               : (struct span){t->s + end + size, t->len - end - size};
    if (sep.len == 0)
        *t = text_strip_left(*t);
    return piece;
}

static int method_split(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    struct span t = {0}, sep = {0};
    const bool white = !c->args[0] || c->args[0]->type == JINJA_NONE;
    int rc = jinja_want_text(&t, r, &c->self, "what is split");
    rc = rc || white ? rc : jinja_want_text(&sep, r, c->args[0], "the separator");
    if (rc == 0 && !white && sep.len == 0)
        rc = jinja_fail(r, "an empty separator");
    int64_t most = -1;
    if (rc == 0 && c->args[1]) {
        if (c->args[1]->type != JINJA_INT || white)
            return jinja_refuse(r, "this \"maxsplit\" is not supported");
        most = c->args[1]->integer;
    }
    // No more pieces than bytes and one.
    struct jinja_value *items = NULL;
    size_t count = 0, room = 0;
    if (white)
        t = text_strip_left(t);
    for (bool last = white && t.len == 0; rc == 0 && !last; count++) {
        if (count == room) {
            struct jinja_value *more = NULL;
            room = room ? 4 * room : 4;
            rc = jinja_items(&more, r, room);
            if (rc)
                break;
            if (count > 0)
                memcpy(more, items, count * sizeof *items);
            items = more;
        }
        rc = jinja_spend(r, t.len / 64 + 16);
        struct span piece = t;
        if (most < 0 || count < (size_t)most)
            piece = next_piece(&t, sep, &last);
        else
            last = true;
        items[count] = jinja_string(piece.s, piece.len);
        last = last || (white && t.len == 0);
    }
    return rc ? rc : jinja_container(out, r, JINJA_LIST, items, count);
}

// clang-format off
const struct jinja_builtin jinja_builtins_text[] = {
    {"trim", JINJA_FILTER_BUILTIN, " chars ", 0, filter_trim},
    {"lower", JINJA_FILTER_BUILTIN, "", 0, filter_lower},
    {"upper", JINJA_FILTER_BUILTIN, "", 0, filter_upper},
    {"string", JINJA_FILTER_BUILTIN, "", 0, filter_string},
    {"replace", JINJA_FILTER_BUILTIN, " old new ", 2, filter_replace},
    {"startswith", JINJA_METHOD_BUILTIN, " prefix ", 1, method_startswith},
    {"endswith", JINJA_METHOD_BUILTIN, " suffix ", 1, method_endswith},
    {"strip", JINJA_METHOD_BUILTIN, " chars ", 0, method_strip},
    {"lstrip", JINJA_METHOD_BUILTIN, " chars ", 0, method_lstrip},
    {"rstrip", JINJA_METHOD_BUILTIN, " chars ", 0, method_rstrip},
    {"split", JINJA_METHOD_BUILTIN, " sep maxsplit ", 0, method_split},
    {"lower", JINJA_METHOD_BUILTIN, "", 0, method_lower},
    {"upper", JINJA_METHOD_BUILTIN, "", 0, method_upper},
    {"replace", JINJA_METHOD_BUILTIN, " old new ", 2, method_replace},
    {0}};
// clang-format on
