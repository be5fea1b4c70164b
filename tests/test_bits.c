// SPDX-License-Identifier: Apache-2.0
// A token's log-probability depends on the weights and the tokens before it alone: the same bits
// whatever batch, chunk, page or number of threads computed it, on each device; and gradients do
// not depend on the number of threads.
#include "tests/model_fixture.h"

#include "base/philox.h"
#include "kernels/block.h"

// A crowd of sequences, with lengths on both sides of the block and page size, over the vocabulary
// of the fixture.
enum { CROWD = 32, LENGTH_MAX = 150 };

struct crowd {
    int len[CROWD], start[CROWD], total;
    int *tokens;   // [total]
    float **alone; // [CROWD] logits [len,V] of the sequence run alone
};

static void run_alone(struct fixture *f, const int *tokens, int len, float *logits)
{
    struct pack pack = {0};
    pack_sequence(&pack, tokens, len, NULL, 0);
    for (int t = 0; t < len; t++) {
        pack_target(&pack, t, 0, 1);
    }
    struct policy_batch b = pack_batch(&pack);
    assert_ok(policy_forward_logits(f->p, &b, logits));
    pack_free(&pack);
}

static struct crowd crowd_open(struct fixture *f)
{
    static const int lengths[] = {LENGTH_MAX, 1, 64, 65, 128, 3, 17, 63};
    struct philox_stream r = philox_stream(11, 3);
    struct crowd c = {0};
    c.tokens = mem_alloc(CROWD * LENGTH_MAX * sizeof *c.tokens);
    c.alone = mem_array0(CROWD, sizeof *c.alone);
    for (int i = 0; i < CROWD; i++) {
        c.len[i] = i < 8 ? lengths[i] : 1 + (int)philox_below(&r, 40);
        c.start[i] = c.total;
        for (int t = 0; t < c.len[i]; t++) {
            c.tokens[c.total++] = (int)philox_below(&r, (uint32_t)f->p->arch.V);
        }
        c.alone[i] = mem_floats((size_t)c.len[i] * f->p->arch.V);
        run_alone(f, c.tokens + c.start[i], c.len[i], c.alone[i]);
    }
    return c;
}

static void crowd_close(struct crowd *c)
{
    for (int i = 0; i < CROWD; i++) {
        free(c->alone[i]);
    }
    free(c->alone);
    free(c->tokens);
}

// Runs a test on every model and device, in either type.
static void on_every_crowd_as(enum dtype dtype,
                              void (*test)(struct fixture *f, const struct crowd *c))
{
    int devices[TEST_DEVICES_MAX], n = test_devices(devices);
    for (int d = 0; d < n; d++) {
        for (int i = 0; i < NUM_GOLDEN_MODELS; i++) {
            struct fixture f = fixture_open_as(dtype, golden_models[i], devices[d], 2);
            struct crowd c = crowd_open(&f);
            test(&f, &c);
            crowd_close(&c);
            fixture_close(&f);
        }
    }
}

static void on_every_crowd(void (*test)(struct fixture *f, const struct crowd *c))
{
    on_every_crowd_as(DTYPE_F32, test);
    on_every_crowd_as(DTYPE_BF16, test);
}

static void check_packed(struct fixture *f, const struct crowd *c)
{
    struct pack pack = {0};
    size_t V = (size_t)f->p->arch.V;
    for (int n = 0; n < CROWD; n++) {
        int i = (n * 5 + 3) % CROWD; // another order than alone
        int row = pack_sequence(&pack, c->tokens + c->start[i], c->len[i], NULL, 0);
        for (int t = 0; t < c->len[i]; t++) {
            pack_target(&pack, row + t, 0, 1);
        }
    }
    struct policy_batch b = pack_batch(&pack);
    float *logits = mem_floats((size_t)b.T * V);
    assert_ok(policy_forward_logits(f->p, &b, logits));
    for (int n = 0; n < CROWD; n++) {
        int i = (n * 5 + 3) % CROWD;
        assert_same_bits("packed logits", logits + (size_t)b.seq_offsets[n] * V, c->alone[i],
                         (size_t)c->len[i] * V);
    }
    free(logits);
    pack_free(&pack);
}

static void a_sequence_alone_is_a_sequence_packed_with_31_others(void **state)
{
    (void)state;
    on_every_crowd(check_packed);
}

