// SPDX-License-Identifier: Apache-2.0
// Training by several ranks: the weights and moments after some updates have the bits of one rank's
// that cuts its batches into the same shards, with the experts of a layer in one place or divided
// among ranks; and ranks send each other what the formulas say.
#include "tests/model_fixture.h"

#include "policy/activations.h"
#include "policy/optimizer.h"
#include "policy/parallel.h"
#include "tests/ranks.h"

#include <sys/mman.h>

#define SHARDS  4
#define UPDATES 3

// Sequences of a shard, each a pass of its own, so that ranks have different numbers of passes;
// shard 2 has none.
static const int shard_begin[SHARDS + 1] = {0, 1, 3, 3, 4};

static const struct optimizer_settings settings = {.learning_rate = 1e-2,
                                                   .adam_beta1 = 0.9,
                                                   .adam_beta2 = 0.95,
                                                   .adam_epsilon = 1e-8,
                                                   .weight_decay = 0.1,
                                                   .max_grad_norm = 1.0};

struct outcome {
    size_t size; // of the parameter block
    int steps;   // of the optimiser
    double norm[UPDATES];
    float logprob[UPDATES];       // of the first target of the first sequence, of rank 0
    int64_t balance;              // sum of balance losses
    int64_t remote;               // rows that went to another rank's experts, once
    int64_t bytes[COMM_TRAFFICS]; // sent by all ranks
    int C;
    float block[3][1 << 20]; // weights, moments
};

struct job {
    const char *model;
    enum dtype dtype;
    int device, shards, group;
    struct outcome *out;
    bool recompute;
};

// A device whose memory is not the host's: a GPU, or its emulation, where there is one. Asked for
// by ranks only: CUDA does not survive a fork.
enum { OTHER_MEMORY = -1 };

static int device_of(const struct job *job)
{
    int devices[TEST_DEVICES_MAX];
    return job->device != OTHER_MEMORY ? job->device : devices[test_devices(devices) - 1];
}

// One sequence of the fixture, whose tokens change with the update.
static int train_sequence(struct fixture *f, int s, int update, float *first)
{
    const int len = f->offsets[s + 1] - f->offsets[s];
    struct pack pack = {0};
    int *tokens = mem_array0((size_t)len, sizeof *tokens);
    for (int t = 0; t < len; t++)
        tokens[t] = (f->tokens[f->offsets[s] + t] + update) % f->p->arch.V;
    pack_completion(&pack, tokens, 1, tokens + 1, len - 1, 1.0f);
    const struct policy_batch b = pack_batch(&pack);
    float *logprob = mem_array0((size_t)len, sizeof *logprob);
    float *d = mem_array0((size_t)len, sizeof *d);
    int rc = policy_forward(f->p, &b, true, logprob, NULL);
    *first = logprob[0];
    for (int t = 0; t < len - 1; t++)
        d[t] = -0.1f * (float)(t % 3);
    rc = rc ? rc : policy_backward(f->p, &b, d, NULL);
    pack_free(&pack);
    free(tokens);
    free(logprob);
    free(d);
    return rc;
}

// Rows of the last pass for experts that another rank of the group computes.
static int64_t remote_rows(const struct fixture *f, const struct comm *c, int group)
{
    const struct arch *a = &f->p->arch;
    const int own = a->E / group, first = c->rank % group * own;
    int64_t rows = 0;
    for (int l = a->dense_layers; l < a->L; l++) {
        int *segments = device_ints(f->dev, f->p->acts->layer[l].segments, (size_t)a->E + 1);
        for (int e = 0; e < a->E; e++)
            if (e < first || e >= first + own)
                rows += segments[e + 1] - segments[e];
        free(segments);
    }
    return rows;
}

