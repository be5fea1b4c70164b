// SPDX-License-Identifier: Apache-2.0
#include "rl/programs.h"

#include "base/error.h"
#include "base/philox.h"
#include "rl/idset.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define HOLDOUT_KEY UINT64_C(0x70726f67686f6c64)
#define TRAIN_KEY   UINT64_C(0x70726f6774726169)

enum {
    HIDDEN = 4,
    CALLS_MAX = PROGRAMS_EXAMPLES_MAX + HIDDEN,
    INPUT_MIN = 3,
    INPUT_MAX = 5,
    DIGIT_MAX = 9,
    RESULT_MAX = 399 // every number of a result is one token
};

// The primitives, in the order of their lines below.
enum primitive {
    P_SORT,
    P_REVERSE,
    P_TAIL,
    P_INIT,
    P_INCREMENT,
    P_DOUBLE,
    P_EVEN,
    P_ODD,
    P_ABOVE_4,
    P_SUM,
    P_FIRST,
    P_LAST,
    P_LENGTH,
    P_UNIQUE,
    P_TWICE,
    P_MAX,
    P_MIN,
    P_SQUARE
};

static const char *const lines[PROGRAMS_PRIMITIVES] = {
    "x = sorted(x)",
    "x = x[::-1]",
    "x = x[1:]",
    "x = x[:-1]",
    "x = [i + 1 for i in x]",
    "x = [i * 2 for i in x]",
    "x = [i for i in x if i % 2 == 0]",
    "x = [i for i in x if i % 2]",
    "x = [i for i in x if i > 4]",
    "x = [sum(x)]",
    "x = x[:1]",
    "x = x[-1:]",
    "x = [len(x)]",
    "x = sorted(set(x))",
    "x = x + x",
    "x = [max(x, default=0)]",
    "x = [min(x, default=0)]",
    "x = [i * i for i in x]",
};

struct program_task {
    int program[PROGRAMS_DEPTH_MAX], depth;
    int examples, calls; // the first calls are the examples
    struct int_list in[CALLS_MAX], result[CALLS_MAX];
};

struct programs {
    struct programs_settings s;
    uint64_t train_key;
    struct idset held; // hashes of the tasks
};

const char *programs_primitive(int index)
{
    assert(index >= 0 && index < PROGRAMS_PRIMITIVES);
    return lines[index];
}

static void sort(struct int_list *x)
{
    for (int i = 1; i < x->n; i++)
        for (int j = i; j > 0 && x->at[j - 1] > x->at[j]; j--) {
            const int64_t swap = x->at[j];
            x->at[j] = x->at[j - 1];
            x->at[j - 1] = swap;
        }
}

static void reverse(struct int_list *x)
{
    for (int i = 0, j = x->n - 1; i < j; i++, j--) {
        const int64_t swap = x->at[j];
        x->at[j] = x->at[i];
        x->at[i] = swap;
    }
}

// x[begin:end]
static void slice(struct int_list *x, int begin, int end)
{
    x->n = end > begin ? end - begin : 0;
    memmove(x->at, x->at + begin, (size_t)x->n * sizeof(x->at[0]));
}

static void keep(struct int_list *x, enum primitive which)
{
    int n = 0;
    for (int i = 0; i < x->n; i++) {
        const int64_t v = x->at[i];
        if (which == P_EVEN ? v % 2 == 0 : which == P_ODD ? v % 2 != 0 : v > 4)
            x->at[n++] = v;
    }
    x->n = n;
}

static void map(struct int_list *x, enum primitive which)
{
    for (int i = 0; i < x->n; i++) {
        const int64_t v = x->at[i];
        x->at[i] = which == P_INCREMENT ? v + 1 : which == P_DOUBLE ? v * 2 : v * v;
    }
}

static void reduce(struct int_list *x, enum primitive which)
{
    int64_t sum = 0, hi = x->n > 0 ? x->at[0] : 0, lo = hi;
    for (int i = 0; i < x->n; i++) {
        sum += x->at[i];
        hi = x->at[i] > hi ? x->at[i] : hi;
        lo = x->at[i] < lo ? x->at[i] : lo;
    }
    const int64_t value = which == P_SUM ? sum : which == P_MAX ? hi : which == P_MIN ? lo : x->n;
    *x = (struct int_list){.n = 1, .at = {value}};
}

static void unique(struct int_list *x)
{
    sort(x);
    int n = 0;
    for (int i = 0; i < x->n; i++)
        if (n == 0 || x->at[n - 1] != x->at[i])
            x->at[n++] = x->at[i];
    x->n = n;
}

