// SPDX-License-Identifier: Apache-2.0
// The engine of generation: the ends of samples, randomness, cancelling, pages and errors. That its
// samples are right is test_rollout_bits.c.
#include "rollout/batcher.h"
#include "rollout/batcher_draw.h"
#include "rollout/pages.h"
#include "tests/rollout_fixture.h"

#include <math.h>

static struct rollout_request simple_request(const int *prompt, int prompt_len, int n,
                                             int max_tokens)
{
    return (struct rollout_request){
        .prompt = prompt,
        .prompt_len = prompt_len,
        .n = n,
        .id = 1,
        .sampling = {.temperature = 1, .top_p = 1, .max_tokens = max_tokens}};
}

// ---- randomness

static void uniform_numbers_follow_every_part_of_their_key(void **state)
{
    (void)state;
    const double u[] = {
        batcher_uniform(1, 2, 3, 4), batcher_uniform(9, 2, 3, 4), batcher_uniform(1, 9, 3, 4),
        batcher_uniform(1, 2, 9, 4), batcher_uniform(1, 2, 3, 9), batcher_uniform(1, 2, 4, 3),
    };
    for (size_t i = 0; i < sizeof u / sizeof *u; i++) {
        assert_true(u[i] > 0 && u[i] < 1);
        for (size_t j = 0; j < i; j++)
            assert_true(u[i] != u[j]);
    }
    assert_true(u[0] == batcher_uniform(1, 2, 3, 4));
}

static void seed_step_id_and_sample_change_the_tokens(void **state)
{
    (void)state;
    struct model m = open_model(ARCH_DEEPSEEK_V3, DEVICE_FENCED, 1);
    const int prompt[] = {3, 14, 15};
    struct rollout_request q = simple_request(prompt, 3, 2, 20);
    struct record seen = {0};
    const struct rollout_sample *s = NULL;
    int count = 0;
    for (int variant = 0; variant < 4; variant++) {
        struct rollout_engine *e =
            open_engine(&m, &(struct rollout_options){.seed = variant == 1 ? 8 : 3});
        q.id = variant == 3 ? 9 : 1;
        assert_int_equal(rollout_run(&s, &count, e, variant == 2 ? 1 : 0, &q, 1, NULL, NULL), 0);
        record_add(&seen, s, count);
        rollout_free(&e);
    }
    for (int i = 0; i < seen.count; i++) {
        for (int j = 0; j < i; j++)
            assert_memory_not_equal(seen.samples[i].tokens, seen.samples[j].tokens,
                                    20 * sizeof(int));
    }
    record_free(&seen);
    close_model(&m);
}

// ---- the ends of samples

static void a_completion_ends_with_the_first_stop_token(void **state)
{
    (void)state;
    struct model m = open_model(ARCH_DEEPSEEK_V2, DEVICE_FENCED, 1);
    struct rollout_engine *e = open_engine(&m, &whole);
    const int prompt[] = {3, 14, 15};
    struct rollout_request q = simple_request(prompt, 3, 1, 40);
    struct record free_run = {0};
    int count = 0;
    record_add(&free_run, run(e, &q, 1, &count), 1);
    const struct rollout_sample *whole_text = free_run.samples;
    assert_int_equal(whole_text->len, 40);
    assert_int_equal(whole_text->finish, ROLLOUT_LENGTH);

    for (int at = 0; at < 40; at += 13) {
        const int stop[] = {VOCAB, whole_text->tokens[at]}; // the first is no token at all
        q.sampling.stop_tokens = stop;
        q.sampling.num_stop_tokens = 2;
        int first = 0;
        while (whole_text->tokens[first] != stop[1])
            first++;
        const struct rollout_sample *s = run(e, &q, 1, &count);
        assert_int_equal(s->finish, ROLLOUT_STOP);
        assert_int_equal(s->len, first + 1);
        assert_memory_equal(s->tokens, whole_text->tokens, (size_t)s->len * sizeof(int));
    }
    record_free(&free_run);
    rollout_free(&e);
    close_model(&m);
}

struct witness {
    int calls, cancel_at;
    char seen[NUM_REQUESTS][8];
};

static int on_sample(void *arg, const struct rollout_sample *s)
{
    struct witness *w = arg;
    w->seen[s->request][s->index]++;
    return ++w->calls == w->cancel_at ? err_set(ERR_INTERRUPTED, "enough") : 0;
}