static int train_shards(struct fixture *f, struct comm *c, const struct job *job, int update,
                        float *logprob, int64_t *remote)
{
    int first, faults = 0;
    const int own = parallel_own_shards(f->p, &first);
    CHECK(policy_grad_zero(f->p) == 0);
    for (int i = 0; i < own; i++) {
        // With one shard in all, it has the whole batch.
        const int shard = first + i, all = parallel_shards(f->p) == 1;
        const int end = all ? 4 : shard_begin[shard + 1];
        for (int s = all ? 0 : shard_begin[shard]; s < end; s++) {
            float value;
            CHECK(train_sequence(f, s, update, &value) == 0);
            *logprob = s == 0 ? value : *logprob;
            *remote += remote_rows(f, c, job->group);
        }
        CHECK(parallel_shard_done(f->p, i) == 0);
    }
    return faults;
}

static int rank_trains(struct comm *c, void *arg)
{
    const struct job *job = arg;
    struct outcome *out = job->out;
    struct fixture f = fixture_open_as(job->dtype, job->model, device_of(job), 1);
    struct optimizer *o = NULL, *whole = NULL;
    const struct parallel_settings parallel = {c, job->shards, job->group};
    int faults = 0;
    int64_t sums[COMM_TRAFFICS + 1] = {0};
    f.p->recompute = job->recompute;
    CHECK(parallel_open(f.p, &parallel) == 0 && policy_train_begin(f.p) == 0);
    f.p->balance_weight = 0.5;
    CHECK(optimizer_open(&o, f.p, &settings) == 0);
    memset(c->count.bytes, 0, sizeof c->count.bytes);
    for (int u = 0; u < UPDATES && faults == 0; u++) {
        float logprob = 0;
        double norm;
        faults += train_shards(&f, c, job, u, &logprob, &sums[COMM_TRAFFICS]);
        CHECK(optimizer_update(o, f.p, 1e-2, &norm) == 0);
        if (c->rank == 0) {
            out->norm[u] = norm;
            out->logprob[u] = logprob;
        }
    }
    memcpy(sums, c->count.bytes, sizeof c->count.bytes);
    CHECK(parallel_sum_load(f.p) == 0 && comm_sum_int64(c, sums, COMM_TRAFFICS + 1) == 0);
    CHECK(optimizer_gather(&whole, o, f.p) == 0);
    const struct optimizer *full = whole ? whole : o;
    if (c->rank == 0 && faults == 0) {
        const float *blocks[3] = {f.p->params.data, full->m, full->v};
        out->size = f.p->params.size;
        out->steps = full->step;
        out->balance = f.p->balance_sum;
        out->remote = sums[COMM_TRAFFICS];
        out->C = f.p->arch.C;
        memcpy(out->bytes, sums, sizeof out->bytes);
        for (int i = 0; i < 3; i++)
            device_get(f.dev, out->block[i], blocks[i], out->size * sizeof(float));
    }
    optimizer_free(&whole);
    optimizer_free(&o);
    fixture_close(&f);
    CHECK(comm_close(c, 0) == 0);
    return faults;
}

static struct outcome *new_outcome(void)
{
    struct outcome *out =
        mmap(NULL, sizeof *out, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(out != MAP_FAILED);
    return out;
}

static void run_job(struct job *job, int ranks)
{
    *job->out = (struct outcome){0};
    assert_int_equal(run_ranks(ranks, -1, rank_trains, job), 0);
    assert_true(job->out->size > 0 && job->out->size <= 1 << 20);
}

static void train(struct outcome *out, const char *model, enum dtype dtype, int device, int ranks,
                  int shards, int group)
{
    run_job(&(struct job){model, dtype, device, shards, group, out}, ranks);
}

static void assert_same_outcome(const struct outcome *a, const struct outcome *b)
{
    static const char *const names[3] = {"weight", "m", "v"};
    assert_int_equal(a->steps, b->steps);
    assert_true(a->balance == b->balance && a->balance > 0);
    assert_memory_equal(a->norm, b->norm, sizeof a->norm);
    assert_same_bits("log-probability", a->logprob, b->logprob, UPDATES);
    for (int i = 0; i < 3; i++)
        assert_same_bits(names[i], a->block[i], b->block[i], b->size);
}

static void ranks_and_groups_have_the_bits_of_one_rank(void **state)
{
    (void)state;
    static const struct {
        int ranks, group;
    } cases[] = {{2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}};
    struct outcome *one = new_outcome(), *several = new_outcome();
    for (int m = 0; m < NUM_GOLDEN_MODELS; m++) {
        train(one, golden_models[m], DTYPE_F32, DEVICE_BEST, 1, SHARDS, 1);
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            train(several, golden_models[m], DTYPE_F32, DEVICE_BEST, cases[i].ranks, SHARDS,
                  cases[i].group);
            assert_same_outcome(several, one);
        }
    }
    munmap(one, sizeof *one);
    munmap(several, sizeof *several);
}

