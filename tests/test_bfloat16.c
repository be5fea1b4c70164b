// SPDX-License-Identifier: Apache-2.0
// A policy in bfloat16 beside the float32 numbers of transformers (tests/golden/models) and beside
// what PyTorch makes of the same weights in bfloat16 (logits_bf16), on every device.
#include "tests/model_fixture.h"

#include "policy/activations.h"

// Targets are all tokens but a sequence's first, by the fixture's pack `next`: row i's errors are
// of the log-probability of target i.
struct errors {
    size_t n;
    double *sorted; // [n] |log-probability - that of float32|
};

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const struct errors *e, double q)
{
    return e->sorted[(size_t)(q * (double)(e->n - 1))];
}

static struct errors errors_of(const float *logprob, const float *golden, size_t n)
{
    struct errors e = {n, mem_array0(n, sizeof *e.sorted)};
    for (size_t i = 0; i < n; i++) {
        e.sorted[i] = fabs((double)logprob[i] - (double)golden[i]);
    }
    qsort(e.sorted, n, sizeof *e.sorted, compare_doubles);
    return e;
}

static double row_logprob(const float *logits, int V, int token)
{
    double max = (double)logits[0], sum = 0;
    for (int v = 0; v < V; v++) {
        max = fmax(max, (double)logits[v]);
    }
    for (int v = 0; v < V; v++) {
        sum += exp((double)logits[v] - max);
    }
    return (double)logits[token] - max - log(sum);
}

// Share of the rows whose largest logit is at the same token.
static double agreement(const float *a, const float *b, int T, int V)
{
    int same = 0;
    for (int t = 0; t < T; t++) {
        same += top_token(a + (size_t)t * V, V) == top_token(b + (size_t)t * V, V);
    }
    return (double)same / T;
}

static void check_logits(struct fixture *f)
{
    const int V = f->p->arch.V;
    const size_t n = (size_t)f->next.num_targets;
    struct policy_batch every = pack_batch(&f->every), next = pack_batch(&f->next);
    float *logits = mem_floats((size_t)f->T * V), *logprob = mem_floats(n), *torch = mem_floats(n);
    const float *golden = golden_floats(f, "logits"),
                *torch_logits = golden_floats(f, "logits_bf16");
    assert_ok(policy_forward_logits(f->p, &every, logits));
    assert_ok(policy_forward(f->p, &next, false, logprob, NULL));
    for (size_t i = 0; i < n; i++) {
        const float *row = torch_logits + (size_t)next.target_row[i] * V;
        torch[i] = (float)row_logprob(row, V, next.target_token[i]);
    }
    struct errors ours = errors_of(logprob, golden_floats(f, "logprobs"), n);
    struct errors theirs = errors_of(torch, golden_floats(f, "logprobs"), n);
    const double top = agreement(logits, golden, f->T, V);
    const double torch_top = agreement(torch_logits, golden, f->T, V);
    print_message(
        "# %s, %s: log-probability off by %.2g at the median, %.2g at 90 %%, %.2g at most "
        "(PyTorch %.2g, %.2g, %.2g); top token agrees in %.1f %% (PyTorch %.1f %%)\n",
        f->name, f->dev->name, quantile(&ours, 0.5), quantile(&ours, 0.9), quantile(&ours, 1),
        quantile(&theirs, 0.5), quantile(&theirs, 0.9), quantile(&theirs, 1), 100 * top,
        100 * torch_top);
    assert_true(quantile(&ours, 0.5) <= quantile(&theirs, 0.5));
    assert_true(quantile(&ours, 0.9) <= quantile(&theirs, 0.9));
    assert_true(top >= 0.92); // PyTorch's least of the four models; chance decides near ties
    free(ours.sorted);
    free(theirs.sorted);
    free(logits);
    free(logprob);
    free(torch);
}

static void log_probabilities_are_at_least_as_near_as_those_of_pytorch(void **state)
{
    (void)state;
    on_every_model_as(DTYPE_BF16, check_logits);
}

// Choices of experts that float32 made as well; a token's are listed ascending.
static int same_choices(const int *a, const int *b, int K)
{
    int same = 0;
    for (int i = 0, j = 0; i < K && j < K;) {
        same += a[i] == b[j];
        const int step_a = a[i] <= b[j], step_b = b[j] <= a[i];
        i += step_a;
        j += step_b;
    }
    return same;
}

