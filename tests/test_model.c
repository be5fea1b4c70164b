// SPDX-License-Identifier: Apache-2.0
// The model against numbers of transformers (tests/golden/models), on every device of this machine.
#include "tests/model_fixture.h"

#include "kernels/block.h"
#include "policy/activations.h"

static void check_logits(struct fixture *f)
{
    struct policy_batch b = pack_batch(&f->every);
    size_t n = (size_t)f->T * f->p->arch.V;
    float *logits = mem_floats(n);
    assert_ok(policy_forward_logits(f->p, &b, logits));
    assert_close("logits", logits, golden_floats(f, "logits"), n, 1e-4);
    free(logits);
}

static void logits_match_transformers(void **state)
{
    (void)state;
    on_every_model(check_logits);
}

static void check_hidden(struct fixture *f)
{
    struct policy_batch b = pack_batch(&f->next);
    size_t n = (size_t)f->T * f->p->arch.C;
    const float *golden = golden_floats(f, "hidden_states");
    float *logprob = mem_floats((size_t)b.num_targets);
    assert_ok(policy_train_begin(f->p));
    assert_ok(policy_forward(f->p, &b, true, logprob, NULL));
    for (int l = 0; l <= f->p->arch.L; l++) {
        const struct policy_activations *acts = f->p->acts;
        float *x = device_floats(f->dev, l < f->p->arch.L ? acts->layer[l].x : acts->n_f32, n);
        assert_close("hidden state", x, golden + (size_t)l * n, n, 1e-4);
        free(x);
    }
    free(logprob);
}

static void hidden_states_match_transformers(void **state)
{
    (void)state;
    on_every_model(check_hidden);
}

static void check_logprobs(struct fixture *f)
{
    static const struct {
        float tau;
        const char *logprobs, *entropy;
    } cases[] = {{1.0f, "logprobs", "entropy"}, {0.7f, "logprobs_t0.7", "entropy_t0.7"}};
    size_t n = (size_t)f->next.num_targets;
    float *logprob = mem_floats(n), *entropy = mem_floats(n);
    for (int c = 0; c < 2; c++) {
        struct policy_batch b = pack_batch(&f->next);
        for (size_t i = 0; i < n; i++) {
            f->next.target_tau[i] = cases[c].tau;
        }
        assert_ok(policy_forward(f->p, &b, false, logprob, entropy));
        assert_close(cases[c].logprobs, logprob, golden_floats(f, cases[c].logprobs), n, 1e-4);
        assert_close(cases[c].entropy, entropy, golden_floats(f, cases[c].entropy), n, 1e-4);
    }
    assert_true(policy_max_violation(f->p) == 0); // load counts in training passes only
    free(logprob);
    free(entropy);
}

static void logprobs_and_entropy_match_transformers(void **state)
{
    (void)state;
    on_every_model(check_logprobs);
}

static void check_routing(struct fixture *f)
{
    const struct arch *a = &f->p->arch;
    struct policy_batch b = pack_batch(&f->next);
    float *logprob = mem_floats((size_t)b.num_targets);
    assert_ok(policy_train_begin(f->p));
    assert_ok(policy_forward(f->p, &b, true, logprob, NULL));
    for (int l = a->dense_layers; l < a->L; l++) {
        const struct layer_acts *acts = &f->p->acts->layer[l];
        char experts[32], weights[32];
        size_t n = (size_t)f->T * a->K;
        snprintf(experts, sizeof experts, "route.%d.experts", l);
        snprintf(weights, sizeof weights, "route.%d.weights", l);
        int *chosen = device_ints(f->dev, acts->experts, n);
        float *gates = device_floats(f->dev, acts->weights, n);
        assert_memory_equal(chosen, golden_ints(f, experts), n * sizeof(int));
        assert_close(weights, gates, golden_floats(f, weights), n, 1e-4);
        free(chosen);
        free(gates);
        int64_t routed = 0;
        for (int e = 0; e < a->E; e++) {
            routed += f->p->expert_load[(size_t)l * a->E + e];
        }
        assert_int_equal(routed, n);
    }
    free(logprob);
}

static void routing_is_that_of_transformers(void **state)
{
    (void)state;
    on_every_model(check_routing);
}

// Gradients of the mean negative log-probability of all targets.
static void backward_of_loss(struct policy *p, const struct policy_batch *b)
{
    size_t n = (size_t)b->num_targets;
    float *logprob = mem_floats(n), *dlogprob = mem_floats(n);
    for (size_t i = 0; i < n; i++) {
        dlogprob[i] = -1.0f / (float)n;
    }
    assert_ok(policy_train_begin(p));
    assert_ok(policy_forward(p, b, true, logprob, NULL));
    assert_ok(policy_backward(p, b, dlogprob, NULL));
    free(logprob);
    free(dlogprob);
}

