// SPDX-License-Identifier: Apache-2.0
// The harness of the kernel table finds what it looks for: the reference with a fault planted in
// one slot, one kind of fault at a time, and each has to be reported as what it is.
#include "base/error.h"
#include "base/team.h"
#include "kernels/cpu/reference.h"
#include "tests/kernelcheck.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- faults in swiglu: each is made of a right result

static float *first_of(const struct swiglu_args *a) { return a->h; }

static float *last_of(const struct swiglu_args *a)
{
    static float none;
    const size_t n = (size_t)a->T * (size_t)a->F;
    return n > 0 ? first_of(a) + n - 1 : &none;
}

static int right(struct device *dev, const struct swiglu_args *a) { return ref_swiglu(dev, a); }

static int wrong_value(struct device *dev, const struct swiglu_args *a)
{
    ref_swiglu(dev, a);
    *last_of(a) *= 1.0f + 0x1p-18f;
    return 0;
}

static int wrong_nan(struct device *dev, const struct swiglu_args *a)
{
    ref_swiglu(dev, a);
    *last_of(a) = NAN;
    return 0;
}

static int unwritten(struct device *dev, const struct swiglu_args *a)
{
    struct swiglu_args fewer = *a;
    fewer.T -= a->T > 2;
    return ref_swiglu(dev, &fewer);
}

static int past_the_end(struct device *dev, const struct swiglu_args *a)
{
    ref_swiglu(dev, a);
    first_of(a)[(size_t)a->T * (size_t)a->F + 3] = 0.0f;
    return 0;
}

static int before_the_start(struct device *dev, const struct swiglu_args *a)
{
    ref_swiglu(dev, a);
    first_of(a)[-2] = 0.0f;
    return 0;
}

static int input_changed(struct device *dev, const struct swiglu_args *a)
{
    float *in;
    memcpy(&in, &a->gate_up, sizeof in);
    ref_swiglu(dev, a);
    if (a->T > 0 && a->F > 0)
        in[0] += 1.0f;
    return 0;
}

static int by_company(struct device *dev, const struct swiglu_args *a)
{
    ref_swiglu(dev, a);
    if (a->T > 1)
        *last_of(a) = nextafterf(*last_of(a), INFINITY);
    return 0;
}

static int by_index(struct device *dev, const struct swiglu_args *a)
{
    ref_swiglu(dev, a);
    for (size_t t = 1; t < (size_t)a->T; t += 2)
        for (size_t i = 0; i < (size_t)a->F; i++) {
            float *h = first_of(a) + t * (size_t)a->F + i;
            *h = nextafterf(*h, INFINITY);
        }
    return 0;
}

static int by_run(struct device *dev, const struct swiglu_args *a)
{
    static int calls;
    ref_swiglu(dev, a);
    if (calls++ % 2)
        *last_of(a) = nextafterf(*last_of(a), INFINITY);
    return 0;
}

static int by_threads(struct device *dev, const struct swiglu_args *a)
{
    ref_swiglu(dev, a);
    if (team_size(dev->team) == 2)
        *last_of(a) = nextafterf(*last_of(a), INFINITY);
    return 0;
}

static int failing(struct device *dev, const struct swiglu_args *a)
{
    (void)dev;
    return a->T > 5 ? err_set(ERR_ENV, "no luck") : ref_swiglu(dev, a);
}

// ---- and in others

static int padding_written(struct device *dev, const struct rmsnorm_args *a)
{
    float *y = a->y;
    ref_rmsnorm(dev, a);
    if (a->T > 1 && a->ldy > (size_t)a->C)
        y[a->C] = 0.0f;
    return 0;
}

static int wrong_choice(struct device *dev, const struct moe_route_args *a)
{
    ref_moe_route(dev, a);
    if (a->T > 0)
        a->experts[0] = a->E - 1 - a->experts[0];
    return 0;
}

