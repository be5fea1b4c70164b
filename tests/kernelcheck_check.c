// SPDX-License-Identifier: Apache-2.0
// The checks of a slot: outputs against the reference, the same call again with other numbers of
// threads, and rows of a batch in other company.
#include "base/philox.h"
#include "tests/kernelcheck.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct shape_check {
    const struct slot *slot;
    const void *shape;
    uint64_t seed;
    struct runner *reference;
    int skew;
};

static void build(struct call *c, const struct shape_check *k, const int *ids, int n,
                  uint64_t nonce, bool scales)
{
    memset(c, 0, sizeof *c);
    int *own = ARENA_ARRAY(&c->memory, int, n + 1);
    memcpy(own, ids, (size_t)n * sizeof *own);
    const struct rows rows = {own, n};
    c->seed = k->seed;
    c->nonce = nonce;
    c->scales = scales;
    c->reference = k->reference->dev;
    k->slot->build(c, k->shape, &rows);
}

// Some rows of a batch of n, to be computed without the others: lists of identities.
enum { SUBSETS = 5 };

static int choose_subset(int *out, int n, int which, struct philox_stream *random)
{
    int count = 0;
    switch (which) {
    case 0:
    case 1:
    case 2: // one row alone: the first, the last, any
        out[0] = which == 0 ? 0 : which == 1 ? n - 1 : (int)philox_below(random, (uint32_t)n);
        return 1;
    case 3: // about half of them, runs of neighbours in another order
        while (2 * count < n) {
            const int first = (int)philox_below(random, (uint32_t)n);
            const int len = 1 + (int)philox_below(random, 1 + (uint32_t)n / 4);
            for (int i = first; i < first + len && i < n && count < n; i++)
                out[count++] = i;
        }
        return count;
    default: // all, from another one on, and some again
        for (int i = 0; i < n + n / 3; i++)
            out[count++] = (i + n / 2) % n;
        return count;
    }
}

static bool check_rows(struct fault *f, struct subject *s, const struct shape_check *k,
                       const struct call *base, const struct outcome *all, int n)
{
    struct philox_stream random = philox_stream(k->seed, (uint64_t)n);
    int *ids = mem_array0(2 * (size_t)n, sizeof *ids);
    bool ok = true;
    for (int i = 0; i < SUBSETS && ok; i++) {
        struct call c;
        struct outcome o;
        const int count = choose_subset(ids, n, i, &random);
        build(&c, k, ids, count, (uint64_t)i + 1, false);
        ok = call_run(f, &o, &s->runners[i % s->num_runners], &c, k->slot->run, !k->skew) &&
             outcome_same_rows(f, &c, &o, base, all);
        if (!ok) {
            char text[sizeof f->text];
            snprintf(text, sizeof text, "%s", f->text);
            snprintf(f->text, sizeof f->text, "%d of %d rows: %.450s", count, n, text);
        }
        outcome_free(&o);
        call_free(&c);
    }
    free(ids);
    return ok;
}

static bool check_repeats(struct fault *f, struct subject *s, const struct shape_check *k,
                          struct call *c, const struct outcome *first)
{
    for (int i = 0; i < s->num_runners; i++) {
        struct outcome o;
        const bool ok = call_run(f, &o, &s->runners[i], c, k->slot->run, k->skew) &&
                        outcome_same_bits(f, c, &o, first);
        outcome_free(&o);
        if (!ok) {
            char text[sizeof f->text];
            snprintf(text, sizeof text, "%s", f->text);
            snprintf(f->text, sizeof f->text, "again with %d threads: %.450s", i + 1, text);
            return false;
        }
    }
    return true;
}

static void check_subject(struct subject *s, const struct shape_check *k, struct call *c,
                          const struct outcome *expected, int n)
{
    struct outcome got;
    struct fault f = {0};
    const bool ok = call_run(&f, &got, &s->runners[0], c, k->slot->run, k->skew) &&
                    outcome_compare(&f, c, &got, expected, k->slot->tolerance, &s->worst) &&
                    check_repeats(&f, s, k, c, &got) &&
                    (n == 0 || !call_has_rows(c) || check_rows(&f, s, k, c, &got, n));
    if (!ok)
        snprintf(s->fault.text, sizeof s->fault.text, "%s: %.330s", c->text, f.text);
    outcome_free(&got);
}

static int *identities(int n)
{
    int *ids = mem_array0((size_t)n, sizeof *ids);
    for (int i = 0; i < n; i++)
        ids[i] = i;
    return ids;
}

static void check_shape(const struct shape_check *k, struct subject *subjects, int count)
{
    const int n = k->slot->rows ? k->slot->rows(k->shape) : 0;
    int *ids = identities(n);
    struct call c;
    struct outcome expected;
    struct fault f = {0};
    build(&c, k, ids, n, 0, true);
    const bool ok = call_run(&f, &expected, k->reference, &c, k->slot->run, 0);
    for (int d = 0; d < count; d++) {
        struct subject *s = &subjects[d];
        if (s->num_runners == 0 || *s->fault.text)
            continue;
        if (ok)
            check_subject(s, k, &c, &expected, n);
        else
            snprintf(s->fault.text, sizeof s->fault.text, "%s: reference: %.330s", c.text, f.text);
    }
    outcome_free(&expected);
    call_free(&c);
    free(ids);
}

void slot_check(const struct slot *slot, struct subject *subjects, int count,
                struct runner *reference, uint64_t seed)
{
    for (int d = 0; d < count; d++) {
        subjects[d].fault.text[0] = '\0';
        subjects[d].worst = 0.0;
    }
    for (int i = 0; i < slot->num_shapes; i++) {
        const struct shape_check k = {
            .slot = slot,
            .shape = (const char *)slot->shapes + (size_t)i * slot->shape_size,
            .seed = philox_mix(seed, (uint64_t)i),
            .reference = reference,
            .skew = i % 2,
        };
        check_shape(&k, subjects, count);
    }
}

void slot_build_whole(struct call *c, const struct slot *slot, const void *shape,
                      struct runner *reference, uint64_t seed)
{
    const struct shape_check k = {
        .slot = slot, .shape = shape, .seed = seed, .reference = reference};
    const int n = slot->rows ? slot->rows(shape) : 0;
    int *ids = identities(n);
    build(c, &k, ids, n, 0, false);
    free(ids);
}
