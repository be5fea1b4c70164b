// SPDX-License-Identifier: Apache-2.0
// What the tests of the model share: a golden model opened on one of the devices of tests/devices.h
// with a number of threads, its four sequences as one packed batch, and comparisons.
#ifndef TESTS_MODEL_FIXTURE_H
#define TESTS_MODEL_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/team.h"
#include "policy/pack.h"
#include "policy/policy.h"
#include "policy/safetensors.h"
#include "tests/assert_ok.h"
#include "tests/devices.h"
#include "tests/golden_models.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fixture {
    const char *name;
    struct team *team;
    struct device *dev;
    struct policy *p;
    struct safetensors *golden;
    struct json_doc *meta; // golden.json
    int T, num_seqs;
    const int *tokens; // [T]
    int offsets[8];    // [num_seqs+1]
    struct pack next;  // every token but a sequence's first is a target, at tau 1
    struct pack every; // every row is a target
};

static inline char *golden_path(const char *model, const char *file)
{
    struct strbuf b = {0};
    strbuf_printf(&b, "%s/models/%s/%s", TEST_GOLDEN, model, file);
    return strbuf_take(&b);
}

static inline const float *golden_floats(const struct fixture *f, const char *name)
{
    const struct tensor *t = safetensors_find(f->golden, name);
    assert_non_null(t);
    assert_int_equal(t->dtype, TENSOR_F32);
    return t->data; // the library pads its headers, so data are aligned
}

static inline const int *golden_ints(const struct fixture *f, const char *name)
{
    const struct tensor *t = safetensors_find(f->golden, name);
    assert_non_null(t);
    assert_int_equal(t->dtype, TENSOR_I32);
    return t->data;
}

// device: of tests/devices.h.
static inline struct fixture fixture_open_as(enum dtype dtype, const char *name, int device,
                                             int threads)
{
    struct fixture f = {.name = name};
    char *dir = golden_path(name, "."), *tensors = golden_path(name, "golden.safetensors");
    char *meta = golden_path(name, "golden.json");
    assert_ok(team_open(&f.team, threads));
    assert_ok(test_device_open(&f.dev, f.team, device));
    assert_ok(policy_open(&f.p, f.dev, dir, dtype, false));
    assert_ok(safetensors_open(&f.golden, tensors, ERR_DATA));
    assert_ok(json_parse_file(&f.meta, meta, 0, ERR_DATA));
    free(dir);
    free(tensors);
    free(meta);
    f.tokens = golden_ints(&f, "input_ids");
    const int *lengths = golden_ints(&f, "lengths");
    f.num_seqs = (int)safetensors_find(f.golden, "lengths")->shape[0];
    for (int i = 0; i < f.num_seqs; i++) {
        const int *seq = f.tokens + f.T;
        f.offsets[i] = f.T;
        pack_completion(&f.next, seq, 1, seq + 1, lengths[i] - 1, 1);
        int row = pack_sequence(&f.every, seq, lengths[i], NULL, 0);
        for (int t = 0; t < lengths[i]; t++) {
            pack_target(&f.every, row + t, 0, 1);
        }
        f.T += lengths[i];
    }
    f.offsets[f.num_seqs] = f.T;
    return f;
}

static inline struct fixture fixture_open(const char *name, int device, int threads)
{
    return fixture_open_as(DTYPE_F32, name, device, threads);
}

static inline void fixture_close(struct fixture *f)
{
    pack_free(&f->next);
    pack_free(&f->every);
    json_free(&f->meta);
    safetensors_free(&f->golden);
    policy_free(&f->p);
    test_device_close(&f->dev);
    team_close(&f->team);
}

// Groups of samples, packed with each prompt once and with a prompt for each sample. The targets
// are the same in the same order: prompts' tokens and all of the samples.
struct groups {
    struct pack shared, repeated;
};

// The first sample of a group goes on into the next block of attention, the third is empty.
static inline int group_sample_len(int i) { return i == 0 ? 66 : i == 2 ? 0 : 1 + i * 29 % 9; }