static void twice(struct int_list *x)
{
    assert(2 * x->n <= PROGRAMS_LIST_MAX);
    memcpy(x->at + x->n, x->at, (size_t)x->n * sizeof(x->at[0]));
    x->n *= 2;
}

void programs_apply(struct int_list *x, int primitive)
{
    const enum primitive which = (enum primitive)primitive;
    switch (which) {
    case P_SORT:
        sort(x);
        break;
    case P_REVERSE:
        reverse(x);
        break;
    case P_TAIL:
        slice(x, 1, x->n);
        break;
    case P_INIT:
        slice(x, 0, x->n - 1);
        break;
    case P_FIRST:
        slice(x, 0, x->n < 1 ? x->n : 1);
        break;
    case P_LAST:
        slice(x, x->n < 1 ? 0 : x->n - 1, x->n);
        break;
    case P_INCREMENT:
    case P_DOUBLE:
    case P_SQUARE:
        map(x, which);
        break;
    case P_EVEN:
    case P_ODD:
    case P_ABOVE_4:
        keep(x, which);
        break;
    case P_SUM:
    case P_LENGTH:
    case P_MAX:
    case P_MIN:
        reduce(x, which);
        break;
    case P_UNIQUE:
        unique(x);
        break;
    case P_TWICE:
        twice(x);
        break;
    }
}

static bool lists_equal(const struct int_list *x, const struct int_list *y)
{
    return x->n == y->n && memcmp(x->at, y->at, (size_t)x->n * sizeof(x->at[0])) == 0;
}

// Worth asking: results in range, and more than two different ones among them.
static bool task_ok(const struct program_task *t)
{
    int different = 0;
    for (int i = 0; i < t->calls; i++) {
        for (int k = 0; k < t->result[i].n; k++)
            if (t->result[i].at[k] > RESULT_MAX)
                return false;
        bool seen = false;
        for (int j = 0; j < i; j++)
            seen = seen || lists_equal(&t->result[i], &t->result[j]);
        different += !seen;
    }
    return different > 2;
}

static bool draw_once(struct program_task *t, const struct programs_settings *s,
                      struct philox_stream *r)
{
    t->examples = s->examples;
    t->calls = s->examples + HIDDEN;
    t->depth = 1 + (int)philox_below(r, (uint32_t)s->depth);
    for (int k = 0; k < t->depth; k++)
        t->program[k] = (int)philox_below(r, PROGRAMS_PRIMITIVES);
    for (int i = 0; i < t->calls; i++) {
        t->in[i].n = INPUT_MIN + (int)philox_below(r, INPUT_MAX - INPUT_MIN + 1);
        for (int k = 0; k < t->in[i].n; k++)
            t->in[i].at[k] = philox_below(r, DIGIT_MAX + 1);
        t->result[i].n = t->in[i].n;
        memcpy(t->result[i].at, t->in[i].at, (size_t)t->in[i].n * sizeof(t->in[i].at[0]));
        for (int k = 0; k < t->depth; k++)
            programs_apply(&t->result[i], t->program[k]);
    }
    return task_ok(t);
}

static uint64_t task_hash(const struct program_task *t)
{
    uint64_t h = (uint64_t)t->depth;
    for (int k = 0; k < t->depth; k++)
        h = philox_mix(h, (uint64_t)t->program[k]);
    for (int i = 0; i < t->examples; i++) {
        h = philox_mix(h, (uint64_t)t->in[i].n);
        for (int k = 0; k < t->in[i].n; k++)
            h = philox_mix(h, (uint64_t)t->in[i].at[k]);
    }
    return h;
}

// The first task of a stream that is worth asking and not held out. There always is one soon: about
// every second draw.
static void draw(struct program_task *t, const struct programs *p, struct philox_stream *r,
                 const struct idset *held)
{
    while (!draw_once(t, &p->s, r) || idset_has(held, task_hash(t))) {
    }
}

