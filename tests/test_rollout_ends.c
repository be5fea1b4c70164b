// SPDX-License-Identifier: Apache-2.0
// What ends samples, and what changes their draws: stop strings across the borders of tokens,
// cancelled requests, the repetition penalty.
#include "base/error.h"
#include "policy/pack.h"
#include "policy/tokenizer.h"
#include "rollout/rollout.h"
#include "rollout/stop_strings.h"
#include "tests/rollout_fixture.h"

#include <math.h>

static struct rollout_request greedy(const int *prompt, int prompt_len, int n, int max_tokens)
{
    return (struct rollout_request){.prompt = prompt,
                                    .prompt_len = prompt_len,
                                    .n = n,
                                    .id = 1,
                                    .sampling = {.top_p = 1, .max_tokens = max_tokens}};
}

// ---- stop strings

// Where `string` first ends in the text, by looking everywhere; -1: it is not there.
static int first_end(const char *text, size_t len, const char *string)
{
    const size_t n = strlen(string);
    for (size_t end = n; end <= len; end++)
        if (memcmp(text + end - n, string, n) == 0)
            return (int)end;
    return -1;
}

static void strings_are_found_in_any_cutting_of_a_text(void **state)
{
    (void)state;
    static const char *const strings[] = {"aab", "abab", "b", "aaaa", "bbabb", "babba"};
    enum { COUNT = sizeof strings / sizeof *strings, TEXTS = 2000, LEN = 24 };
    struct philox_stream random = philox_stream(20261127, 1);
    for (int t = 0; t < TEXTS; t++) {
        struct arena arena = {0};
        struct stop_strings s;
        char text[LEN];
        int matched[COUNT] = {0}, found = -1, at = 0, expected = -1, nearest = LEN + 1;
        const int first = (int)philox_below(&random, COUNT);
        const int count = 1 + (int)philox_below(&random, (uint32_t)(COUNT - first));
        stop_strings_init(&s, &strings[first], count, &arena);
        for (int i = 0; i < LEN; i++)
            text[i] = philox_below(&random, 3) ? 'a' : 'b';
        for (int k = 0; k < count; k++) {
            const int end = first_end(text, LEN, strings[first + k]);
            if (end >= 0 && end < nearest) {
                nearest = end;
                expected = k;
            }
        }
        while (at < LEN && found < 0) {
            const int len = 1 + (int)philox_below(&random, (uint32_t)(LEN - at));
            found = stop_strings_push(&s, matched, &text[at], (size_t)len);
            at += len;
        }
        assert_int_equal(found, expected);
        assert_true(found < 0 || at >= nearest);
        arena_free(&arena);
    }
}

static struct tokenizer *open_tokenizer(void)
{
    struct tokenizer *t = NULL;
    assert_int_equal(
        tokenizer_open(&t, TEST_GOLDEN "/../../configs/data/quickstart.tokenizer.json"), 0);
    return t;
}

// The bytes of tokens, one after the other; ends[i]: where token i's do.
static struct strbuf bytes_of(const struct tokenizer *t, const struct rollout_sample *s, int *ends)
{
    struct strbuf text = {0};
    for (int i = 0; i < s->len; i++) {
        size_t len = 0;
        const char *bytes = tokenizer_token_bytes(t, s->tokens[i], &len);
        strbuf_append(&text, bytes ? bytes : "", len);
        ends[i] = (int)text.len;
    }
    return text;
}

