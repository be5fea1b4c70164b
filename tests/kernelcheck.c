// SPDX-License-Identifier: Apache-2.0
// Checks every slot of the kernel table of a device against the reference, on odd shapes; and the
// two rules of kernels/kernels.h: a row's bits depend on that row alone, and sums over tokens have
// a fixed order. One line of TAP per slot and device. With --bench it times the same slots.
//
// usage: kernelcheck [--device NAME]... [--slot NAME]... [--seed N] [--bench]
#include "tests/kernelcheck.h"
#include "base/error.h"
#include "base/philox.h"
#include "base/str.h"
#include "base/team.h"
#include "kernels/device_cuda.h"
#include "rl/bench_limit.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THREADS = 4, MAX_NAMES = 32 };

// ---- the devices

struct device_kind {
    const char *name;
    int (*open)(struct device **out, struct team *team);
    int threads; // most threads that it is tried with
    bool host;   // its memory is the host's
    bool large;  // --bench takes the shapes of a GPU
};

static int open_reference(struct device **out, struct team *team)
{
    return device_open(out, team, DEVICE_REFERENCE);
}
static int open_avx2(struct device **out, struct team *team)
{
    return device_open(out, team, DEVICE_AVX2);
}
static int open_avx512(struct device **out, struct team *team)
{
    return device_open(out, team, DEVICE_AVX512);
}

static int open_gpu(struct device **out, struct team *team)
{
    return device_open_cuda(out, team, 0);
}

// The program that is linked with the emulation of a GPU calls it another name.
#ifndef KERNELCHECK_GPU
#define KERNELCHECK_GPU "cuda"
#endif

// Another device is one more row: what opens it fails with a message where there is none, and its
// checks are then skipped.
static const struct device_kind kinds[] = {
    {"reference", open_reference, 1, true, false},
    {"avx2", open_avx2, MAX_THREADS, true, false},
    {"avx512", open_avx512, MAX_THREADS, true, false},
    {KERNELCHECK_GPU, open_gpu, 1, false, true},
};
enum { NUM_KINDS = sizeof kinds / sizeof *kinds };

// A kind that was opened, once for each number of threads; and what a slot came to on it.
struct subject {
    const struct device_kind *kind;
    struct team *teams[MAX_THREADS];
    struct runner runners[MAX_THREADS];
    char absent[256]; // why it could not be opened
    struct fault fault;
    double worst;
};

static void subject_open(struct subject *s, const struct device_kind *kind)
{
    s->kind = kind;
    for (int i = 0; i < kind->threads && !*s->absent; i++) {
        int rc = i > 0 ? team_open(&s->teams[i], i + 1) : 0;
        s->runners[i].host = kind->host;
        rc = rc == 0 ? kind->open(&s->runners[i].dev, s->teams[i]) : rc;
        if (rc != 0)
            snprintf(s->absent, sizeof s->absent, "%s", err_message());
    }
}

static void subject_close(struct subject *s)
{
    for (int i = 0; i < MAX_THREADS; i++) {
        runner_close(&s->runners[i]);
        team_close(&s->teams[i]);
    }
}

// ---- what is asked for

struct options {
    const char *devices[MAX_NAMES], *slots[MAX_NAMES];
    int num_devices, num_slots;
    uint64_t seed;
    bool bench;
};

static bool is_named(const char *const *names, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return n == 0;
}

static int usage(const char *why, const char *what)
{
    fprintf(stderr,
            "kernelcheck: %s \"%s\"\n"
            "usage: kernelcheck [--device NAME]... [--slot NAME]... [--seed N] [--bench]\n"
            "devices:",
            why, what);
    for (int i = 0; i < NUM_KINDS; i++)
        fprintf(stderr, " %s", kinds[i].name);
    fprintf(stderr, "\n");
    return 2;
}

static const struct slots *const groups[] = {&slots_matmul, &slots_token,   &slots_attention,
                                             &slots_moe,    &slots_logprob, &slots_optimiser};
enum { NUM_GROUPS = sizeof groups / sizeof *groups };

static bool slot_exists(const char *name)
{
    for (int g = 0; g < NUM_GROUPS; g++)
        for (int i = 0; i < groups[g]->count; i++)
            if (strcmp(groups[g]->list[i].name, name) == 0)
                return true;
    return false;
}

