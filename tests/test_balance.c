// SPDX-License-Identifier: Apache-2.0
// The sequence-wise balance loss: its gradient against finite differences in double, the golden
// models' values and gradients against automatic differentiation of the papers' equations
// (golden/balance), and what it must not depend on.
#include "tests/model_fixture.h"

#include "base/philox.h"
#include "kernels/block.h"
#include "policy/optimizer.h"

#define WEIGHT 0.25 // of a sequence: the mean over the fixture's four

// ---- one layer

enum { T = 23, E = 6, K = 2, SEQS = 5 };
static const struct attention_grad_seq seqs[SEQS] = {
    {.query = 0, .len = 9, .prefix = -1},
    {.query = 9, .len = 0, .prefix = -1},
    {.query = 9, .len = 4, .prefix = -1},
    {.query = 13, .len = 3, .prefix = 2},
    {.query = 16, .len = 7, .prefix = 2}}; // the last two continue the third

static void add_row(double *f, double *P, const double *logits, const int *experts,
                    enum moe_scoring scoring, int t, int n)
{
    double s[E], total = 0;
    for (int i = 0; i < E; i++) {
        const double z = logits[t * E + i];
        s[i] = scoring == MOE_SOFTMAX ? exp(z) : 1 / (1 + exp(-z));
        total += s[i];
    }
    for (int i = 0; i < E; i++) {
        P[i] += s[i] / total / n;
    }
    for (int k = 0; k < K; k++) {
        f[experts[t * K + k]] += (double)E / K / n;
    }
}

// sum_i f_i P_i of a sequence, as the papers write it; MOE_NO_SEQUENCE where there is none.
static double loss_of(const double *logits, const int *experts, enum moe_scoring scoring, int s)
{
    const struct attention_grad_seq *own = &seqs[s], *before = &seqs[own->prefix < 0 ? 1 : 2];
    const int n = before->len + own->len;
    double f[E] = {0}, P[E] = {0}, loss = 0;
    if (n == 0 || (s + 1 < SEQS && seqs[s + 1].prefix == s)) {
        return (double)MOE_NO_SEQUENCE;
    }
    for (int t = 0; t < n; t++) {
        const int row = t < before->len ? before->query + t : own->query + t - before->len;
        add_row(f, P, logits, experts, scoring, row, n);
    }
    for (int i = 0; i < E; i++) {
        loss += f[i] * P[i];
    }
    return loss;
}

static double loss_of_all(const double *logits, const int *experts, enum moe_scoring scoring)
{
    double sum = 0;
    for (int s = 0; s < SEQS; s++) {
        sum += fmax(0, loss_of(logits, experts, scoring, s));
    }
    return sum;
}

struct layer {
    double logits[T * E];
    float scores[T * E];
    int experts[T * K];
};

static void draw_layer(struct layer *x, enum moe_scoring scoring)
{
    struct philox_stream r = philox_stream(3, 14);
    for (int t = 0; t < T; t++) {
        double total = 0;
        for (int i = 0; i < E; i++) {
            x->logits[t * E + i] = philox_next_normal(&r);
            total += exp(x->logits[t * E + i]);
        }
        for (int i = 0; i < E; i++) {
            const double z = x->logits[t * E + i];
            x->scores[t * E + i] =
                (float)(scoring == MOE_SOFTMAX ? exp(z) / total : 1 / (1 + exp(-z)));
        }
        const int first = (int)philox_below(&r, E - 1);
        x->experts[t * K] = first;
        x->experts[t * K + 1] = first + 1 + (int)philox_below(&r, (uint32_t)(E - 1 - first));
    }
}

static void check_layer(struct device *dev, const struct layer *x, enum moe_scoring scoring)
{
    const float before[T * E] = {0};
    float loss[SEQS];
    float *scores = device_new(dev, x->scores, sizeof x->scores);
    int *experts = device_new(dev, x->experts, sizeof x->experts);
    float *dlogits = device_new(dev, before, sizeof before);
    float *losses = device_new(dev, NULL, sizeof loss);
    struct attention_grad_seq *q = device_new(dev, seqs, sizeof seqs);
    assert_ok(dev->k->moe_balance(dev, &(struct moe_balance_args){.scores = scores,
                                                                  .experts = experts,
                                                                  .seqs = q,
                                                                  .num_seqs = SEQS,
                                                                  .T = T,
                                                                  .E = E,
                                                                  .K = K,
                                                                  .scoring = scoring,
                                                                  .weight = 1,
                                                                  .loss = losses,
                                                                  .dlogits = dlogits}));
    float *grad = device_floats(dev, dlogits, T * E);
    device_get(dev, loss, losses, sizeof loss);
    double z[T * E];
    memcpy(z, x->logits, sizeof z);
    for (int s = 0; s < SEQS; s++) {
        assert_true(fabs((double)loss[s] - loss_of(z, x->experts, scoring, s)) < 1e-6);
    }
    for (int i = 0; i < T * E; i++) {
        // Differences of 1e-5 leave 1e-10 of curvature and 1e-11 of rounding; scores are float32.
        const double at = z[i];
        z[i] = at + 1e-5;
        double slope = loss_of_all(z, x->experts, scoring);
        z[i] = at - 1e-5;
        slope = (slope - loss_of_all(z, x->experts, scoring)) / 2e-5;
        z[i] = at;
        if (!(fabs((double)grad[i] - slope) < 2e-7)) {
            fail_msg("logit %d: %.9g, finite difference %.9g", i, (double)grad[i], slope);
        }
    }
    free(grad);
    device_release(dev, scores);
    device_release(dev, experts);
    device_release(dev, dlogits);
    device_release(dev, losses);
    device_release(dev, q);
}

