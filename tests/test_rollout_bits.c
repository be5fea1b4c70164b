// SPDX-License-Identifier: Apache-2.0
// Promise 1: samples are functions of their own request alone, with the bits of policy_forward; and
// greedy texts are the reference implementation's.
#include "base/file.h"
#include "base/json.h"
#include "policy/pack.h"
#include "rollout/batcher.h"
#include "tests/golden_models.h"
#include "tests/rollout_fixture.h"

// ---- promise 1

// Batch limits, cache sizes down to the least that the mixture needs, and prompts in pieces.
// *shared: prompt tokens that were not computed because another prompt begins with them.
static void check_mixtures(const struct model *m, const struct mixture *mix,
                           const struct record *alone, int64_t *shared)
{
    int least = 0;
    for (int r = 0; r < NUM_REQUESTS; r++) {
        const int need = batcher_pages_one(&mix->requests[r]);
        least = need > least ? need : least;
    }
    const struct rollout_options options[] = {
        whole,
        {.seed = 3, .max_batch = 5, .cache_tokens = (int64_t)least * KV_PAGE, .prefill_tokens = 50},
        {.seed = 3, .max_batch = 16, .cache_tokens = 20 * KV_PAGE, .prefill_tokens = 333},
        {.seed = 3, .max_batch = 1, .prefill_tokens = 7},
    };
    for (size_t o = 0; o < sizeof options / sizeof *options; o++) {
        struct mixture mixed;
        int back[NUM_REQUESTS], count = 0, first[NUM_REQUESTS], sum = 0;
        shuffle(&mixed, mix, back, o);
        for (int r = 0; r < NUM_REQUESTS; r++) {
            first[r] = sum;
            sum += mix->requests[r].n;
        }
        struct rollout_engine *e = open_engine(m, &options[o]);
        const struct rollout_sample *s = run(e, mixed.requests, NUM_REQUESTS, &count);
        assert_int_equal(count, mix->total);
        struct rollout_stats stats;
        rollout_get_stats(e, &stats);
        *shared += stats.shared_tokens;
        for (int i = 0, k = 0; i < count; i++, k++) {
            if (i > 0 && s[i].request != s[i - 1].request)
                k = 0;
            assert_int_equal(s[i].index, k); // ordered by request and index
            assert_same_sample(&s[i], &alone->samples[first[back[s[i].request]] + k]);
        }
        rollout_free(&e);
    }
}

// Packs `seqs` samples to a forward pass; returns the tokens compared.
static int check_forward(const struct model *m, const struct mixture *mix,
                         const struct record *alone, int seqs)
{
    int tokens = 0, request = -1;
    for (int i = 0; i < alone->count;) {
        struct pack pack = {0};
        const int begin = i;
        const int before = request;
        for (; i < alone->count && i < begin + seqs; i++) {
            const struct rollout_sample *s = &alone->samples[i];
            request += s->index == 0; // recorded one request after the other
            const struct rollout_request *q = &mix->requests[request];
            pack_completion(&pack, q->prompt, q->prompt_len, s->tokens, s->len,
                            (float)q->sampling.temperature);
        }
        request = before;
        const struct policy_batch b = pack_batch(&pack);
        float *logprob = mem_floats((size_t)b.num_targets);
        float *entropy = mem_floats((size_t)b.num_targets);
        assert_int_equal(policy_forward(m->policy, &b, false, logprob, entropy), 0);
        int at = 0;
        for (int j = begin; j < i; j++) {
            const struct rollout_sample *s = &alone->samples[j];
            const size_t bytes = (size_t)s->len * sizeof(float);
            request += s->index == 0;
            assert_memory_equal(&logprob[at], s->logprob, bytes);
            assert_memory_equal(&entropy[at], s->entropy, bytes);
            at += s->len;
        }
        tokens += at;
        free(logprob);
        free(entropy);
        pack_free(&pack);
    }
    return tokens;
}

static void check_promise(enum dtype dtype, enum arch_kind kind, int device)
{
    struct mixture *mix = mem_alloc0(sizeof *mix);
    struct record alone = {0};
    int tokens = 0;
    int64_t shared = 0;
    make_mixture(mix);
    for (int threads = 1; threads <= 2; threads++) {
        struct model m = open_model_as(dtype, kind, device, threads);
        if (threads == 1)
            run_alone(&alone, &m, mix); // what the other runs and threads are held to
        check_mixtures(&m, mix, &alone, &shared);
        tokens = check_forward(&m, mix, &alone, 1);
        assert_int_equal(check_forward(&m, mix, &alone, 13), tokens);
        close_model(&m);
    }
    int stopped = 0;
    for (int i = 0; i < alone.count; i++)
        stopped += alone.samples[i].finish == ROLLOUT_STOP;
    print_message("# %s, %s, %s: %d samples, %d of them stopped, %d tokens; %lld shared\n",
                  arch_family_of(kind)->model_type, dtype == DTYPE_F32 ? "float32" : "bfloat16",
                  test_device_name(device), alone.count, stopped, tokens, (long long)shared);
    assert_true(shared > 0);
    assert_true(tokens > 1000);
    assert_in_range(stopped, 2, alone.count - 5);
    record_free(&alone);
    free(mix);
}

