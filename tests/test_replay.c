// SPDX-License-Identifier: Apache-2.0
// Sequences of kernels that are recorded and replayed compute what launching them computes: sums
// that show how often they ran, and the logits of decoding steps to the bit. A device that cannot
// record launches every time.
#include "kernels/block.h"
#include "kernels/replay.h"
#include "policy/activations.h"
#include "tests/model_fixture.h"

// ---- a sequence of one kernel: y += x

enum { N = 5 };

struct adding {
    struct device *dev;
    struct add_args args;
    int launches, rc;
};

static int launch_add(void *arg)
{
    struct adding *a = arg;
    a->launches++;
    const int rc = a->dev->k->add(a->dev, &a->args);
    return a->rc != 0 ? err_set(a->rc, "as asked") : rc;
}

static struct adding open_adding(struct device *dev)
{
    const float x[N] = {1, 2, 3, 4, 5}, zero[N] = {0};
    return (struct adding){.dev = dev,
                           .args = {.x = device_new(dev, x, sizeof x),
                                    .y = device_new(dev, zero, sizeof zero),
                                    .n = N}};
}

static void close_adding(struct adding *a)
{
    device_release(a->dev, (void *)(uintptr_t)a->args.x);
    device_release(a->dev, a->args.y);
}

static void assert_times(const struct adding *a, int times)
{
    float y[N];
    device_get(a->dev, y, a->args.y, sizeof y);
    for (int i = 0; i < N; i++)
        assert_true(y[i] == (float)(times * (i + 1)));
}

static void on_every_device(void (*test)(struct device *dev))
{
    int devices[TEST_DEVICES_MAX];
    const int n = test_devices(devices);
    for (int i = 0; i < n; i++) {
        struct device *dev = NULL;
        assert_ok(test_device_open(&dev, NULL, devices[i]));
        test(dev);
        test_device_close(&dev);
    }
}

static void check_counts(struct device *dev)
{
    struct adding a = open_adding(dev), b = open_adding(dev);
    struct replay *r = replay_open(dev);
    const bool records = dev->recorder != NULL;
    for (int i = 1; i <= 4; i++) {
        assert_ok(replay_run(r, "a", 1, launch_add, &a));
        assert_times(&a, i);
    }
    assert_int_equal(a.launches, records ? 2 : 4); // the second is recorded
    assert_int_equal(replay_count(r), records ? 3 : 0);
    for (int i = 1; i <= 3; i++) { // in turn: never twice in a row, and so never recorded
        assert_ok(replay_run(r, "b", 1, launch_add, &b));
        assert_ok(replay_run(r, "a", 1, launch_add, &a));
    }
    assert_times(&a, 7);
    assert_times(&b, 3);
    assert_int_equal(b.launches, 3);
    replay_free(&r);
    assert_null(r);
    close_adding(&a);
    close_adding(&b);
}

static void a_sequence_runs_once_a_call_recorded_or_not(void **state)
{
    (void)state;
    on_every_device(check_counts);
}

// Many keys push out the first one.
static void check_many(struct device *dev)
{
    struct adding a = open_adding(dev);
    struct replay *r = replay_open(dev);
    int times = 0;
    for (int round = 0; round < 2; round++)
        for (int key = 0; key < 20; key++)
            for (int i = 0; i < 3; i++) {
                assert_ok(replay_run(r, &key, sizeof key, launch_add, &a));
                times++;
            }
    assert_times(&a, times);
    assert_int_equal(replay_count(r), dev->recorder ? 2 * 20 * 2 : 0);
    replay_free(&r);
    close_adding(&a);
}

static void sequences_that_no_place_is_left_for_are_recorded_again(void **state)
{
    (void)state;
    on_every_device(check_many);
}