static void check_gradients_of(struct fixture *f, const struct pack *pack)
{
    struct policy_batch b = pack_batch(pack);
    backward_of_loss(f->p, &b);
    float *grad = device_floats(f->dev, f->p->grad, f->p->params.size);
    int compared = 0, given = 0;
    for (int i = 0; i < f->golden->count; i++) {
        given += !strncmp(f->golden->tensors[i].name, "grad/", 5);
    }
    for (int i = 0; i < f->p->params.num_tensors; i++) {
        const struct param_tensor *t = &f->p->params.tensors[i];
        char name[128];
        snprintf(name, sizeof name, "grad/%s", t->name);
        if (t->trained) {
            assert_gradient(name, grad + t->offset, golden_floats(f, name), t->size);
            compared++;
        }
    }
    assert_int_equal(compared, given);
    free(grad);
}

static void check_gradients(struct fixture *f) { check_gradients_of(f, &f->next); }

static void every_gradient_matches_transformers(void **state)
{
    (void)state;
    on_every_model(check_gradients);
}

// Each sequence as a prompt and what continues it.
static void check_gradients_of_continued(struct fixture *f)
{
    struct pack cut = {0};
    for (int i = 0; i < f->num_seqs; i++) {
        const int *seq = f->tokens + f->offsets[i], len = f->offsets[i + 1] - f->offsets[i];
        const int prompt = len * (i + 1) / (f->num_seqs + 1);
        pack_completion(&cut, seq, 1, seq + 1, prompt - 1, 1);
        pack_shared(&cut, seq + prompt, len - prompt, 1);
    }
    assert_int_equal(cut.num_targets, f->next.num_targets);
    check_gradients_of(f, &cut);
    pack_free(&cut);
}

static void gradients_of_continued_sequences_match_transformers(void **state)
{
    (void)state;
    on_every_model(check_gradients_of_continued);
}

// Continues `prompt` tokens of the expected sequence, which it must become.
static void continue_greedily(struct fixture *f, const struct json *expected, int prompt)
{
    int tokens[64], n = 0, V = f->p->arch.V, pages[] = {1};
    int64_t id;
    for (const struct json *v = json_first(expected); v; v = json_next(v)) {
        assert_true(json_int(f->meta, v, 0, V - 1, &id));
        tokens[n++] = (int)id;
    }
    struct kv_cache *cache = NULL;
    float *logits = device_new(f->dev, NULL, (size_t)V * sizeof *logits);
    assert_ok(kv_cache_open(&cache, f->dev, &f->p->arch, f->p->dtype, 2));
    for (int pos = 0, len = prompt; pos < n - 1; pos += len, len = 1) {
        struct policy_chunk chunk = {.len = len, .pos = pos, .pages = pages};
        int last = len - 1;
        assert_ok(policy_decode(f->p, cache, len, tokens + pos, 1, &chunk, 1, &last, logits));
        float *host = device_floats(f->dev, logits, (size_t)V);
        assert_int_equal(top_token(host, V), tokens[pos + len]);
        free(host);
    }
    kv_cache_free(&cache);
    device_release(f->dev, logits);
}

static void check_greedy(struct fixture *f)
{
    const struct json *greedy = json_get(json_root(f->meta), "greedy");
    const struct json *prompt = json_first(json_get(greedy, "prompts"));
    const struct json *sequence = json_first(json_get(greedy, "sequences"));
    assert_int_equal(json_count(json_get(greedy, "sequences")), 3);
    for (; sequence; sequence = json_next(sequence), prompt = json_next(prompt)) {
        int64_t len;
        assert_true(json_int(f->meta, prompt, 1, 64, &len));
        continue_greedily(f, sequence, (int)len);
    }
}

static void greedy_continuations_match_transformers(void **state)
{
    (void)state;
    on_every_model(check_greedy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_match_transformers),
        cmocka_unit_test(hidden_states_match_transformers),
        cmocka_unit_test(logprobs_and_entropy_match_transformers),
        cmocka_unit_test(routing_is_that_of_transformers),
        cmocka_unit_test(every_gradient_matches_transformers),
        cmocka_unit_test(gradients_of_continued_sequences_match_transformers),
        cmocka_unit_test(greedy_continuations_match_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
