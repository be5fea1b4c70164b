// SPDX-License-Identifier: Apache-2.0
// What a policy, its optimiser, its passes and a rollout are said to take of a device is what they
// allocate there, to the byte.
#include "tests/model_fixture.h"

#include "policy/memory.h"
#include "policy/optimizer.h"
#include "rollout/rollout.h"
#include "tests/fenced_device.h"

static const struct optimizer_settings settings = {.learning_rate = 1e-3,
                                                   .adam_beta1 = 0.9,
                                                   .adam_beta2 = 0.95,
                                                   .adam_epsilon = 1e-8,
                                                   .max_grad_norm = 1.0};

static size_t predicted(const struct fixture *f, const struct policy_use *use)
{
    struct policy_memory m;
    policy_memory(&m, f->dev, &f->p->arch, use);
    return policy_memory_total(&m);
}

static struct policy_pass pass_of(const struct fixture *f, const struct policy_batch *b, bool train)
{
    struct policy_pass pass = {
        .T = b->T, .num_targets = b->num_targets, .num_seqs = b->num_seqs, .train = train};
    for (int i = 0; i < f->num_seqs; i++) {
        const int len = f->offsets[i + 1] - f->offsets[i];
        pass.num_blocks += (len + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK;
    }
    return pass;
}

static int longest_of(const struct fixture *f)
{
    int longest = 0;
    for (int i = 0; i < f->num_seqs; i++) {
        const int len = f->offsets[i + 1] - f->offsets[i];
        longest = len > longest ? len : longest;
    }
    return longest;
}

static void run_pass(struct fixture *f, const struct policy_batch *b, bool train)
{
    float *logprob = mem_floats((size_t)b->num_targets), *d = mem_floats((size_t)b->num_targets);
    assert_ok(policy_forward(f->p, b, train, logprob, NULL));
    if (train)
        assert_ok(policy_backward(f->p, b, d, NULL));
    free(logprob);
    free(d);
}

// Every golden model in either type, on a device that counts.
static void on_every_fenced_model(void (*test)(struct fixture *f, enum dtype dtype))
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16};
    for (int i = 0; i < NUM_GOLDEN_MODELS; i++)
        for (int j = 0; j < 2; j++) {
            struct fixture f = fixture_open_as(types[j], golden_models[i], DEVICE_FENCED, 1);
            test(&f, types[j]);
            fixture_close(&f);
        }
}

static void check_inference(struct fixture *f, enum dtype dtype)
{
    const struct policy_batch b = pack_batch(&f->next);
    const struct policy_pass pass = pass_of(f, &b, false);
    struct policy_use use = {.dtype = dtype};
    assert_int_equal(fenced_bytes(f->dev), predicted(f, &use));
    run_pass(f, &b, false);
    use.passes = &pass;
    use.num_passes = 1;
    use.positions = longest_of(f);
    assert_int_equal(fenced_bytes(f->dev), predicted(f, &use));
}

static void inference_takes_what_is_said(void **state)
{
    (void)state;
    on_every_fenced_model(check_inference);
}

static void check_training_as(struct fixture *f, enum dtype dtype, bool recompute, bool reserved)
{
    const struct policy_batch b = pack_batch(&f->next);
    const struct policy_pass passes[2] = {pass_of(f, &b, false), pass_of(f, &b, true)};
    const struct policy_use use = {.dtype = dtype,
                                   .train = true,
                                   .recompute = recompute,
                                   .passes = passes,
                                   .num_passes = 2,
                                   .positions = longest_of(f)};
    const size_t before = fenced_bytes(f->dev);
    struct optimizer *o = NULL;
    double norm;
    f->p->recompute = recompute;
    if (reserved)
        assert_ok(policy_reserve(f->p, &use));
    assert_ok(policy_train_begin(f->p));
    assert_ok(optimizer_open(&o, f->p, &settings));
    assert_true(!reserved || fenced_bytes(f->dev) == predicted(f, &use));
    run_pass(f, &b, true);
    run_pass(f, &b, false);
    assert_ok(optimizer_update(o, f->p, 1e-3, &norm));
    assert_int_equal(fenced_bytes(f->dev), predicted(f, &use));
    optimizer_free(&o);
    assert_ok(policy_train_end(f->p));
    assert_int_equal(fenced_bytes(f->dev), before);
}

static void check_training(struct fixture *f, enum dtype dtype)
{
    for (int i = 0; i < 4; i++)
        check_training_as(f, dtype, (i & 1) != 0, (i & 2) != 0);
}

static void training_takes_what_is_said(void **state)
{
    (void)state;
    on_every_fenced_model(check_training);
}