static void every_sample_is_called_back_once(void **state)
{
    (void)state;
    struct mixture *mix = mem_alloc0(sizeof *mix);
    struct model m = open_model(ARCH_DEEPSEEK_V3, DEVICE_FENCED, 1);
    struct rollout_engine *e = open_engine(&m, &(struct rollout_options){.max_batch = 9});
    struct witness w = {0};
    const struct rollout_sample *s = NULL;
    int count = 0;
    make_mixture(mix);
    assert_int_equal(rollout_run(&s, &count, e, 0, mix->requests, NUM_REQUESTS, on_sample, &w), 0);
    assert_int_equal(w.calls, mix->total);
    for (int i = 0; i < count; i++)
        assert_int_equal(w.seen[s[i].request][s[i].index], 1);
    rollout_free(&e);
    close_model(&m);
    free(mix);
}

static void a_cancelled_run_gives_its_pages_back_and_the_engine_goes_on(void **state)
{
    (void)state;
    struct mixture *mix = mem_alloc0(sizeof *mix);
    struct model m = open_model(ARCH_DEEPSEEK_V3, DEVICE_FENCED, 1);
    make_mixture(mix);
    struct record alone = {0};
    run_alone(&alone, &m, mix);
    struct rollout_engine *e =
        open_engine(&m, &(struct rollout_options){.seed = 3, .max_batch = 9});
    for (int at = 1; at <= mix->total; at += 7) {
        struct witness w = {.cancel_at = at};
        const struct rollout_sample *s = NULL;
        struct rollout_stats stats;
        int count = -1;
        assert_int_equal(rollout_run(&s, &count, e, 11, mix->requests, NUM_REQUESTS, on_sample, &w),
                         ERR_INTERRUPTED);
        assert_int_equal(w.calls, at);
        assert_null(s);
        assert_int_equal(count, -1);
        rollout_get_stats(e, &stats);
        assert_int_equal(stats.held_pages, 0);
    }
    int count = 0;
    const struct rollout_sample *s = run(e, mix->requests, NUM_REQUESTS, &count);
    for (int i = 0; i < count; i++)
        assert_same_sample(&s[i], &alone.samples[i]);
    record_free(&alone);
    rollout_free(&e);
    close_model(&m);
    free(mix);
}

// ---- pages

static void pages_are_free_when_their_last_holder_leaves(void **state)
{
    (void)state;
    struct pages p;
    pages_open(&p, 3);
    const int a = pages_take(&p), b = pages_take(&p), c = pages_take(&p);
    assert_true(a != b && b != c && a != c);
    pages_hold(&p, b);
    pages_release(&p, b);
    assert_int_equal(pages_held(&p), 3);
    pages_release(&p, b);
    assert_int_equal(pages_held(&p), 2);
    assert_int_equal(pages_take(&p), b);
    pages_release(&p, a);
    pages_release(&p, b);
    pages_release(&p, c);
    assert_int_equal(pages_held(&p), 0);
    assert_int_equal(p.peak, 3);
    pages_close(&p);
}

static void named_pages_are_found_until_they_are_taken(void **state)
{
    (void)state;
    struct pages p;
    int tokens[3][KV_PAGE] = {{0}};
    tokens[1][KV_PAGE - 1] = 1; // differs in the last token
    pages_open(&p, 4);
    const int a = pages_take(&p), b = pages_take(&p), c = pages_take(&p);
    pages_name(&p, a, -1, tokens[0]);
    pages_name(&p, b, a, tokens[1]);
    pages_name(&p, c, a, tokens[0]);
    assert_int_equal(pages_find(&p, -1, tokens[0]), a);
    assert_int_equal(pages_find(&p, a, tokens[1]), b);
    assert_int_equal(pages_find(&p, a, tokens[0]), c); // the same tokens behind others
    assert_int_equal(pages_find(&p, -1, tokens[1]), -1);
    assert_int_equal(pages_find(&p, b, tokens[0]), -1);

    pages_release(&p, b);
    pages_release(&p, c);
    pages_release(&p, a);
    assert_int_equal(pages_held(&p), 0);
    assert_int_equal(pages_find(&p, a, tokens[1]), b); // free, with their names
    pages_hold(&p, a);
    pages_hold(&p, b);
    const int blank = pages_take(&p);
    assert_true(blank != a && blank != b && blank != c);
    assert_int_equal(pages_take(&p), c); // no blank one is left
    assert_int_equal(pages_find(&p, a, tokens[0]), -1);
    assert_int_equal(pages_find(&p, a, tokens[1]), b);
    assert_int_equal(p.peak, 4);
    pages_release(&p, b);
    pages_release(&p, a);
    pages_release(&p, blank);
    pages_release(&p, c);
    pages_forget(&p);
    assert_int_equal(pages_find(&p, -1, tokens[0]), -1);
    for (int i = 0; i < 4; i++)
        pages_take(&p);
    assert_int_equal(pages_held(&p), 4);
    pages_close(&p);
}