static void gradient_is_the_slope_of_the_papers_loss(void **state)
{
    (void)state;
    int devices[TEST_DEVICES_MAX], n = test_devices(devices);
    for (int d = 0; d < n; d++) {
        struct device *dev = NULL;
        assert_ok(test_device_open(&dev, NULL, devices[d]));
        for (int scoring = MOE_SOFTMAX; scoring <= MOE_SIGMOID; scoring++) {
            struct layer x;
            draw_layer(&x, (enum moe_scoring)scoring);
            check_layer(dev, &x, (enum moe_scoring)scoring);
        }
        test_device_close(&dev);
    }
}

// ---- the model

// The gradient of the balance loss alone.
static void balance_pass(struct fixture *f, const struct pack *pack)
{
    const struct policy_batch b = pack_batch(pack);
    float *logprob = mem_floats((size_t)b.num_targets), *zero = mem_floats((size_t)b.num_targets);
    memset(zero, 0, (size_t)b.num_targets * sizeof *zero);
    assert_ok(policy_forward(f->p, &b, true, logprob, NULL));
    assert_ok(policy_backward(f->p, &b, zero, NULL));
    free(logprob);
    free(zero);
}

// Of one sequence of the fixture or (-1) of all packed.
static void balance_alone(struct fixture *f, int seq)
{
    struct pack alone = {0};
    if (seq >= 0) {
        const int *tokens = f->tokens + f->offsets[seq],
                  len = f->offsets[seq + 1] - f->offsets[seq];
        pack_completion(&alone, tokens, 1, tokens + 1, len - 1, 1);
    }
    balance_pass(f, seq >= 0 ? &alone : &f->next);
    pack_free(&alone);
}

static void begin(struct fixture *f, double weight)
{
    assert_ok(policy_train_begin(f->p));
    assert_ok(policy_grad_zero(f->p));
    policy_load_reset(f->p);
    f->p->balance_weight = weight;
}

static struct safetensors *open_golden(const char *name)
{
    struct strbuf path = {0};
    struct safetensors *golden = NULL;
    strbuf_printf(&path, "%s/balance/%s.safetensors", TEST_GOLDEN, name);
    assert_ok(safetensors_open(&golden, path.data, ERR_DATA));
    strbuf_free(&path);
    return golden;
}

static void check_model(struct fixture *f)
{
    struct safetensors *golden = open_golden(f->name);
    double sum = 0;
    int terms = 0;
    begin(f, WEIGHT);
    balance_alone(f, -1);
    for (int i = 0; i < golden->count; i++) {
        const struct tensor *t = &golden->tensors[i];
        const float *want = t->data;
        if (strncmp(t->name, "grad/", 5) != 0) {
            for (int s = 0; s < f->num_seqs; s++, terms++) {
                sum += (double)want[s];
            }
            continue;
        }
        const struct param *w = params_find(&f->p->params, "%s", t->name + 5);
        assert_non_null(w);
        float *grad = device_floats(f->dev, f->p->grad + w->offset, w->size);
        assert_gradient(t->name, grad, want, w->size);
        free(grad);
    }
    assert_int_equal(f->p->balance_terms, terms);
    assert_true(fabs(policy_balance_loss(f->p) - sum / terms) < 1e-5);
    policy_load_reset(f->p);
    assert_true(policy_balance_loss(f->p) == 0);
    safetensors_free(&golden);
}

static void values_and_gradients_are_those_of_torch(void **state)
{
    (void)state;
    int devices[TEST_DEVICES_MAX], n = test_devices(devices);
    for (int d = 0; d < n; d++) {
        for (int i = 1; i <= 2; i++) { // V2 with groups, V3
            struct fixture f = fixture_open(golden_models[i], devices[d], 2);
            check_model(&f);
            fixture_close(&f);
        }
    }
}