static void check_failure(struct device *dev)
{
    struct adding a = open_adding(dev);
    struct replay *r = replay_open(dev);
    assert_ok(replay_run(r, "a", 1, launch_add, &a));
    a.rc = ERR_NUMERIC;
    assert_int_equal(replay_run(r, "a", 1, launch_add, &a), ERR_NUMERIC);
    assert_string_equal(err_message(), "as asked");
    a.rc = 0;
    const int before = dev->recorder ? 1 : 2; // what was recorded before it failed is dropped
    assert_times(&a, before);
    for (int i = 1; i <= 3; i++) {
        assert_ok(replay_run(r, "a", 1, launch_add, &a));
        assert_times(&a, before + i);
    }
    replay_free(&r);
    close_adding(&a);
}

static void a_failure_while_recording_is_returned_and_leaves_the_device_usable(void **state)
{
    (void)state;
    on_every_device(check_failure);
}

// ---- decoding

enum { SEQS = 3, STEPS = 12, FIRST = 60 }; // a page ends among the steps

// Prompts of FIRST tokens and then STEPS tokens, one a call: logits [STEPS,SEQS,V]. between: after
// half of them, another pass makes the device's own memory grow.
static float *decode_all(struct fixture *f, bool between)
{
    enum { PAGES = (FIRST + STEPS + KV_PAGE - 1) / KV_PAGE };
    const size_t row = (size_t)f->p->arch.V, bytes = SEQS * row * sizeof(float);
    float *logits = mem_floats(STEPS * SEQS * row), *there = device_new(f->dev, NULL, bytes);
    struct kv_cache *cache = NULL;
    int pages[SEQS][PAGES], tokens[SEQS * FIRST], rows[SEQS];
    struct policy_chunk chunks[SEQS];
    assert_ok(kv_cache_open(&cache, f->dev, &f->p->arch, f->p->dtype, SEQS * PAGES));
    for (int step = 0; step <= STEPS; step++) {
        const int len = step == 0 ? FIRST : 1, pos = step == 0 ? 0 : FIRST + step - 1;
        for (int i = 0; i < SEQS; i++) {
            for (int j = 0; j < PAGES; j++)
                pages[i][j] = j * SEQS + i;
            for (int t = 0; t < len; t++)
                tokens[i * len + t] = f->tokens[(7 * i + pos + t) % f->T];
            chunks[i] =
                (struct policy_chunk){.start = i * len, .len = len, .pos = pos, .pages = pages[i]};
            rows[i] = (i + 1) * len - 1;
        }
        assert_ok(policy_decode(f->p, cache, SEQS * len, tokens, SEQS, chunks, SEQS, rows, there));
        if (step > 0)
            device_get(f->dev, logits + (size_t)(step - 1) * SEQS * row, there, bytes);
        if (between && step == STEPS / 2) {
            const struct policy_batch b = pack_batch(&f->every);
            float *out = mem_floats((size_t)b.num_targets);
            assert_ok(policy_forward(f->p, &b, false, out, NULL));
            free(out);
        }
    }
    device_release(f->dev, there);
    kv_cache_free(&cache);
    return logits;
}

static void check_decoding(struct fixture *f)
{
    const size_t n = (size_t)STEPS * SEQS * f->p->arch.V;
    const struct device_recorder *recorder = f->dev->recorder;
    f->dev->recorder = NULL;
    float *launched = decode_all(f, false);
    assert_true(replay_count(f->p->acts->steps) == 0);
    f->dev->recorder = recorder;
    float *replayed = decode_all(f, false);
    const long replays = replay_count(f->p->acts->steps);
    float *interrupted = decode_all(f, true);
    assert_true(recorder ? replays >= STEPS / 2 : replays == 0);
    assert_same_bits("replayed logits", replayed, launched, n);
    assert_same_bits("logits with another pass between", interrupted, launched, n);
    free(launched);
    free(replayed);
    free(interrupted);
}

static void decoding_steps_that_are_replayed_have_the_bits_of_launched_ones(void **state)
{
    (void)state;
    on_every_model(check_decoding);
    on_every_model_as(DTYPE_BF16, check_decoding);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sequence_runs_once_a_call_recorded_or_not),
        cmocka_unit_test(sequences_that_no_place_is_left_for_are_recorded_again),
        cmocka_unit_test(a_failure_while_recording_is_returned_and_leaves_the_device_usable),
        cmocka_unit_test(decoding_steps_that_are_replayed_have_the_bits_of_launched_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