static void prompts_with_a_common_beginning_share_its_pages(void **state)
{
    (void)state;
    enum { LEN = 2 * KV_PAGE + 20, OTHERS = 5 };
    struct model m = open_model(ARCH_DEEPSEEK_V2, DEVICE_FENCED, 1);
    int prompt[OTHERS][LEN], count = 0;
    struct rollout_request q[OTHERS];
    struct rollout_stats stats;
    for (int r = 0; r < OTHERS; r++) {
        for (int i = 0; i < LEN; i++)
            prompt[r][i] = i < 2 * KV_PAGE ? i % VOCAB : r; // two pages in common
        q[r] = simple_request(prompt[r], LEN, 2, 10);
    }
    q[3].prompt_len = 2 * KV_PAGE; // whose last token is computed: one page in common
    q[3].n = 1;
    prompt[4][KV_PAGE + 3] = 96; // one page in common
    // At once, and one after the other: pages without holders are found as well.
    for (int batch = 16; batch > 0; batch -= 15) {
        const struct rollout_options options = {.max_batch = batch};
        struct rollout_engine *e = open_engine(&m, &options);
        run(e, q, OTHERS, &count);
        rollout_get_stats(e, &stats);
        assert_int_equal(stats.shared_tokens, (2 + 2 + 1 + 1) * KV_PAGE);
        assert_int_equal(stats.prompt_tokens, 4 * LEN + 2 * KV_PAGE - stats.shared_tokens);
        assert_true(stats.first_token_seconds > 0 && stats.max_violation > 0);
        assert_int_equal(stats.max_batch, batch == 1 ? 1 : 9);
        run(e, q, 1, &count); // in the next run nothing is left of this one
        rollout_get_stats(e, &stats);
        assert_int_equal(stats.shared_tokens, 0);
        rollout_free(&e);
    }
    close_model(&m);
}

static void samples_share_the_full_pages_of_their_prompt(void **state)
{
    (void)state;
    struct model m = open_model(ARCH_DEEPSEEK_V2, DEVICE_FENCED, 1);
    struct rollout_engine *e = open_engine(&m, &whole);
    int prompt[2 * KV_PAGE + 2], count = 0;
    for (int i = 0; i < 2 * KV_PAGE + 2; i++)
        prompt[i] = i % VOCAB;
    struct rollout_stats stats;
    struct rollout_request q = simple_request(prompt, 2 * KV_PAGE + 2, 4, 10);
    run(e, &q, 1, &count);
    rollout_get_stats(e, &stats);
    assert_int_equal(stats.peak_pages, 2 + 4); // two shared, and one with the rest for each
    assert_int_equal(stats.prompt_tokens, 2 * KV_PAGE + 2);
    assert_int_equal(stats.completion_tokens, 40);
    assert_true(stats.mean_batch == 4);

    q.prompt_len = 2 * KV_PAGE; // nothing to copy
    run(e, &q, 1, &count);
    rollout_get_stats(e, &stats);
    assert_int_equal(stats.peak_pages, 2 + 4);

    q.sampling.max_tokens = 1; // whose token is never computed with
    run(e, &q, 1, &count);
    rollout_get_stats(e, &stats);
    assert_int_equal(stats.peak_pages, 2);
    rollout_free(&e);
    close_model(&m);
}

// ---- errors

static void assert_refused(struct rollout_engine *e, const struct rollout_request *q, int code,
                           const char *words)
{
    const struct rollout_sample *s = NULL;
    int count = -1;
    assert_int_equal(rollout_run(&s, &count, e, 0, q, 1, NULL, NULL), code);
    assert_null(s);
    assert_int_equal(count, -1);
    if (!strstr(err_message(), words))
        fail_msg("\"%s\" does not say \"%s\"", err_message(), words);
    struct rollout_stats stats;
    rollout_get_stats(e, &stats);
    assert_int_equal(stats.held_pages, 0);
}