static void train_pass(struct fixture *f, float *dlogprob)
{
    struct policy_batch b = pack_batch(&f->next);
    const size_t n = (size_t)b.num_targets;
    float *logprob = mem_floats(n);
    for (size_t i = 0; i < n; i++) {
        dlogprob[i] = -1.0f / (float)n;
    }
    assert_ok(policy_train_begin(f->p));
    assert_ok(policy_forward(f->p, &b, true, logprob, NULL));
    free(logprob);
}

// Of 16 to 24 experts' scores the K-th and the next are often nearer than bfloat16 keeps inputs of
// the gate apart: a few in a hundred choices may flip, and no more.
static void check_routing(struct fixture *f)
{
    const struct arch *a = &f->p->arch;
    float *dlogprob = mem_floats((size_t)f->next.num_targets);
    train_pass(f, dlogprob);
    int same = 0, all = 0;
    for (int l = a->dense_layers; l < a->L; l++) {
        char name[32];
        const size_t n = (size_t)f->T * a->K;
        snprintf(name, sizeof name, "route.%d.experts", l);
        int *chosen = device_ints(f->dev, f->p->acts->layer[l].experts, n);
        for (int t = 0; t < f->T; t++) {
            same += same_choices(chosen + t * a->K, golden_ints(f, name) + t * a->K, a->K);
        }
        all += (int)n;
        free(chosen);
    }
    if (all > 0) {
        print_message("# %s, %s: %.2f %% of the choices of experts are those of float32\n", f->name,
                      f->dev->name, 100.0 * same / all);
    }
    assert_true(same >= 0.95 * all);
    free(dlogprob);
}

static void routing_is_nearly_that_of_float32(void **state)
{
    (void)state;
    on_every_model_as(DTYPE_BF16, check_routing);
}

// Distance of a tensor's gradient from that of float32, relative to its norm.
static double gradient_error(const struct fixture *f, const struct param_tensor *t,
                             const float *grad)
{
    char name[128];
    double difference = 0, norm = 0;
    snprintf(name, sizeof name, "grad/%s", t->name);
    const float *golden = golden_floats(f, name);
    for (size_t j = 0; j < t->size; j++) {
        difference += pow((double)grad[t->offset + j] - (double)golden[j], 2);
        norm += pow((double)golden[j], 2);
    }
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

// Some ten roundings of 2^-9 a layer leave a tensor's gradient 2 to 3 % off. Where a choice of
// experts flips, a token's row of everything after it moves too, and an expert has few tokens here:
// in the model where most flip (see above) the median is near 8 %.
static void check_gradient(struct fixture *f)
{
    struct policy_batch b = pack_batch(&f->next);
    float *dlogprob = mem_floats((size_t)b.num_targets);
    train_pass(f, dlogprob);
    assert_ok(policy_backward(f->p, &b, dlogprob, NULL));
    float *grad = device_floats(f->dev, f->p->grad, f->p->params.size);
    struct errors e = {0, mem_array0((size_t)f->p->params.num_tensors, sizeof *e.sorted)};
    for (int i = 0; i < f->p->params.num_tensors; i++) {
        const struct param_tensor *t = &f->p->params.tensors[i];
        if (t->trained) {
            e.sorted[e.n++] = gradient_error(f, t, grad);
        }
    }
    qsort(e.sorted, e.n, sizeof *e.sorted, compare_doubles);
    print_message("# %s, %s: gradients of tensors are off by %.2g of their norm at the median, "
                  "%.2g at 90 %%, %.2g at most\n",
                  f->name, f->dev->name, quantile(&e, 0.5), quantile(&e, 0.9), quantile(&e, 1));
    assert_true(quantile(&e, 0.5) <= 0.12);
    assert_true(quantile(&e, 0.9) <= 0.25);
    free(e.sorted);
    free(grad);
    free(dlogprob);
}

static void gradients_are_near_those_of_float32(void **state)
{
    (void)state;
    on_every_model_as(DTYPE_BF16, check_gradient);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_probabilities_are_at_least_as_near_as_those_of_pytorch),
        cmocka_unit_test(routing_is_nearly_that_of_float32),
        cmocka_unit_test(gradients_are_near_those_of_float32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