static void bfloat16_has_the_same_bits(void **state)
{
    (void)state;
    struct outcome *one = new_outcome(), *several = new_outcome();
    train(one, "deepseek_v2_tiny", DTYPE_BF16, DEVICE_BEST, 1, SHARDS, 1);
    train(several, "deepseek_v2_tiny", DTYPE_BF16, DEVICE_BEST, 4, SHARDS, 2);
    assert_same_outcome(several, one);
    munmap(one, sizeof *one);
    munmap(several, sizeof *several);
}

// Rows go to their experts once more for each layer that is computed again.
static void recomputed_layers_have_the_same_bits(void **state)
{
    (void)state;
    struct outcome *one = new_outcome(), *several = new_outcome();
    train(one, "deepseek_v3_tiny", DTYPE_F32, DEVICE_BEST, 1, SHARDS, 1);
    for (int group = 1; group <= 4; group *= 2) {
        struct job job = {"deepseek_v3_tiny", DTYPE_F32, DEVICE_BEST, SHARDS, group, several, true};
        run_job(&job, 4);
        assert_same_outcome(several, one);
    }
    munmap(one, sizeof *one);
    munmap(several, sizeof *several);
}

// By way of the host, as a GPU without NCCL.
static void memory_that_is_not_the_hosts_has_the_same_bits(void **state)
{
    (void)state;
    struct outcome *one = new_outcome(), *several = new_outcome();
    train(one, "deepseek_v3_tiny", DTYPE_F32, OTHER_MEMORY, 1, SHARDS, 1);
    train(several, "deepseek_v3_tiny", DTYPE_F32, OTHER_MEMORY, 2, SHARDS, 2);
    assert_same_outcome(several, one);
    munmap(one, sizeof *one);
    munmap(several, sizeof *several);
}

// One shard against four: the same sums in another order. The gradients of the golden models are
// off by up to 1e-6 of their norm; AdamW's first steps are about lr = 1e-2 a weight whatever the
// gradient's size, so weights whose gradient is near 0 may go another way.
static void another_number_of_shards_differs_by_rounding(void **state)
{
    (void)state;
    struct outcome *one = new_outcome(), *four = new_outcome();
    train(one, "deepseek_v3_tiny", DTYPE_F32, DEVICE_BEST, 1, 1, 1);
    train(four, "deepseek_v3_tiny", DTYPE_F32, DEVICE_BEST, 1, SHARDS, 1);
    double difference = 0, length = 0;
    for (size_t i = 0; i < one->size; i++) {
        difference += pow((double)one->block[0][i] - (double)four->block[0][i], 2);
        length += pow((double)one->block[0][i], 2);
    }
    print_message("# weights differ by %.2g of their norm, the gradient's norm by %.2g\n",
                  sqrt(difference / length), fabs(one->norm[0] - four->norm[0]) / one->norm[0]);
    assert_true(sqrt(difference / length) < 1e-4);
    assert_true(fabs(one->norm[0] - four->norm[0]) < 1e-6 * one->norm[0]);
    assert_true(difference > 0); // else this compares a thing with itself
    munmap(one, sizeof *one);
    munmap(four, sizeof *four);
}