static void check_promises(enum arch_kind kind)
{
    int devices[TEST_DEVICES_MAX], n = test_devices(devices);
    for (int d = 0; d < n; d++) {
        check_promise(DTYPE_F32, kind, devices[d]);
        check_promise(DTYPE_BF16, kind, devices[d]);
    }
}

static void samples_depend_on_their_request_alone_and_have_the_bits_of_forward_v2(void **state)
{
    (void)state;
    check_promises(ARCH_DEEPSEEK_V2);
}

static void samples_depend_on_their_request_alone_and_have_the_bits_of_forward_v3(void **state)
{
    (void)state;
    check_promises(ARCH_DEEPSEEK_V3);
}

static void samples_depend_on_their_request_alone_and_have_the_bits_of_forward_grouped(void **state)
{
    (void)state;
    check_promises(ARCH_QWEN2);
    check_promises(ARCH_QWEN3_MOE);
}

// ---- greedy texts of the reference implementation

static char *golden_dir(const char *name)
{
    char *path = path_join(TEST_GOLDEN "/models", name);
    if (!dir_exists(path)) {
        free(path);
        path = path_join(TEST_DATA "/fixtures/models", name);
    }
    return path;
}

enum { MAX_GREEDY = 64 };

static int read_ints(int *out, const struct json_doc *doc, const struct json *array)
{
    int n = 0;
    for (const struct json *v = json_first(array); v; v = json_next(v)) {
        int64_t id = -1;
        assert_true(n < MAX_GREEDY && json_int(doc, v, 0, 1 << 20, &id));
        out[n++] = (int)id;
    }
    return n;
}

static void check_greedy(const char *dir)
{
    char *path = path_join(dir, "golden.json");
    struct json_doc *doc = NULL;
    assert_int_equal(json_parse_file(&doc, path, 0, ERR_DATA), 0);
    const struct json *greedy = json_get(json_root(doc), "greedy");
    int texts[3][MAX_GREEDY], lens[3], prompts[3], r = 0, count = 0;
    int64_t new_tokens = 0;
    assert_int_equal(read_ints(prompts, doc, json_get(greedy, "prompts")), 3);
    assert_true(json_int(doc, json_get(greedy, "new_tokens"), 1, MAX_GREEDY, &new_tokens));
    for (const struct json *v = json_first(json_get(greedy, "sequences")); v; v = json_next(v))
        lens[r] = read_ints(texts[r], doc, v), r++;
    assert_int_equal(r, 3);

    struct model m = {0};
    assert_int_equal(test_device_open(&m.dev, NULL, DEVICE_FENCED), 0);
    assert_int_equal(policy_open(&m.policy, m.dev, dir, DTYPE_F32, false), 0);
    struct rollout_request q[3];
    for (r = 0; r < 3; r++) {
        q[r] = (struct rollout_request){.prompt = texts[r], .prompt_len = prompts[r], .n = 2};
        q[r].sampling = (struct rollout_sampling){.top_p = 1, .max_tokens = (int)new_tokens};
    }
    struct rollout_engine *e = open_engine(&m, &whole);
    const struct rollout_sample *s = run(e, q, 3, &count);
    assert_int_equal(count, 6);
    for (int i = 0; i < count; i++) {
        r = s[i].request;
        assert_int_equal(s[i].len, lens[r] - prompts[r]);
        assert_memory_equal(s[i].tokens, &texts[r][prompts[r]], (size_t)s[i].len * sizeof(int));
    }
    rollout_free(&e);
    close_model(&m);
    json_free(&doc);
    free(path);
}

static void greedy_texts_are_those_of_transformers(void **state)
{
    (void)state;
    for (int i = 0; i < NUM_GOLDEN_MODELS; i++) {
        char *dir = golden_dir(golden_models[i]);
        const bool there = dir_exists(dir);
        if (there)
            check_greedy(dir);
        free(dir);
        if (!there) {
            print_message("# why: the models of the fixtures are not here\n");
            skip();
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_texts_are_those_of_transformers),
        cmocka_unit_test(samples_depend_on_their_request_alone_and_have_the_bits_of_forward_v2),
        cmocka_unit_test(samples_depend_on_their_request_alone_and_have_the_bits_of_forward_v3),
        cmocka_unit_test(
            samples_depend_on_their_request_alone_and_have_the_bits_of_forward_grouped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