// policy_decode, with the logits on the host.
static void decode(struct fixture *f, struct kv_cache *cache, int T, const int *tokens,
                   int num_chunks, const struct policy_chunk *chunks, int num_rows, const int *rows,
                   float *logits)
{
    size_t bytes = (size_t)num_rows * f->p->arch.V * sizeof *logits;
    float *there = device_new(f->dev, NULL, bytes);
    assert_ok(policy_decode(f->p, cache, T, tokens, num_chunks, chunks, num_rows, rows, there));
    device_get(f->dev, logits, there, bytes);
    device_release(f->dev, there);
}

// All sequences through one cache, at most `step` tokens of each in a call; logits of every token.
static void check_cached(struct fixture *f, const struct crowd *c, int step, int num_seqs)
{
    enum { PAGES = (LENGTH_MAX + KV_PAGE - 1) / KV_PAGE };
    int V = f->p->arch.V, done[CROWD] = {0}, pages[CROWD][PAGES];
    int *tokens = mem_alloc((size_t)num_seqs * step * sizeof *tokens);
    int *rows = mem_alloc((size_t)num_seqs * step * sizeof *rows);
    float *logits = mem_floats((size_t)num_seqs * step * V);
    struct kv_cache *cache = NULL;
    assert_ok(kv_cache_open(&cache, f->dev, &f->p->arch, f->p->dtype, CROWD * PAGES));
    for (int i = 0; i < num_seqs; i++) {
        for (int j = 0; j < PAGES; j++) {
            pages[i][j] = (j * CROWD + i * 7) % (CROWD * PAGES); // scattered
        }
    }
    for (bool more = true; more;) {
        struct policy_chunk chunks[CROWD];
        int num_chunks = 0, T = 0, of[CROWD];
        for (int i = 0; i < num_seqs; i++) {
            int left = c->len[i] - done[i], n = left < step ? left : step;
            if (n > 0) {
                chunks[num_chunks] = (struct policy_chunk){T, n, done[i], pages[i]};
                of[num_chunks++] = i;
                memcpy(tokens + T, c->tokens + c->start[i] + done[i], (size_t)n * sizeof *tokens);
                T += n;
            }
        }
        for (int t = 0; t < T; t++) {
            rows[t] = t;
        }
        decode(f, cache, T, tokens, num_chunks, chunks, T, rows, logits);
        for (int n = 0; n < num_chunks; n++) {
            int i = of[n];
            assert_same_bits("cached logits", logits + (size_t)chunks[n].start * V,
                             c->alone[i] + (size_t)done[i] * V, (size_t)chunks[n].len * V);
            done[i] += chunks[n].len;
        }
        more = num_chunks > 0;
    }
    kv_cache_free(&cache);
    free(tokens);
    free(rows);
    free(logits);
}

static void check_token_by_token(struct fixture *f, const struct crowd *c)
{
    check_cached(f, c, 1, CROWD);
    check_cached(f, c, 1, 1);
}

static void packed_is_through_the_cache_token_by_token(void **state)
{
    (void)state;
    on_every_crowd(check_token_by_token);
}

static void check_chunks(struct fixture *f, const struct crowd *c)
{
    check_cached(f, c, 7, CROWD);
    check_cached(f, c, 64, 8);
    check_cached(f, c, 100, 3);
}

static void packed_is_through_the_cache_in_chunks(void **state)
{
    (void)state;
    on_every_crowd(check_chunks);
}