static void requests_that_cannot_run_are_refused_by_their_numbers(void **state)
{
    (void)state;
    struct model m = open_model(ARCH_DEEPSEEK_V2, DEVICE_FENCED, 1);
    struct rollout_engine *e =
        open_engine(&m, &(struct rollout_options){.cache_tokens = 2 * KV_PAGE});
    int prompt[POSITIONS] = {0}, count = 0;
    const struct rollout_request good = simple_request(prompt, 100, 2, 20);
    struct rollout_request q = good;
    q.sampling.max_tokens = POSITIONS - 99;
    assert_refused(e, &q, ERR_CONFIG, "100 prompt tokens and max_tokens 221");
    q.sampling.max_tokens = 30; // three pages, and a copy of the second
    assert_refused(e, &q, ERR_CONFIG, "need 4 cache pages of 64 tokens");
    q = good; // fits but for the copy
    assert_refused(e, &q, ERR_CONFIG, "need 3 cache pages");
    q.n = 1;
    run(e, &q, 1, &count);

    q = good;
    q.prompt_len = 0;
    assert_refused(e, &q, ERR_DATA, "no tokens");
    q = good;
    prompt[42] = VOCAB;
    assert_refused(e, &q, ERR_DATA, "prompt token 42 is 97, ids are 0 to 96");
    prompt[42] = -1;
    assert_refused(e, &q, ERR_DATA, "prompt token 42 is -1");
    prompt[42] = 0;
    q.n = 0;
    assert_refused(e, &q, ERR_CONFIG, "0 samples");
    q = good;
    q.sampling.max_tokens = 0;
    assert_refused(e, &q, ERR_CONFIG, "max_tokens is 0");
    q = good;
    q.sampling.temperature = (double)NAN;
    assert_refused(e, &q, ERR_CONFIG, "temperature is");
    q = good;
    q.sampling.top_p = 0;
    assert_refused(e, &q, ERR_CONFIG, "top_p 0");
    q = good;
    q.sampling.repetition_penalty = -1;
    assert_refused(e, &q, ERR_CONFIG, "repetition_penalty is -1");
    rollout_free(&e);

    struct rollout_engine *none = NULL;
    assert_int_equal(rollout_open(&none, m.policy, &(struct rollout_options){.max_batch = -1}),
                     ERR_CONFIG);
    assert_null(none);
    close_model(&m);
}

static void logits_that_are_not_finite_are_an_error(void **state)
{
    (void)state;
    struct model m = open_model(ARCH_DEEPSEEK_V2, DEVICE_FENCED, 1);
    const int prompt[] = {1, 2, 3};
    const float infinite = INFINITY;
    const struct rollout_request q = simple_request(prompt, 3, 3, 20);
    for (int i = 0; i < m.policy->params.count; i++) {
        const struct param *p = &m.policy->params.list[i];
        if (strcmp(p->name, "model.norm.weight") == 0)
            device_put(m.dev, m.policy->params.data + p->offset, &infinite, sizeof infinite);
    }
    assert_int_equal(policy_weights_changed(m.policy), 0);
    struct rollout_engine *e = open_engine(&m, &whole);
    assert_refused(e, &q, ERR_NUMERIC, "the log-probability is");
    rollout_free(&e);
    close_model(&m);
}

static void no_requests_give_no_samples(void **state)
{
    (void)state;
    struct model m = open_model(ARCH_DEEPSEEK_V2, DEVICE_FENCED, 1);
    struct rollout_engine *e = open_engine(&m, &whole);
    int count = -1;
    run(e, NULL, 0, &count);
    assert_int_equal(count, 0);
    rollout_free(&e);
    close_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_free_when_their_last_holder_leaves),
        cmocka_unit_test(uniform_numbers_follow_every_part_of_their_key),
        cmocka_unit_test(seed_step_id_and_sample_change_the_tokens),
        cmocka_unit_test(a_completion_ends_with_the_first_stop_token),
        cmocka_unit_test(every_sample_is_called_back_once),
        cmocka_unit_test(a_cancelled_run_gives_its_pages_back_and_the_engine_goes_on),
        cmocka_unit_test(named_pages_are_found_until_they_are_taken),
        cmocka_unit_test(prompts_with_a_common_beginning_share_its_pages),
        cmocka_unit_test(samples_share_the_full_pages_of_their_prompt),
        cmocka_unit_test(requests_that_cannot_run_are_refused_by_their_numbers),
        cmocka_unit_test(logits_that_are_not_finite_are_an_error),
        cmocka_unit_test(no_requests_give_no_samples),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