static void a_completion_ends_with_the_token_that_completes_a_stop_string(void **state)
{
    (void)state;
    struct model m = open_model(ARCH_DEEPSEEK_V2, DEVICE_FENCED, 1);
    struct tokenizer *t = open_tokenizer();
    struct rollout_engine *e =
        open_engine(&m, &(struct rollout_options){.seed = 3, .tokenizer = t});
    const int prompt[] = {3, 14, 15};
    struct rollout_request q = greedy(prompt, 3, 1, 60);
    q.sampling.temperature = 1;
    struct record free_run = {0};
    int count = 0, ends[60], borders = 0;
    record_add(&free_run, run(e, &q, 1, &count), 1);
    const struct rollout_sample *all = free_run.samples;
    struct strbuf text = bytes_of(t, all, ends);
    for (int at = 1; at + 3 < (int)text.len; at += 5) {
        const char *strings[] = {"no such text", arena_strndup(&free_run.arena, text.data + at, 3)};
        q.sampling.stop_strings = strings;
        q.sampling.num_stop_strings = 2;
        const int end = first_end(text.data, text.len, strings[1]);
        int last = 0;
        while (ends[last] < end)
            last++;
        borders += last > 0 && ends[last - 1] > end - 3;
        const struct rollout_sample *s = run(e, &q, 1, &count);
        assert_int_equal(s->finish, ROLLOUT_STOP_STRING);
        assert_int_equal(s->stop_string, 1);
        assert_int_equal(s->len, last + 1);
        assert_memory_equal(s->tokens, all->tokens, (size_t)s->len * sizeof(int));
        assert_memory_equal(s->logprob, all->logprob, (size_t)s->len * sizeof(float));
    }
    assert_true(borders > 3); // strings over the borders of tokens
    strbuf_free(&text);
    record_free(&free_run);
    rollout_free(&e);
    tokenizer_free(&t);
    close_model(&m);
}

static void stop_strings_need_a_tokenizer_and_a_text(void **state)
{
    (void)state;
    struct model m = open_model(ARCH_DEEPSEEK_V2, DEVICE_FENCED, 1);
    struct tokenizer *t = open_tokenizer();
    const int prompt[] = {3};
    static const char *const strings[] = {"stop", ""};
    struct rollout_request q = greedy(prompt, 1, 1, 5);
    const struct rollout_sample *s = NULL;
    int count = 0;
    q.sampling.stop_strings = strings;
    for (int with = 0; with < 2; with++) {
        struct rollout_engine *e =
            open_engine(&m, &(struct rollout_options){.tokenizer = with ? t : NULL});
        q.sampling.num_stop_strings = 1 + with;
        assert_int_equal(rollout_run(&s, &count, e, 0, &q, 1, NULL, NULL), ERR_CONFIG);
        assert_non_null(
            strstr(err_message(), with ? "stop string 1 is empty" : "need a tokenizer"));
        rollout_free(&e);
    }
    tokenizer_free(&t);
    close_model(&m);
}

// ---- cancelled requests

struct canceller {
    struct rollout_engine *e;
    int calls, finished, every;
    bool cancelled[NUM_REQUESTS];
    char seen[NUM_REQUESTS][8];
};

// Cancels, after some samples that finished by themselves, the sample's request and the two behind
// it.
static int cancel_some(void *arg, const struct rollout_sample *s)
{
    struct canceller *c = arg;
    c->seen[s->request][s->index]++;
    c->calls++;
    if (s->finish == ROLLOUT_CANCELLED || ++c->finished % c->every != 0)
        return 0;
    for (int r = s->request; r < NUM_REQUESTS && r < s->request + 3; r++) {
        rollout_cancel(c->e, r);
        c->cancelled[r] = true;
    }
    return 0;
}

static void check_cancelled(const struct rollout_options *o, const struct model *m,
                            const struct mixture *mix, const struct record *alone, int every)
{
    struct rollout_engine *e = open_engine(m, o);
    struct canceller c = {.e = e, .every = every};
    const struct rollout_sample *s = NULL;
    int count = 0, cancelled = 0;
    assert_int_equal(rollout_run(&s, &count, e, 11, mix->requests, NUM_REQUESTS, cancel_some, &c),
                     0);
    assert_int_equal(count, mix->total);
    assert_int_equal(c.calls, mix->total);
    for (int i = 0; i < count; i++) {
        const struct rollout_sample *whole_one = &alone->samples[i];
        assert_int_equal(c.seen[s[i].request][s[i].index], 1);
        if (s[i].finish != ROLLOUT_CANCELLED) {
            assert_same_sample(&s[i], whole_one);
            continue;
        }
        cancelled++;
        assert_true(c.cancelled[s[i].request] && s[i].len < whole_one->len);
        if (s[i].len > 0)
            assert_memory_equal(s[i].tokens, whole_one->tokens, (size_t)s[i].len * sizeof(int));
    }
    assert_in_range(cancelled, 1, count - 5);
    struct rollout_stats stats;
    rollout_get_stats(e, &stats);
    assert_int_equal(stats.held_pages, 0);
    rollout_free(&e);
}