// Sequence 0 is a prompt of 100 tokens and 50 more; a sibling shares its first page and a copy of
// 36 rows of its second.
static void check_shared(struct fixture *f, const struct crowd *c)
{
    enum { PROMPT = 100, MORE = 50 };
    int V = f->p->arch.V, pages[2][3] = {{4, 1, 0}, {4, 3, 2}}, tokens[2 * MORE], rows[2 * MORE];
    const int *sequence = c->tokens + c->start[0];
    float *logits = mem_floats((size_t)PROMPT * V);
    struct kv_cache *cache = NULL;
    assert_ok(kv_cache_open(&cache, f->dev, &f->p->arch, f->p->dtype, 5));
    struct policy_chunk prompt = {.len = PROMPT, .pages = pages[0]};
    int last = PROMPT - 1;
    decode(f, cache, PROMPT, sequence, 1, &prompt, 1, &last, logits);
    assert_same_bits("prompt's logits", logits, c->alone[0] + (size_t)last * V, (size_t)V);
    assert_ok(kv_cache_copy_page(cache, pages[1][1], pages[0][1], PROMPT - KV_PAGE));
    for (int i = 0; i < 2 * MORE; i++) {
        tokens[i] = sequence[PROMPT + i % MORE];
        rows[i] = i;
    }
    struct policy_chunk both[] = {{0, MORE, PROMPT, pages[0]}, {MORE, MORE, PROMPT, pages[1]}};
    decode(f, cache, 2 * MORE, tokens, 2, both, 2 * MORE, rows, logits);
    for (int i = 0; i < 2; i++) {
        assert_same_bits("sibling's logits", logits + (size_t)i * MORE * V,
                         c->alone[0] + (size_t)PROMPT * V, (size_t)MORE * V);
    }
    kv_cache_free(&cache);
    free(logits);
}

static void siblings_over_shared_prompt_pages_have_the_bits_of_one_sequence(void **state)
{
    (void)state;
    on_every_crowd(check_shared);
}

// Tokens for rows of logits, all of host memory, and their statistics.
static void sample(struct fixture *f, const float *logits, const struct sample_row *rows, int n,
                   int *token, float *logprob, float *entropy)
{
    size_t B = (size_t)n, V = (size_t)f->p->arch.V;
    float *there = device_new(f->dev, logits, B * V * sizeof *logits);
    struct sample_row *rows_there = device_new(f->dev, rows, B * sizeof *rows);
    int *out = device_new(f->dev, NULL, 3 * B * sizeof *out);
    float *stats = (float *)(out + B);
    assert_ok(f->dev->k->sample(f->dev, &(struct sample_args){.logits = there,
                                                              .rows = rows_there,
                                                              .token = out,
                                                              .logprob = stats,
                                                              .entropy = stats + B,
                                                              .B = n,
                                                              .V = f->p->arch.V}));
    device_get(f->dev, token, out, B * sizeof *token);
    device_get(f->dev, logprob, stats, B * sizeof *logprob);
    device_get(f->dev, entropy, stats + B, B * sizeof *entropy);
    device_release(f->dev, there);
    device_release(f->dev, rows_there);
    device_release(f->dev, out);
}

// What a sampler computes from the logits of a decode is what the trainer's fused product computes.
static void check_sampled(struct fixture *f, const struct crowd *c)
{
    int len = c->len[0];
    struct pack pack = {0};
    struct sample_row *rows = mem_array0((size_t)len, sizeof *rows);
    int *token = mem_array0((size_t)len, sizeof *token);
    float *logprob = mem_floats((size_t)len), *entropy = mem_floats((size_t)len);
    float *trained = mem_floats((size_t)len), *trained_entropy = mem_floats((size_t)len);
    for (int t = 0; t < len; t++) {
        rows[t] = (struct sample_row){.temperature = 0.25f * (float)(t % 5), .top_p = 1, .u = 0.37};
    }
    sample(f, c->alone[0], rows, len, token, logprob, entropy);
    pack_sequence(&pack, c->tokens, len, NULL, 0);
    for (int t = 0; t < len; t++) {
        pack_target(&pack, t, token[t], rows[t].temperature);
    }
    struct policy_batch b = pack_batch(&pack);
    assert_ok(policy_train_begin(f->p));
    assert_ok(policy_forward(f->p, &b, true, trained, trained_entropy));
    assert_same_bits("sampled log-probability", logprob, trained, (size_t)len);
    assert_same_bits("sampled entropy", entropy, trained_entropy, (size_t)len);
    pack_free(&pack);
    free(rows);
    free(token);
    free(logprob);
    free(entropy);
    free(trained);
    free(trained_entropy);
}

static void sampled_log_probabilities_are_the_trainers(void **state)
{
    (void)state;
    on_every_crowd(check_sampled);
}

static void forward(struct fixture *f, const struct pack *pack, float *logprob, float *entropy)
{
    struct policy_batch b = pack_batch(pack);
    assert_ok(policy_forward(f->p, &b, false, logprob, entropy));
}