static bool kind_exists(const char *name)
{
    for (int i = 0; i < NUM_KINDS; i++)
        if (strcmp(kinds[i].name, name) == 0)
            return true;
    return false;
}

static int parse_options(struct options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        long long seed;
        if (strcmp(name, "--bench") == 0) {
            o->bench = true;
            continue;
        }
        i++;
        if (strcmp(name, "--device") == 0 && value && o->num_devices < MAX_NAMES) {
            if (!kind_exists(value))
                return usage("there is no device", value);
            o->devices[o->num_devices++] = value;
        } else if (strcmp(name, "--slot") == 0 && value && o->num_slots < MAX_NAMES) {
            if (!slot_exists(value))
                return usage("there is no slot", value);
            o->slots[o->num_slots++] = value;
        } else if (strcmp(name, "--seed") == 0 && value && str_to_int(value, 0, INT64_MAX, &seed)) {
            o->seed = (uint64_t)seed;
        } else {
            return usage("unexpected", name);
        }
    }
    return 0;
}

// ---- the checks of one shape

struct shape_check {
    const struct slot *slot;
    const void *shape;
    uint64_t seed;
    struct runner *reference;
    int skew;
};

static void build(struct call *c, const struct shape_check *k, const int *ids, int n,
                  uint64_t nonce)
{
    const struct rows rows = {ids, n};
    memset(c, 0, sizeof *c);
    c->seed = k->seed;
    c->nonce = nonce;
    c->scales = nonce == 0;
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
        build(&c, k, ids, count, (uint64_t)i + 1);
        ok = call_run(f, &o, &s->runners[i % s->kind->threads], &c, k->slot->run, !k->skew) &&
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
    for (int i = 0; i < s->kind->threads; i++) {
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

static void check_shape(const struct shape_check *k, struct subject *subjects)
{
    const int n = k->slot->rows ? k->slot->rows(k->shape) : 0;
    int *ids = identities(n);
    struct call c;
    struct outcome expected;
    struct fault f = {0};
    build(&c, k, ids, n, 0);
    const bool ok = call_run(&f, &expected, k->reference, &c, k->slot->run, 0);
    for (int d = 0; d < NUM_KINDS; d++) {
        struct subject *s = &subjects[d];
        if (!s->kind || *s->absent || *s->fault.text)
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

// ---- TAP

static bool report(const struct slot *slot, const struct subject *s, int number)
{
    const char *name = s->kind->name;
    const bool ok = !*s->fault.text;
    if (*s->absent) {
        printf("ok %d - %s, %s # SKIP %s\n", number, slot->name, name, s->absent);
        return true;
    }
    printf("%sok %d - %s, %s\n", ok ? "" : "not ", number, slot->name, name);
    if (ok)
        printf("# %d shapes, %.2f of the tolerance needed\n", slot->num_shapes, s->worst);
    else
        printf("# %s\n", s->fault.text);
    fflush(stdout);
    return ok;
}

// Returns the number of faults; *number counts the lines.
static int check_slot(const struct slot *slot, struct subject *subjects, struct runner *reference,
                      const struct options *o, int *number)
{
    int faults = 0;
    for (int d = 0; d < NUM_KINDS; d++) {
        subjects[d].fault.text[0] = '\0';
        subjects[d].worst = 0.0;
    }
    for (int i = 0; i < slot->num_shapes; i++) {
        const struct shape_check k = {
            .slot = slot,
            .shape = (const char *)slot->shapes + (size_t)i * slot->shape_size,
            .seed = philox_mix(o->seed, (uint64_t)i),
            .reference = reference,
            .skew = i % 2,
        };
        check_shape(&k, subjects);
    }
    for (int d = 0; d < NUM_KINDS; d++)
        if (subjects[d].kind)
            faults += !report(slot, &subjects[d], ++*number);
    return faults;
}

static int count_slots(const struct options *o)
{
    int count = 0;
    for (int g = 0; g < NUM_GROUPS; g++)
        for (int i = 0; i < groups[g]->count; i++)
            count += is_named(o->slots, o->num_slots, groups[g]->list[i].name);
    return count;
}

static int check_all(struct subject *subjects, const struct options *o)
{
    struct subject reference = {0};
    int devices = 0, number = 0, faults = 0;
    subject_open(&reference, &kinds[0]);
    for (int d = 0; d < NUM_KINDS; d++)
        devices += subjects[d].kind != NULL;
    printf("1..%d\n# seed %llu\n", devices * count_slots(o), (unsigned long long)o->seed);
    for (int g = 0; g < NUM_GROUPS; g++)
        for (int i = 0; i < groups[g]->count; i++)
            if (is_named(o->slots, o->num_slots, groups[g]->list[i].name))
                faults +=
                    check_slot(&groups[g]->list[i], subjects, &reference.runners[0], o, &number);
    subject_close(&reference);
    return faults > 0 ? 1 : 0;
}

// ---- bench

// The limit of the device when it can be measured, else zeros.
static struct bench_limit limit_of(const struct subject *s, struct team *team)
{
    struct bench_limit limit = {0};
    if (s->kind->host)
        bench_limit_measure(&limit, team, s->runners[0].dev->isa);
    return limit;
}

static bool bench_shape(const struct slot *slot, const void *shape, struct runner *on,
                        const struct bench_limit *limit, uint64_t seed)
{
    const struct shape_check k = {.slot = slot, .shape = shape, .seed = seed, .reference = on};
    const int n = slot->rows ? slot->rows(k.shape) : 0;
    int *ids = identities(n);
    struct call c;
    struct fault f = {0};
    double seconds = 0.0;
    build(&c, &k, ids, n, 1);
    const bool ok = call_time(&f, &seconds, on, &c, slot->time ? slot->time : slot->run);
    const double work = (c.flops > 0 ? c.flops : c.bytes) / seconds / 1e9;
    const double most = (c.flops > 0 ? limit->flops : limit->bytes) / 1e9;
    if (!ok)
        printf("%-20s %s: %s\n", slot->name, c.text, f.text);
    else
        printf("%-20s %-52s %10.1f us %9.1f %s", slot->name, c.text, seconds * 1e6, work,
               c.flops > 0 ? "GFLOP/s" : "GB/s");
    if (ok && most > 0)
        printf(" %3.0f %%", 100 * work / most);
    printf("\n");
    fflush(stdout);
    call_free(&c);
    free(ids);
    return ok;
}

static bool bench_slot(const struct slot *slot, const struct subject *s, struct runner *on,
                       const struct bench_limit *limit, uint64_t seed)
{
    const char *shapes = slot->bench[s->kind->large].shapes;
    bool ok = true;
    for (int i = 0; i < slot->bench[s->kind->large].count; i++)
        ok = bench_shape(slot, shapes + (size_t)i * slot->shape_size, on, limit, seed) && ok;
    return ok;
}

static int bench_device(const struct subject *s, const struct options *o)
{
    struct team *team = NULL;
    struct runner on = {.host = s->kind->host};
    int rc = s->kind->threads > 1 ? team_open(&team, 0) : 0;
    rc = rc == 0 ? s->kind->open(&on.dev, team) : rc;
    if (rc != 0) {
        fprintf(stderr, "kernelcheck: %s\n", err_message());
        team_close(&team);
        return -rc;
    }
    const struct bench_limit limit = limit_of(s, team);
    printf("%s, %d threads", s->kind->name, team_size(team));
    if (limit.flops > 0)
        printf("; at most %.0f GFLOP/s and %.1f GB/s read", limit.flops / 1e9, limit.bytes / 1e9);
    printf("\n");
    bool ok = true;
    for (int g = 0; g < NUM_GROUPS; g++)
        for (int i = 0; i < groups[g]->count; i++)
            if (is_named(o->slots, o->num_slots, groups[g]->list[i].name))
                ok = bench_slot(&groups[g]->list[i], s, &on, &limit, o->seed) && ok;
    runner_close(&on);
    team_close(&team);
    return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct options o = {.seed = 1};
    struct subject *subjects = mem_array0(NUM_KINDS, sizeof *subjects);
    int rc = parse_options(&o, argc, argv);
    for (int d = 0; d < NUM_KINDS && rc == 0; d++)
        if (is_named(o.devices, o.num_devices, kinds[d].name))
            subject_open(&subjects[d], &kinds[d]);
    if (rc == 0 && !o.bench)
        rc = check_all(subjects, &o);
    for (int d = 0; d < NUM_KINDS && rc == 0 && o.bench; d++)
        if (subjects[d].kind && !*subjects[d].absent)
            rc = bench_device(&subjects[d], &o);
    for (int d = 0; d < NUM_KINDS; d++)
        subject_close(&subjects[d]);
    free(subjects);
    return rc;
}