// Losses of the sequences each in a pass of its own are those of the packed batch, to the bit.
static void packing_and_threads_change_nothing(void **state)
{
    (void)state;
    int64_t sum = 0;
    float *grad = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        struct fixture f = fixture_open(golden_models[2], DEVICE_BEST, threads);
        const size_t n = f.p->params.size;
        begin(&f, WEIGHT);
        balance_alone(&f, -1);
        float *now = device_floats(f.dev, f.p->grad, n);
        if (grad) {
            assert_same_bits("gradient", now, grad, n);
            assert_true(f.p->balance_sum == sum);
            free(grad);
        }
        grad = now;
        sum = f.p->balance_sum;
        begin(&f, WEIGHT);
        for (int s = 0; s < f.num_seqs; s++) {
            balance_alone(&f, s);
        }
        assert_true(f.p->balance_sum == sum);
        now = device_floats(f.dev, f.p->grad, n);
        assert_gradient("gradient of four passes", now, grad, n);
        free(now);
        fixture_close(&f);
    }
    free(grad);
}

// Two completions of a prompt that is computed once are two whole sequences.
static void check_shared_prompt(struct fixture *f)
{
    const int *prompt = f->tokens + f->offsets[2], *tails[2] = {prompt + 20, prompt + 33};
    static const int lengths[2] = {13, 28};
    struct pack apart = {0}, shared = {0};
    pack_sequence(&shared, prompt, 20, NULL, 0);
    for (int i = 0; i < 2; i++) {
        pack_completion(&apart, prompt, 20, tails[i], lengths[i], 1);
        pack_shared(&shared, tails[i], lengths[i], 1);
    }
    begin(f, WEIGHT);
    balance_pass(f, &apart);
    const double loss = policy_balance_loss(f->p);
    const int64_t terms = f->p->balance_terms;
    float *grad = device_floats(f->dev, f->p->grad, f->p->params.size);
    begin(f, WEIGHT);
    balance_pass(f, &shared);
    float *now = device_floats(f->dev, f->p->grad, f->p->params.size);
    assert_int_equal(f->p->balance_terms, terms);
    assert_true(fabs(policy_balance_loss(f->p) - loss) < 1e-6); // sums in another order
    assert_gradient("gradient with a shared prompt", now, grad, f->p->params.size);
    free(grad);
    free(now);
    pack_free(&apart);
    pack_free(&shared);
}

static void a_shared_prompt_counts_in_every_completion(void **state)
{
    (void)state;
    int devices[TEST_DEVICES_MAX], n = test_devices(devices);
    for (int d = 0; d < n; d++) {
        struct fixture f = fixture_open(golden_models[2], devices[d], 2);
        check_shared_prompt(&f);
        fixture_close(&f);
    }
}

static void descending_it_balances_the_load(void **state)
{
    (void)state;
    const struct optimizer_settings settings = {
        .learning_rate = 3e-3, .adam_beta1 = 0.9, .adam_beta2 = 0.95, .adam_epsilon = 1e-8};
    for (int i = 1; i <= 2; i++) {
        struct fixture f = fixture_open(golden_models[i], DEVICE_BEST, 2);
        struct optimizer *o = NULL;
        double first[2] = {0}, last[2] = {0}, norm;
        assert_ok(policy_train_begin(f.p));
        assert_ok(optimizer_open(&o, f.p, &settings));
        for (int step = 0; step < 30; step++) {
            begin(&f, WEIGHT);
            balance_alone(&f, -1);
            double *now = step == 0 ? first : last;
            now[0] = policy_balance_loss(f.p);
            now[1] = policy_max_violation(f.p);
            assert_ok(optimizer_update(o, f.p, settings.learning_rate, &norm));
        }
        print_message("# %s: balance loss %.3f to %.3f, MaxVio %.2f to %.2f\n", f.name, first[0],
                      last[0], first[1], last[1]);
        assert_true(last[0] < first[0] - 0.05 && last[1] < first[1]);
        optimizer_free(&o);
        fixture_close(&f);
    }
}

static void no_weight_leaves_no_gradient(void **state)
{
    (void)state;
    struct fixture f = fixture_open(golden_models[1], DEVICE_BEST, 2);
    begin(&f, 0);
    balance_alone(&f, -1);
    float *grad = device_floats(f.dev, f.p->grad, f.p->params.size);
    for (size_t i = 0; i < f.p->params.size; i++) {
        assert_true(grad[i] == 0);
    }
    assert_true(f.p->balance_terms == 0);
    free(grad);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradient_is_the_slope_of_the_papers_loss),
        cmocka_unit_test(values_and_gradients_are_those_of_torch),
        cmocka_unit_test(packing_and_threads_change_nothing),
        cmocka_unit_test(a_shared_prompt_counts_in_every_completion),
        cmocka_unit_test(descending_it_balances_the_load),
        cmocka_unit_test(no_weight_leaves_no_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
