// SPDX-License-Identifier: Apache-2.0
// Checks every slot of the kernel table of a device against the reference, on odd shapes; and the
// two rules of kernels/kernels.h: a row's bits depend on that row alone, and sums over tokens have
// a fixed order. One line of TAP per slot and device. With --bench it times the same slots.
//
// usage: kernelcheck [--device NAME]... [--slot NAME]... [--seed N] [--bench | --list]
#include "tests/kernelcheck.h"
#include "base/error.h"
#include "base/str.h"
#include "base/team.h"
#include "kernels/device_cuda.h"
#include "rl/bench_limit.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAMES = 32 };

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
static int open_avx512bf16(struct device **out, struct team *team)
{
    return device_open(out, team, DEVICE_AVX512BF16);
}

// The program that is linked with emulated tiles checks what is built on them.
static int open_amx(struct device **out, struct team *team)
{
#ifdef KERNELCHECK_TILES
    extern const struct kernels kernels_amx_emulated;
    const int rc = device_open(out, team, DEVICE_AVX512);
    if (rc == 0)
        (*out)->k = &kernels_amx_emulated;
    return rc;
#else
    return device_open(out, team, DEVICE_AMX);
#endif
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
    {"avx512bf16", open_avx512bf16, MAX_THREADS, true, false},
    {"amx", open_amx, MAX_THREADS, true, false},
    {KERNELCHECK_GPU, open_gpu, 1, false, true},
};
enum { NUM_KINDS = sizeof kinds / sizeof *kinds };

// What a row of the table was opened to; without runners when it is absent or not asked for.
struct opened {
    const struct device_kind *kind; // NULL: not asked for
    struct team *teams[MAX_THREADS];
    char absent[256]; // why it could not be opened
};

static void kind_open(struct opened *o, struct subject *s, const struct device_kind *kind)
{
    o->kind = kind;
    for (int i = 0; i < kind->threads; i++) {
        struct runner *on = &s->runners[i];
        int rc = i > 0 ? team_open(&o->teams[i], i + 1) : 0;
        on->host = kind->host;
        rc = rc == 0 ? kind->open(&on->dev, o->teams[i]) : rc;
        if (rc != 0) {
            snprintf(o->absent, sizeof o->absent, "%s", err_message());
            return;
        }
        s->num_runners++;
    }
}

static void kind_close(struct opened *o, struct subject *s)
{
    for (int i = 0; i < MAX_THREADS; i++) {
        runner_close(&s->runners[i]);
        team_close(&o->teams[i]);
    }
}

// ---- what is asked for

struct options {
    const char *devices[MAX_NAMES], *slots[MAX_NAMES];
    int num_devices, num_slots;
    uint64_t seed;
    bool bench, list;
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
            "usage: kernelcheck [--device NAME]... [--slot NAME]... [--seed N] [--bench | --list]\n"
            "devices:",
            why, what);
    for (int i = 0; i < NUM_KINDS; i++)
        fprintf(stderr, " %s", kinds[i].name);
    fprintf(stderr, "\n");
    return 2;
}

static const struct slots *const groups[] = {&slots_matmul,   &slots_token, &slots_attention,
                                             &slots_heads,    &slots_moe,   &slots_logprob,
                                             &slots_optimiser};
enum { NUM_GROUPS = sizeof groups / sizeof *groups };