// Its own way with equal scores: the higher index.
static int wrong_tie(struct device *dev, const struct moe_route_args *a)
{
    ref_moe_route(dev, a);
    for (int t = 0; t < a->T && a->K == 1; t++)
        for (int e = a->experts[t] + 1; e < a->E && !a->bias && a->n_group == 1; e++)
            if (a->scores[t * a->E + e] == a->scores[t * a->E + a->experts[t]])
                a->experts[t] = e;
    return 0;
}

struct planted {
    const char *name, *slot;
    const char *found; // in the message; NULL: no fault
    struct kernels k;
};

static const struct planted faults[] = {
    {"no fault", "swiglu", NULL, {.swiglu = right}},
    {"a wrong value", "swiglu", "of the tolerance", {.swiglu = wrong_value}},
    {"a NaN", "swiglu", "is nan, expected", {.swiglu = wrong_nan}},
    {"a row left out", "swiglu", "is not written", {.swiglu = unwritten}},
    {"a write past the end", "swiglu", "byte 13 past the end of h", {.swiglu = past_the_end}},
    {"a write before the start", "swiglu", "byte 8 before h", {.swiglu = before_the_start}},
    {"a changed input", "swiglu", "the input gate_up changed", {.swiglu = input_changed}},
    {"bits that depend on the number of rows", "swiglu", "rows: h[", {.swiglu = by_company}},
    {"bits that depend on the index of a row", "swiglu", "rows: h[", {.swiglu = by_index}},
    {"bits that differ from run to run", "swiglu", "again with 1 threads", {.swiglu = by_run}},
    {"bits that depend on threads", "swiglu", "again with 2 threads", {.swiglu = by_threads}},
    {"an error", "swiglu", "no luck", {.swiglu = failing}},
    {"written padding", "rmsnorm", "the padding of y", {.rmsnorm = padding_written}},
    {"a wrong choice", "moe_route", "expected exactly", {.moe_route = wrong_choice}},
    {"a tie to the higher index", "moe_route", "expected exactly", {.moe_route = wrong_tie}},
};

static const struct slot *find_slot(const char *name)
{
    static const struct slots *const groups[] = {&slots_token, &slots_moe};
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (int i = 0; i < groups[g]->count; i++)
            if (strcmp(groups[g]->list[i].name, name) == 0)
                return &groups[g]->list[i];
    return NULL;
}

static int open_subject(struct subject *s, struct team **teams, const struct kernels *k)
{
    int rc = 0;
    for (int i = 0; i < 2 && rc == 0; i++) {
        rc = i > 0 ? team_open(&teams[i], i + 1) : 0;
        // Writing where nothing may be written is the fault here, not the program's: no sanitizer.
        s->runners[i].host = false;
        rc = rc == 0 ? device_open(&s->runners[i].dev, teams[i], DEVICE_REFERENCE) : rc;
        if (rc == 0)
            s->runners[i].dev->k = k;
        s->num_runners++;
    }
    return rc;
}

static bool is_found(const struct planted *p, struct runner *reference)
{
    struct subject s = {0};
    struct team *teams[MAX_THREADS] = {NULL};
    bool found = open_subject(&s, teams, &p->k) == 0;
    slot_check(find_slot(p->slot), &s, 1, reference, 1);
    found = found && (p->found ? strstr(s.fault.text, p->found) != NULL : !*s.fault.text);
    if (!found)
        printf("# found: %s\n", *s.fault.text ? s.fault.text : "nothing");
    for (int i = 0; i < MAX_THREADS; i++) {
        runner_close(&s.runners[i]);
        team_close(&teams[i]);
    }
    return found;
}

int main(void)
{
    enum { COUNT = sizeof faults / sizeof *faults };
    struct runner reference = {.host = true};
    int failed = 0;
    printf("1..%d\n", COUNT);
    if (device_open(&reference.dev, NULL, DEVICE_REFERENCE) != 0)
        return 1;
    for (int i = 0; i < COUNT; i++) {
        const bool found = is_found(&faults[i], &reference);
        printf("%sok %d - %s is %s\n", found ? "" : "not ", i + 1, faults[i].name,
               faults[i].found ? "found" : "no fault");
        failed = failed || !found;
    }
    runner_close(&reference);
    return failed;
}