static void cancelled_requests_end_early_and_others_do_not_notice(void **state)
{
    (void)state;
    struct mixture *mix = mem_alloc0(sizeof *mix);
    struct model m = open_model(ARCH_DEEPSEEK_V3, DEVICE_FENCED, 1);
    struct record alone = {0};
    make_mixture(mix);
    run_alone(&alone, &m, mix);
    const struct rollout_options options[] = {
        {.seed = 3, .max_batch = 4, .prefill_tokens = 50},
        {.seed = 3, .max_batch = 9, .prefill_tokens = 100},
        {.seed = 3, .max_batch = 30, .prefill_tokens = 33},
        whole,
    };
    for (size_t o = 0; o < sizeof options / sizeof *options; o++)
        for (int every = 2; every < 12; every += 3)
            check_cancelled(&options[o], &m, mix, &alone, every);
    record_free(&alone);
    close_model(&m);
    free(mix);
}

// ---- the repetition penalty

// The likeliest token after the first `len` tokens, those among them penalised.
static int likeliest(const struct model *m, const int *tokens, int len, float penalty)
{
    struct pack pack = {0};
    float z[VOCAB];
    bool seen[VOCAB] = {0};
    int best = 0;
    pack_sequence(&pack, tokens, len, NULL, 0);
    pack_target(&pack, len - 1, 0, 1);
    const struct policy_batch b = pack_batch(&pack);
    assert_int_equal(policy_forward_logits(m->policy, &b, z), 0);
    for (int i = 0; i < len; i++)
        seen[tokens[i]] = true;
    for (int v = 0; v < VOCAB; v++) {
        if (seen[v])
            z[v] = z[v] > 0 ? z[v] / penalty : z[v] * penalty;
        best = z[v] > z[best] ? v : best;
    }
    pack_free(&pack);
    return best;
}

static void a_repetition_penalty_holds_for_prompt_and_completion(void **state)
{
    (void)state;
    enum { PROMPT = 5, NEW = 40 };
    struct model m = open_model(ARCH_DEEPSEEK_V2, DEVICE_FENCED, 1);
    struct rollout_engine *e = open_engine(&m, &whole);
    int text[PROMPT + NEW] = {3, 14, 15, 92, 65}, count = 0, changed = 0;
    struct rollout_request q[2] = {greedy(text, PROMPT, 2, NEW), greedy(text, PROMPT, 1, NEW)};
    q[0].sampling.repetition_penalty = 1.4;
    const struct rollout_sample *s = run(e, q, 2, &count);
    assert_int_equal(count, 3);
    assert_memory_equal(s[0].tokens, s[1].tokens, NEW * sizeof(int)); // both greedy
    for (int i = 0; i < NEW; i++) {
        text[PROMPT + i] = s[0].tokens[i];
        assert_int_equal(s[0].tokens[i], likeliest(&m, text, PROMPT + i, 1.4F));
        assert_true(s[0].truncated[i] && !s[2].truncated[i]);
        changed += s[0].tokens[i] != s[2].tokens[i];
    }
    assert_true(changed > 0);
    rollout_free(&e);
    close_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strings_are_found_in_any_cutting_of_a_text),
        cmocka_unit_test(a_completion_ends_with_the_token_that_completes_a_stop_string),
        cmocka_unit_test(stop_strings_need_a_tokenizer_and_a_text),
        cmocka_unit_test(cancelled_requests_end_early_and_others_do_not_notice),
        cmocka_unit_test(a_repetition_penalty_holds_for_prompt_and_completion),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