static int list_slots(void)
{
    for (int g = 0; g < NUM_GROUPS; g++)
        for (int i = 0; i < groups[g]->count; i++)
            printf("%s\n", groups[g]->list[i].name);
    return 0;
}

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
        if (strcmp(name, "--list") == 0) {
            o->list = true;
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

// ---- TAP

static bool report(const struct slot *slot, const struct opened *o, const struct subject *s,
                   int number)
{
    const bool ok = !*s->fault.text;
    if (*o->absent) {
        printf("ok %d - %s, %s # SKIP %s\n", number, slot->name, o->kind->name, o->absent);
        return true;
    }
    printf("%sok %d - %s, %s\n", ok ? "" : "not ", number, slot->name, o->kind->name);
    if (ok)
        printf("# %d shapes, %.2f of the tolerance needed\n", slot->num_shapes, s->worst);
    else
        printf("# %s\n", s->fault.text);
    fflush(stdout);
    return ok;
}

static int count_slots(const struct options *o)
{
    int count = 0;
    for (int g = 0; g < NUM_GROUPS; g++)
        for (int i = 0; i < groups[g]->count; i++)
            count += is_named(o->slots, o->num_slots, groups[g]->list[i].name);
    return count;
}

// Returns whether all is well.
static bool check_all(const struct opened *opened, struct subject *subjects,
                      const struct options *o)
{
    struct runner reference = {.host = true};
    int devices = 0, number = 0;
    bool ok = device_open(&reference.dev, NULL, DEVICE_REFERENCE) == 0;
    for (int d = 0; d < NUM_KINDS; d++)
        devices += opened[d].kind != NULL;
    printf("1..%d\n# seed %llu\n", devices * count_slots(o), (unsigned long long)o->seed);
    for (int g = 0; g < NUM_GROUPS; g++)
        for (int i = 0; i < groups[g]->count; i++) {
            const struct slot *slot = &groups[g]->list[i];
            if (!is_named(o->slots, o->num_slots, slot->name))
                continue;
            slot_check(slot, subjects, NUM_KINDS, &reference, o->seed);
            for (int d = 0; d < NUM_KINDS; d++)
                if (opened[d].kind)
                    ok = report(slot, &opened[d], &subjects[d], ++number) && ok;
        }
    runner_close(&reference);
    return ok;
}

// ---- bench

static bool bench_shape(const struct slot *slot, const void *shape, struct runner *on,
                        const struct bench_limit *limit, uint64_t seed)
{
    struct call c;
    struct fault f = {0};
    double seconds = 0.0;
    slot_build_whole(&c, slot, shape, on, seed);
    const bool ok = call_time(&f, &seconds, on, &c, slot->time ? slot->time : slot->run);
    const double work = (c.flops > 0 ? c.flops : c.bytes) / seconds / 1e9;
    const double arithmetic = c.bf16 ? limit->flops_bf16 : limit->flops;
    const double most = (c.flops > 0 ? arithmetic : limit->bytes) / 1e9;
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
    return ok;
}

static bool bench_slot(const struct slot *slot, const struct device_kind *kind, struct runner *on,
                       const struct bench_limit *limit, uint64_t seed)
{
    const char *shapes = slot->bench[kind->large].shapes;
    bool ok = true;
    for (int i = 0; i < slot->bench[kind->large].count; i++)
        ok = bench_shape(slot, shapes + (size_t)i * slot->shape_size, on, limit, seed) && ok;
    return ok;
}

// With all threads. Limits are measured where that is known how to.
static int bench_device(const struct device_kind *kind, const struct options *o)
{
    struct team *team = NULL;
    struct runner on = {.host = kind->host};
    struct bench_limit limit = {0};
    int rc = kind->threads > 1 ? team_open(&team, 0) : 0;
    rc = rc == 0 ? kind->open(&on.dev, team) : rc;
    if (rc != 0) {
        fprintf(stderr, "kernelcheck: %s\n", err_message());
        team_close(&team);
        return -rc;
    }
    printf("%s, %d threads", kind->name, team_size(team));
    if (kind->host) {
        bench_limit_measure(&limit, team, on.dev->isa);
        printf("; at most %.0f GFLOP/s, in bfloat16 %.0f, and %.1f GB/s read", limit.flops / 1e9,
               limit.flops_bf16 / 1e9, limit.bytes / 1e9);
    }
    printf("\n");
    bool ok = true;
    for (int g = 0; g < NUM_GROUPS; g++)
        for (int i = 0; i < groups[g]->count; i++)
            if (is_named(o->slots, o->num_slots, groups[g]->list[i].name))
                ok = bench_slot(&groups[g]->list[i], kind, &on, &limit, o->seed) && ok;
    runner_close(&on);
    team_close(&team);
    return ok ? 0 : 1;
}

static int check(const struct options *o)
{
    struct opened *opened = mem_array0(NUM_KINDS, sizeof *opened);
    struct subject *subjects = mem_array0(NUM_KINDS, sizeof *subjects);
    for (int d = 0; d < NUM_KINDS; d++)
        if (is_named(o->devices, o->num_devices, kinds[d].name))
            kind_open(&opened[d], &subjects[d], &kinds[d]);
    const bool ok = check_all(opened, subjects, o);
    for (int d = 0; d < NUM_KINDS; d++)
        kind_close(&opened[d], &subjects[d]);
    free(subjects);
    free(opened);
    return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct options o = {.seed = 1};
    int rc = parse_options(&o, argc, argv);
    if (rc == 0 && o.list)
        return list_slots();
    if (rc == 0 && !o.bench)
        return check(&o);
    for (int d = 0; d < NUM_KINDS && rc == 0; d++)
        if (is_named(o.devices, o.num_devices, kinds[d].name))
            rc = bench_device(&kinds[d], &o);
    return rc;
}