// Prompts with lengths around the block of attention, of one to nine samples.
static inline struct groups groups_open(int V)
{
    enum { GROUPS = 5, LONGEST = 130 };
    static const int prompts[GROUPS] = {1, 63, 64, 65, LONGEST}, sizes[GROUPS] = {9, 1, 3, 4, 2};
    struct groups x = {0};
    for (int g = 0; g < GROUPS; g++) {
        int tokens[LONGEST], completion[LONGEST], len = prompts[g];
        for (int t = 0; t < len; t++) {
            tokens[t] = (t * t * 7 + t * 3 + g) % V;
        }
        pack_sequence(&x.shared, tokens, len, NULL, 0);
        for (int t = 1; t < len; t++) {
            pack_target(&x.shared, x.shared.T - len + t - 1, tokens[t], 1);
        }
        for (int i = 0; i < sizes[g]; i++) {
            const int drawn = group_sample_len(i), row = x.repeated.T;
            for (int t = 0; t < drawn; t++) {
                completion[t] = (t * t * 5 + t * i + g) % V;
            }
            pack_sequence(&x.repeated, tokens, len, completion, drawn);
            for (int t = i == 0 ? 1 : len; t < len + drawn; t++) {
                const bool own = t >= len;
                pack_target(&x.repeated, row + t - 1, own ? completion[t - len] : tokens[t],
                            own ? 0.5f : 1);
            }
            pack_shared(&x.shared, completion, drawn, 0.5f);
        }
    }
    return x;
}

static inline void groups_close(struct groups *x)
{
    pack_free(&x->shared);
    pack_free(&x->repeated);
}

// The token of the largest logit; ties: the lowest.
static inline int top_token(const float *logits, int V)
{
    int best = 0;
    for (int v = 1; v < V; v++) {
        best = logits[v] > logits[best] ? v : best;
    }
    return best;
}

// |a - b| <= tolerance max(1, |b|), and neither is NaN.
static inline void assert_close(const char *what, const float *a, const float *b, size_t n,
                                double tolerance)
{
    for (size_t i = 0; i < n; i++) {
        double x = (double)a[i], y = (double)b[i];
        if (!(fabs(x - y) <= tolerance * fmax(1, fabs(y)))) {
            fail_msg("%s[%zu] is %.9g, expected %.9g", what, i, x, y);
        }
    }
}

static inline void assert_same_bits(const char *what, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t x, y;
        memcpy(&x, &a[i], sizeof x);
        memcpy(&y, &b[i], sizeof y);
        if (x != y) {
            fail_msg("%s[%zu] is %.9g, expected exactly %.9g", what, i, (double)a[i], (double)b[i]);
        }
    }
}

// ||a - b|| <= 1e-3 ||b||: float32 sums in another order reach about 1e-6.
static inline void assert_gradient(const char *what, const float *a, const float *b, size_t n)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += pow((double)a[i] - (double)b[i], 2);
        norm += pow((double)b[i], 2);
    }
    if (!(sqrt(difference) <= 1e-3 * sqrt(norm))) {
        fail_msg("%s is off by %.3g of a norm of %.3g", what, sqrt(difference), sqrt(norm));
    }
}

// Runs a test on every golden model and device, two threads.
static inline void on_every_model_as(enum dtype dtype, void (*test)(struct fixture *f))
{
    int devices[TEST_DEVICES_MAX], n = test_devices(devices);
    for (int d = 0; d < n; d++) {
        for (int i = 0; i < NUM_GOLDEN_MODELS; i++) {
            struct fixture f = fixture_open_as(dtype, golden_models[i], devices[d], 2);
            test(&f);
            fixture_close(&f);
        }
    }
}

static inline void on_every_model(void (*test)(struct fixture *f))
{
    on_every_model_as(DTYPE_F32, test);
}

// A directory that is removed by the caller with dir_remove_all and free.
static inline char *temporary_dir(void)
{
    const char *base = getenv("TMPDIR");
    char *path = path_join(base ? base : "/tmp", "gradus-test-XXXXXX");
    assert_non_null(mkdtemp(path));
    return path;
}

#endif