// Shards whose gradients are put aside.
static void check_shards(struct fixture *f, enum dtype dtype)
{
    struct comm comm = {.size = 1};
    const struct parallel_settings several = {&comm, 8, 1};
    const struct policy_batch b = pack_batch(&f->next);
    const struct policy_pass pass = pass_of(f, &b, true);
    const struct policy_use use = {.dtype = dtype,
                                   .train = true,
                                   .passes = &pass,
                                   .num_passes = 1,
                                   .positions = longest_of(f),
                                   .several = &several};
    struct optimizer *o = NULL;
    assert_ok(parallel_open(f->p, &several));
    assert_ok(policy_train_begin(f->p));
    assert_ok(optimizer_open(&o, f->p, &settings));
    for (int shard = 0; shard < several.shards; shard++) {
        run_pass(f, &b, true);
        assert_ok(parallel_shard_done(f->p, shard));
    }
    assert_int_equal(fenced_bytes(f->dev), predicted(f, &use));
    optimizer_free(&o);
}

static void shards_take_what_is_said(void **state)
{
    (void)state;
    on_every_fenced_model(check_shards);
}

// Requests of several sizes, with a cache as large as they want or of a given size.
static void check_rollout_of(struct fixture *f, enum dtype dtype, const struct rollout_options *o,
                             int prompt_len, int n, int max_tokens)
{
    enum { REQUESTS = 3 };
    struct rollout_request q[REQUESTS];
    struct rollout_engine *engine = NULL;
    struct rollout_memory memory;
    const struct rollout_sample *samples;
    int count;
    for (int i = 0; i < REQUESTS; i++)
        q[i] = (struct rollout_request){
            .prompt = f->tokens,
            .prompt_len = prompt_len,
            .n = n,
            .id = (uint64_t)i,
            .sampling = {.temperature = 1, .top_p = 1, .max_tokens = max_tokens}};
    assert_ok(rollout_plan(&memory, f->dev, &f->p->arch, dtype, o, q, REQUESTS));
    const struct policy_use use = {
        .dtype = dtype, .passes = &memory.pass, .num_passes = 1, .positions = memory.positions};
    assert_ok(policy_reserve(f->p, &use));
    assert_int_equal(fenced_bytes(f->dev), predicted(f, &use));
    assert_ok(rollout_open(&engine, f->p, o));
    assert_ok(rollout_run(&samples, &count, engine, 0, q, REQUESTS, NULL, NULL));
    assert_int_equal(count, REQUESTS * n);
    assert_int_equal(fenced_bytes(f->dev), predicted(f, &use) + memory.cache + memory.sampling);
    rollout_free(&engine);
    assert_ok(policy_train_end(f->p)); // the passes' memory is given back
}

static void check_rollout(struct fixture *f, enum dtype dtype)
{
    const struct rollout_options roomy = {.max_batch = 4},
                                 tight = {.max_batch = 4, .cache_tokens = 256},
                                 pieces = {.max_batch = 64, .prefill_tokens = 16};
    check_rollout_of(f, dtype, &roomy, 20, 1, 9);
    check_rollout_of(f, dtype, &roomy, 20, 5, 60);
    check_rollout_of(f, dtype, &tight, 20, 5, 30);
    check_rollout_of(f, dtype, &pieces, 20, 4, 9);
}

static void rollouts_take_what_is_said(void **state)
{
    (void)state;
    on_every_fenced_model(check_rollout);
}

// A long model keeps one layer's activations, and each layer's input, instead of all.
static void recomputing_saves_activations(void **state)
{
    (void)state;
    struct fixture f = fixture_open("deepseek_v3_tiny", DEVICE_FENCED, 1);
    struct arch arch = f.p->arch;
    const struct policy_pass pass = {
        .T = 1000, .num_targets = 1000, .num_seqs = 10, .num_blocks = 20, .train = true};
    struct policy_use use = {.train = true, .passes = &pass, .num_passes = 1, .positions = 100};
    size_t bytes[2][2]; // [recompute][layers]
    for (int recompute = 0; recompute < 2; recompute++)
        for (int more = 0; more < 2; more++) {
            struct policy_memory m;
            arch.L = f.p->arch.L + more;
            use.recompute = recompute != 0;
            policy_memory(&m, f.dev, &arch, &use);
            bytes[recompute][more] = m.bytes[PART_ACTIVATIONS];
        }
    // A layer more: its input of C floats a token, and the ends of its experts' segments.
    const size_t input = 1000 * (size_t)arch.C * sizeof(float), segments = (size_t)arch.E * 4 + 64;
    assert_true(bytes[1][1] - bytes[1][0] >= input);
    assert_true(bytes[1][1] - bytes[1][0] <= input + segments + 64);
    assert_true(bytes[0][1] - bytes[0][0] > 4 * input);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inference_takes_what_is_said),
        cmocka_unit_test(training_takes_what_is_said),
        cmocka_unit_test(shards_take_what_is_said),
        cmocka_unit_test(rollouts_take_what_is_said),
        cmocka_unit_test(recomputing_saves_activations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