static void check_groups(struct fixture *f)
{
    struct groups x = groups_open(f->p->arch.V);
    const size_t n = (size_t)x.shared.num_targets;
    assert_int_equal(x.repeated.num_targets, n);
    assert_true(x.shared.T < x.repeated.T);
    float *results = mem_floats(4 * n);
    forward(f, &x.repeated, results, results + n);
    forward(f, &x.shared, results + 2 * n, results + 3 * n);
    assert_same_bits("a group's results", results + 2 * n, results, 2 * n);
    free(results);
    groups_close(&x);
}

static void a_group_packed_with_its_prompt_once_has_the_bits_of_its_samples(void **state)
{
    (void)state;
    on_every_model_as(DTYPE_F32, check_groups);
    on_every_model_as(DTYPE_BF16, check_groups);
}

struct outcome { // of forward and backward passes
    float *logprob, *entropy, *grad;
};

// One pass of the pack; its results to *logprob and *entropy, which move behind them.
static void train_pass(struct policy *p, const struct pack *pack, float **logprob, float **entropy)
{
    struct policy_batch b = pack_batch(pack);
    const size_t n = (size_t)b.num_targets;
    float *dlogprob = mem_floats(n), *dentropy = mem_floats(n);
    for (size_t i = 0; i < n; i++) {
        dlogprob[i] = (float)((int)i % 7 - 3) / (float)n;
        dentropy[i] = 0.01f / (float)n;
    }
    assert_ok(policy_forward(p, &b, true, *logprob, *entropy));
    assert_ok(policy_backward(p, &b, dlogprob, dentropy));
    *logprob += n;
    *entropy += n;
    free(dlogprob);
    free(dentropy);
}

// Over sequences alone, and over groups with a prompt.
static struct outcome forward_backward(enum dtype dtype, const char *model, int device, int threads,
                                       size_t *num_grads, size_t *num_targets)
{
    struct fixture f = fixture_open_as(dtype, model, device, threads);
    struct groups groups = groups_open(f.p->arch.V);
    const size_t n = (size_t)(f.next.num_targets + groups.shared.num_targets);
    struct outcome o = {mem_floats(n), mem_floats(n), NULL};
    float *logprob = o.logprob, *entropy = o.entropy;
    assert_ok(policy_train_begin(f.p));
    train_pass(f.p, &f.next, &logprob, &entropy);
    train_pass(f.p, &groups.shared, &logprob, &entropy);
    o.grad = device_floats(f.dev, f.p->grad, f.p->params.size);
    *num_grads = f.p->params.size;
    *num_targets = n;
    groups_close(&groups);
    fixture_close(&f);
    return o;
}

static void outcome_free(struct outcome *o)
{
    free(o->logprob);
    free(o->entropy);
    free(o->grad);
}

static void check_threads(enum dtype dtype, const char *model, int device)
{
    size_t grads, targets;
    struct outcome one = forward_backward(dtype, model, device, 1, &grads, &targets);
    for (int threads = 2; threads <= 3; threads++) {
        struct outcome many = forward_backward(dtype, model, device, threads, &grads, &targets);
        assert_same_bits("log-probability", many.logprob, one.logprob, targets);
        assert_same_bits("entropy", many.entropy, one.entropy, targets);
        assert_same_bits("gradient", many.grad, one.grad, grads);
        outcome_free(&many);
    }
    outcome_free(&one);
}

static void results_and_gradients_do_not_depend_on_threads(void **state)
{
    (void)state;
    int devices[TEST_DEVICES_MAX], n = test_devices(devices);
    for (int d = 0; d < n; d++) {
        for (int i = 0; i < NUM_GOLDEN_MODELS; i++) {
            check_threads(DTYPE_F32, golden_models[i], devices[d]);
            check_threads(DTYPE_BF16, golden_models[i], devices[d]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sequence_alone_is_a_sequence_packed_with_31_others),
        cmocka_unit_test(packed_is_through_the_cache_token_by_token),
        cmocka_unit_test(packed_is_through_the_cache_in_chunks),
        cmocka_unit_test(siblings_over_shared_prompt_pages_have_the_bits_of_one_sequence),
        cmocka_unit_test(sampled_log_probabilities_are_the_trainers),
        cmocka_unit_test(a_group_packed_with_its_prompt_once_has_the_bits_of_its_samples),
        cmocka_unit_test(results_and_gradients_do_not_depend_on_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