int programs_open(struct programs **out, const struct programs_settings *s)
{
    if (s->depth < 1 || s->depth > PROGRAMS_DEPTH_MAX)
        return err_set(ERR_CONFIG, "programs: \"depth\" is %d, expected 1..%d", s->depth,
                       PROGRAMS_DEPTH_MAX);
    if (s->examples < 1 || s->examples > PROGRAMS_EXAMPLES_MAX)
        return err_set(ERR_CONFIG, "programs: \"examples\" is %d, expected 1..%d", s->examples,
                       PROGRAMS_EXAMPLES_MAX);
    if (s->holdout < 0)
        return err_set(ERR_CONFIG, "programs: \"holdout\" is %d, expected 0 or more", s->holdout);
    struct programs *p = mem_alloc0(sizeof(*p));
    p->s = *s;
    p->train_key = philox_mix(TRAIN_KEY, s->seed);
    for (int i = 0; i < s->holdout; i++) {
        struct philox_stream r = philox_stream(HOLDOUT_KEY, (uint64_t)i);
        struct program_task t;
        draw(&t, p, &r, &(struct idset){0});
        idset_add(&p->held, task_hash(&t));
    }
    *out = p;
    return 0;
}

void programs_close(struct programs **programs)
{
    struct programs *p = *programs;
    if (p == NULL)
        return;
    idset_free(&p->held);
    free(p);
    *programs = NULL;
}

// ---- texts

static void put_list(struct strbuf *b, const struct int_list *x, const char *separator)
{
    strbuf_putc(b, '[');
    for (int i = 0; i < x->n; i++)
        strbuf_printf(b, "%s%lld", i > 0 ? separator : "", (long long)x->at[i]);
    strbuf_putc(b, ']');
}

// The text of b, in the arena; b is emptied.
static const char *take(struct arena *a, struct strbuf *b)
{
    const char *text = arena_strndup(a, b->data, b->len);
    strbuf_clear(b);
    return text;
}

static void make(struct problem *out, struct arena *a, const struct program_task *t,
                 const char *kind, uint64_t index)
{
    struct strbuf b = {0};
    *out = (struct problem){0};
    strbuf_printf(&b, "programs/%s/%llu", kind, (unsigned long long)index);
    out->id = take(a, &b);
    for (int i = 0; i < t->examples; i++) {
        put_list(&b, &t->in[i], " ");
        strbuf_puts(&b, " -> ");
        put_list(&b, &t->result[i], " ");
        strbuf_putc(&b, '\n');
    }
    strbuf_puts(&b, "program:\n");
    out->prompt = take(a, &b);
    for (int k = 0; k < t->depth; k++) {
        strbuf_puts(&b, lines[t->program[k]]);
        strbuf_putc(&b, '\n');
    }
    out->completion = take(a, &b);
    strbuf_puts(&b, "{\"entry\":\"f\",\"calls\":[");
    for (int i = 0; i < t->calls; i++) {
        strbuf_puts(&b, i > 0 ? ",{\"args\":[" : "{\"args\":[");
        put_list(&b, &t->in[i], ",");
        strbuf_puts(&b, "],\"result\":");
        put_list(&b, &t->result[i], ",");
        strbuf_putc(&b, '}');
    }
    strbuf_puts(&b, "]}");
    out->tests = take(a, &b);
    strbuf_free(&b);
}

void programs_problem(struct problem *out, struct arena *a, const struct programs *p,
                      uint64_t index)
{
    struct philox_stream r = philox_stream(p->train_key, index);
    struct program_task t;
    draw(&t, p, &r, &p->held);
    make(out, a, &t, "train", index);
}

void programs_holdout(struct problem *out, struct arena *a, const struct programs *p, int index)
{
    assert(index >= 0 && index < p->s.holdout);
    struct philox_stream r = philox_stream(HOLDOUT_KEY, (uint64_t)index);
    struct program_task t;
    draw(&t, p, &r, &(struct idset){0});
    make(out, a, &t, "holdout", (uint64_t)index);
}

// ---- completions as modules

static bool is_body(const char *text, size_t len)
{
    bool line_start = true, something = false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\r' || text[i] == '\f' || text[i] == '\0')
            return false;
        if (line_start && (text[i] == ' ' || text[i] == '\t'))
            return false;
        something = something || text[i] != '\n';
        line_start = text[i] == '\n';
    }
    return something;
}

void programs_source(struct strbuf *out, const char *completion, size_t len)
{
    if (!is_body(completion, len)) {
        strbuf_append(out, completion, len);
        return;
    }
    strbuf_puts(out, "def f(x):\n");
    for (size_t at = 0; at < len;) {
        const char *end = memchr(completion + at, '\n', len - at);
        const size_t line = end != NULL ? (size_t)(end - completion) - at : len - at;
        if (line > 0) {
            strbuf_puts(out, "    ");
            strbuf_append(out, completion + at, line);
        }
        strbuf_putc(out, '\n');
        at += line + 1;
    }
    strbuf_puts(out, "    return x\n");
}