// With N ranks and P weights of b bytes an update sends (N - 1) P b of gradients and as many of
// weights; with experts in parallel each row that is computed elsewhere goes there and back in the
// forward pass, and its gradient in the backward pass: three times in the type of the policy, and
// back in float32.
static void ranks_send_what_the_formulas_say(void **state)
{
    (void)state;
    struct outcome *out = new_outcome();
    for (int ranks = 2; ranks <= 4; ranks *= 2) {
        train(out, "deepseek_v3_tiny", DTYPE_F32, DEVICE_BEST, ranks, SHARDS, 1);
        const int64_t block = (int64_t)out->size * 4 * UPDATES * (ranks - 1);
        assert_int_equal(out->bytes[COMM_GRADIENTS], block);
        assert_int_equal(out->bytes[COMM_WEIGHTS], block);
        assert_int_equal(out->bytes[COMM_EXPERTS], 0);
        train(out, "deepseek_v3_tiny", DTYPE_F32, DEVICE_BEST, ranks, SHARDS, 2);
        assert_true(out->remote > 0 && out->bytes[COMM_GRADIENTS] < block);
        assert_int_equal(out->bytes[COMM_WEIGHTS], block);
        assert_int_equal(out->bytes[COMM_EXPERTS], out->remote * out->C * (3 * 4 + 4));
    }
    train(out, "deepseek_v3_tiny", DTYPE_BF16, DEVICE_BEST, 2, SHARDS, 2);
    assert_int_equal(out->bytes[COMM_EXPERTS], out->remote * out->C * (3 * 2 + 4));
    munmap(out, sizeof *out);
}

// ---- ranges

static void ranges_divide_the_block(void **state)
{
    (void)state;
    struct fixture f = fixture_open("deepseek_v3_tiny", DEVICE_BEST, 1);
    static const int sizes[] = {1, 2, 3, 7, 64, 100};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t at = 0;
        struct comm c = {.size = sizes[i]};
        const struct parallel_settings parallel = {&c, sizes[i], 1};
        assert_ok(parallel_open(f.p, &parallel));
        for (c.rank = 0; c.rank < sizes[i]; c.rank++) {
            size_t begin, end;
            int first;
            parallel_range(f.p, c.rank, &begin, &end);
            const int blocks = parallel_own_blocks(f.p, &first);
            assert_true(begin == at && end >= begin && begin % 16 == 0);
            assert_true(parallel_block(f.p, first) == begin);
            assert_true(parallel_block(f.p, first + blocks) == end);
            assert_true(blocks <= PARALLEL_BLOCKS);
            at = end;
        }
        assert_true(at == f.p->params.size);
        parallel_free(&f.p->ranks);
    }
    fixture_close(&f);
}

static void what_does_not_divide_is_refused(void **state)
{
    (void)state;
    struct fixture f = fixture_open("deepseek_v3_tiny", DEVICE_BEST, 1);
    struct comm c = {.size = 3};
    assert_int_equal(parallel_open(f.p, &(struct parallel_settings){&c, 4, 1}), ERR_CONFIG);
    assert_non_null(strstr(err_message(), "4 shards"));
    assert_int_equal(parallel_open(f.p, &(struct parallel_settings){&c, 3, 2}), ERR_CONFIG);
    assert_non_null(strstr(err_message(), "groups of 2"));
    assert_int_equal(parallel_open(f.p, &(struct parallel_settings){&c, 3, 3}), ERR_CONFIG);
    assert_non_null(strstr(err_message(), "experts"));
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_and_groups_have_the_bits_of_one_rank),
        cmocka_unit_test(bfloat16_has_the_same_bits),
        cmocka_unit_test(recomputed_layers_have_the_same_bits),
        cmocka_unit_test(memory_that_is_not_the_hosts_has_the_same_bits),
        cmocka_unit_test(another_number_of_shards_differs_by_rounding),
        cmocka_unit_test(ranks_send_what_the_formulas_say),
        cmocka_unit_test(ranges_divide_the_block),
        cmocka_unit_test(what_does_not_divide_is_refused),
    };
    const struct CMUnitTest of_device[] = {
        cmocka_unit_test(memory_that_is_not_the_hosts_has_the_same_bits)};
    return getenv("TEST_DEVICES") ? cmocka_run_group_tests(of_device, NULL, NULL)
                                  : cmocka_run_group_tests(tests, NULL, NULL);
}
