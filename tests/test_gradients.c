// SPDX-License-Identifier: Apache-2.0
// Gradients of what the golden models do not have, against finite differences: the value head,
// entropy, a model without experts or without shared ones, rotation by halves, grouped-query
// attention with every bias and norm, a tied head, and sequences that continue one; of these, on
// the golden models, against sequences alone; and those of layers that are computed again.
#include "tests/model_fixture.h"

#include "base/philox.h"

enum { T = 40, NUM_TARGETS = 25 };

// A model of the smallest sizes at which nothing is degenerate, with weights large enough that no
// gradient is near zero.
static struct policy *small_model(struct device *dev, struct arch arch)
{
    struct policy *p = NULL;
    assert_ok(policy_create(&p, dev, &arch, DTYPE_F32, 5));
    float *weights = device_floats(dev, p->params.data, p->params.size);
    for (int i = 0; i < p->params.num_tensors; i++) {
        const struct param_tensor *t = &p->params.tensors[i];
        struct philox_stream r = philox_stream(9, (uint64_t)i);
        for (size_t j = 0; j < t->size; j++) {
            double z = philox_next_normal(&r);
            double value = t->rank == 2 ? z * 0.9 / sqrt(t->shape[1]) : 1 + 0.1 * z;
            weights[t->offset + j] = (float)value;
        }
    }
    device_put(dev, p->params.data, weights, p->params.size * sizeof *weights);
    free(weights);
    assert_ok(policy_weights_changed(p));
    assert_ok(policy_train_begin(p));
    return p;
}

static struct arch small_arch(void)
{
    return (struct arch){.kind = ARCH_DEEPSEEK_V3,
                         .V = 50,
                         .C = 24,
                         .L = 2,
                         .H = 2,
                         .R = 12,
                         .Dn = 6,
                         .Dr = 4,
                         .Dv = 5,
                         .dense_width = 20,
                         .dense_layers = 1,
                         .E = 4,
                         .K = 4, // all are chosen: no step of a difference changes the choice
                         .S = 1,
                         .F = 8,
                         .n_group = 1,
                         .topk_group = 1,
                         .scoring = MOE_SIGMOID,
                         .group_rank = MOE_GROUP_TOP2,
                         .route_bias = true,
                         .route_normalise = true,
                         .route_scale = 1.5,
                         .norm_eps = 1e-6,
                         .rope_theta = 100,
                         .init_range = 0.02,
                         .max_positions = 64,
                         .bos_id = 0,
                         .eos_id = 1,
                         .pad_id = -1};
}

struct problem {
    struct pack pack;
    struct policy_batch batch;
    bool values;
};

// Two sequences; shared: two that continue a prompt, whose last row is asked for the first token
// of either.
static struct problem problem_open_as(bool values, bool shared)
{
    struct problem q = {.values = values};
    struct philox_stream r = philox_stream(21, 4);
    int tokens[T];
    for (int t = 0; t < T; t++) {
        tokens[t] = (int)philox_below(&r, 50);
    }
    if (shared) {
        pack_sequence(&q.pack, tokens, 15, NULL, 0);
        pack_shared(&q.pack, tokens + 15, 14, 0.7f);
        pack_shared(&q.pack, tokens + 29, 11, 1.3f);
        assert_int_equal(q.pack.num_targets, NUM_TARGETS);
    } else {
        pack_sequence(&q.pack, tokens, 28, NULL, 0);
        pack_sequence(&q.pack, tokens + 28, T - 28, NULL, 0);
    }
    for (int i = 0; i < NUM_TARGETS && !shared; i++) {
        pack_target(&q.pack, i + i / 2, (int)philox_below(&r, 50), 0.5f + 0.1f * (float)(i % 7));
    }
    q.batch = pack_batch(&q.pack);
    return q;
}

static struct problem problem_open(bool values) { return problem_open_as(values, false); }

static double weight(int i) { return ((i * 7) % 11 - 4) / 10.0; }

// A loss that weighs log-probabilities and entropies, or values; also its gradient when asked.
static double loss(struct policy *p, const struct problem *q, bool backward)
{
    float a[NUM_TARGETS], b[NUM_TARGETS], da[NUM_TARGETS], db[NUM_TARGETS];
    double sum = 0;
    if (q->values) {
        assert_ok(policy_forward_values(p, &q->batch, backward, a));
    } else {
        assert_ok(policy_forward(p, &q->batch, backward, a, b));
    }
    for (int i = 0; i < NUM_TARGETS; i++) {
        da[i] = (float)weight(i);
        db[i] = (float)weight(i + 3);
        sum += weight(i) * (double)a[i] + (q->values ? 0 : weight(i + 3) * (double)b[i]);
    }
    if (backward) {
        assert_ok(q->values ? policy_backward_values(p, &q->batch, da)
                            : policy_backward(p, &q->batch, da, db));
    }
    return sum;
}

static void gradient(struct policy *p, const struct problem *q)
{
    assert_ok(policy_grad_zero(p));
    loss(p, q, true);
}

// The slope of the loss along a step of unit length in a tensor.
static double slope_along(struct policy *p, const struct problem *q, const struct param_tensor *t,
                          const float *grad, double norm)
{
    float *x = p->params.data + t->offset, *moved = mem_floats(t->size);
    float *saved = device_floats(p->dev, x, t->size);
    double both[2];
    for (int side = 0; side < 2; side++) {
        for (size_t j = 0; j < t->size; j++) {
            double step = (side ? 2e-3 : -2e-3) * (double)grad[j] / norm;
            moved[j] = (float)((double)saved[j] + step);
        }
        device_put(p->dev, x, moved, t->size * sizeof *x);
        assert_ok(policy_weights_changed(p));
        both[side] = loss(p, q, false);
    }
    device_put(p->dev, x, saved, t->size * sizeof *x);
    free(saved);
    free(moved);
    return (both[1] - both[0]) / 4e-3;
}

// Along the gradient of each tensor the loss rises by its norm. A wrong gradient of whatever kind
// rises less than it claims.
static void check_directions(struct policy *p, const struct problem *q)
{
    gradient(p, q);
    float *grad = device_floats(p->dev, p->grad, p->params.size);
    int checked = 0;
    for (int i = 0; i < p->params.num_tensors; i++) {
        const struct param_tensor *t = &p->params.tensors[i];
        double norm = 0;
        for (size_t j = 0; j < t->size; j++) {
            norm += pow((double)grad[t->offset + j], 2);
        }
        norm = sqrt(norm);
        if (norm > 0) { // float32 losses of about 100 carry 1e-5: 3e-3 of the slope, and steps are
                        // not infinitesimal
            double slope = slope_along(p, q, t, grad + t->offset, norm);
            if (!(fabs(slope - norm) <= 0.01 + 0.02 * norm)) {
                fail_msg("%s: gradient %.6g, finite difference %.6g", t->name, norm, slope);
            }
            checked++;
        } else {
            assert_true(!t->trained || q->values); // the unused head of a value loss
        }
    }
    assert_true(checked > 15);
    free(grad);
    assert_ok(policy_weights_changed(p));
}

static void check_arch_as(struct arch arch, bool values, bool shared)
{
    int devices[TEST_DEVICES_MAX], n = test_devices(devices);
    struct problem q = problem_open_as(values, shared);
    for (int d = 0; d < n; d++) {
        struct device *dev = NULL;
        assert_ok(test_device_open(&dev, NULL, devices[d]));
        struct policy *p = small_model(dev, arch);
        check_directions(p, &q);
        policy_free(&p);
        test_device_close(&dev);
    }
    pack_free(&q.pack);
}

static void check_arch(struct arch arch, bool values) { check_arch_as(arch, values, false); }

static void log_probability_and_entropy(void **state)
{
    (void)state;
    check_arch(small_arch(), false);
}

static void value_head(void **state)
{
    (void)state;
    struct arch arch = small_arch();
    arch.value_head = true;
    check_arch(arch, true);
}

static void model_without_experts(void **state)
{
    (void)state;
    struct arch arch = small_arch();
    arch.dense_layers = arch.L;
    arch.E = arch.K = arch.S = arch.F = 0;
    check_arch(arch, false);
}

static void mixture_without_shared_experts_and_rotation_by_halves(void **state)
{
    (void)state;
    struct arch arch = small_arch();
    arch.S = 0;
    arch.dense_layers = 0;
    arch.rope_halves = true;
    arch.Rq = 10;
    check_arch(arch, false);
}

// Heads wider than C/H, in groups, with every bias and norm.
static void grouped_query_attention(void **state)
{
    (void)state;
    struct arch arch = small_arch();
    arch.kind = ARCH_QWEN3_MOE;
    arch.R = arch.Dn = 0;
    arch.Dr = arch.Dv = 10;
    arch.H = 4;
    arch.Hkv = 2;
    arch.qkv_bias = arch.o_bias = arch.qk_norm = arch.rope_halves = true;
    arch.scoring = MOE_SOFTMAX;
    arch.route_bias = false;
    arch.S = 0;
    check_arch(arch, false);
    arch.qk_norm = arch.o_bias = false;
    arch.value_head = true;
    check_arch(arch, true);
}

static void tied_head(void **state)
{
    (void)state;
    struct arch arch = small_arch();
    arch.tied = true;
    check_arch(arch, false);
}

static void sequences_after_a_prompt(void **state)
{
    (void)state;
    check_arch_as(small_arch(), false, true);
}

static float *gradient_of(struct fixture *f, const struct pack *pack)
{
    struct policy_batch b = pack_batch(pack);
    const size_t n = (size_t)b.num_targets;
    float *logprob = mem_floats(n), *d = mem_floats(n);
    for (size_t i = 0; i < n; i++) {
        d[i] = (float)weight((int)i) / (float)n;
    }
    assert_ok(policy_grad_zero(f->p));
    assert_ok(policy_forward(f->p, &b, true, logprob, NULL));
    assert_ok(policy_backward(f->p, &b, d, NULL));
    free(logprob);
    free(d);
    return device_floats(f->dev, f->p->grad, f->p->params.size);
}

// What a prompt's tokens get from its samples is summed before they go on, not after.
static void check_groups(struct fixture *f, double tolerance)
{
    double worst = 0;
    assert_ok(policy_train_begin(f->p));
    struct groups x = groups_open(f->p->arch.V);
    float *repeated = gradient_of(f, &x.repeated), *shared = gradient_of(f, &x.shared);
    for (int i = 0; i < f->p->params.num_tensors; i++) {
        const struct param_tensor *t = &f->p->params.tensors[i];
        double difference = 0, norm = 0;
        for (size_t j = t->offset; j < t->offset + t->size; j++) {
            difference += pow((double)shared[j] - (double)repeated[j], 2);
            norm += pow((double)repeated[j], 2);
        }
        worst = fmax(worst, norm > 0 ? sqrt(difference / norm) : difference);
        if (!(difference <= tolerance * tolerance * norm)) {
            fail_msg("%s, %s: off by %.3g of its norm", f->name, t->name, sqrt(difference / norm));
        }
    }
    free(repeated);
    free(shared);
    groups_close(&x);
    print_message("# %s, %s: gradients of tensors differ by at most %.2g of their norm\n", f->name,
                  f->dev->name, worst);
}

// Of the same terms: float32 rounds their sums. A bfloat16 policy rounds rows before it multiplies
// them, a prompt's sum over samples once and not each of its terms: 2^-9 of every element, in each
// layer that the gradient came through. Models of either attention.
static void a_group_has_the_gradient_of_its_samples(void **state)
{
    (void)state;
    static const char *const models[] = {"deepseek_v2_tiny", "qwen3_moe_tiny"};
    int devices[TEST_DEVICES_MAX], n = test_devices(devices);
    for (int d = 0; d < n; d++) {
        for (int i = 0; i < 4; i++) {
            const enum dtype dtype = i % 2 ? DTYPE_BF16 : DTYPE_F32;
            struct fixture f = fixture_open_as(dtype, models[i / 2], devices[d], 2);
            check_groups(&f, dtype == DTYPE_BF16 ? 1e-2 : 1e-5);
            fixture_close(&f);
        }
    }
}

// The gradient of a tied matrix is the sum of what its two uses would have alone.
static void check_tied_gradient(struct device *dev)
{
    struct problem q = problem_open(false);
    struct arch arch = small_arch();
    struct policy *untied = small_model(dev, arch);
    arch.tied = true;
    struct policy *tied = small_model(dev, arch);
    for (int i = 0; i < untied->params.count; i++) {
        const struct param *to = &untied->params.list[i];
        bool head = !strcmp(to->name, "lm_head.weight");
        const struct param *from =
            params_find(&tied->params, "%s", head ? "model.embed_tokens.weight" : to->name);
        assert_ok(dev->memory->copy(dev, untied->params.data + to->offset,
                                    tied->params.data + from->offset, to->size * sizeof(float)));
    }
    assert_ok(policy_weights_changed(untied));
    assert_true(loss(untied, &q, true) == loss(tied, &q, true));
    const struct param *embed = params_find(&untied->params, "model.embed_tokens.weight");
    const struct param *head = params_find(&untied->params, "lm_head.weight");
    float *both = device_floats(dev, tied->grad + embed->offset, embed->size);
    float *sum = device_floats(dev, untied->grad + embed->offset, embed->size);
    float *of_head = device_floats(dev, untied->grad + head->offset, head->size);
    for (size_t i = 0; i < embed->size; i++) {
        sum[i] += of_head[i];
    }
    assert_gradient("tied gradient", both, sum, embed->size);
    free(both);
    free(sum);
    free(of_head);
    policy_free(&tied);
    policy_free(&untied);
    pack_free(&q.pack);
}

static void tied_gradient_is_the_sum_of_both_uses(void **state)
{
    (void)state;
    int devices[TEST_DEVICES_MAX], n = test_devices(devices);
    for (int d = 0; d < n; d++) {
        struct device *dev = NULL;
        assert_ok(test_device_open(&dev, NULL, devices[d]));
        check_tied_gradient(dev);
        test_device_close(&dev);
    }
}

// A pass adds to what those before it left, but to the first after policy_grad_zero nothing is
// left.
static void check_passes_add(struct device *dev, bool values)
{
    struct problem q = problem_open(values);
    struct arch arch = small_arch();
    arch.value_head = values;
    struct policy *p = small_model(dev, arch);
    const size_t n = p->params.size;
    loss(p, &q, true);
    float *first = device_floats(dev, p->grad, n);
    loss(p, &q, true);
    float *second = device_floats(dev, p->grad, n);
    gradient(p, &q);
    float *again = device_floats(dev, p->grad, n);
    assert_memory_equal(first, again, n * sizeof *first);
    for (size_t i = 0; i < n; i++) {
        first[i] *= 2;
    }
    assert_gradient("gradient of two passes", second, first, n);
    free(first);
    free(second);
    free(again);
    policy_free(&p);
    pack_free(&q.pack);
}

static void passes_add(void **state)
{
    (void)state;
    int devices[TEST_DEVICES_MAX], n = test_devices(devices);
    for (int d = 0; d < n; d++) {
        struct device *dev = NULL;
        assert_ok(test_device_open(&dev, NULL, devices[d]));
        check_passes_add(dev, false);
        check_passes_add(dev, true);
        test_device_close(&dev);
    }
}

// A policy that computes its layers again in the backward pass finds them as they were: results and
// gradients have the bits of one that kept them, a second pass too, which adds.
static void check_recomputed(struct fixture *f)
{
    const struct policy_batch b = pack_batch(&f->next);
    const size_t targets = (size_t)b.num_targets, n = f->p->params.size;
    float *d = mem_floats(targets), *grad[2], *results[2];
    for (size_t i = 0; i < targets; i++) {
        d[i] = (float)weight((int)i);
    }
    assert_ok(policy_train_begin(f->p));
    for (int recompute = 0; recompute < 2; recompute++) {
        float *logprob = results[recompute] = mem_floats(2 * targets), *entropy = logprob + targets;
        f->p->recompute = recompute;
        assert_ok(policy_grad_zero(f->p));
        for (int pass = 0; pass < 2; pass++) {
            assert_ok(policy_forward(f->p, &b, true, logprob, entropy));
            assert_ok(policy_backward(f->p, &b, d, d));
        }
        grad[recompute] = device_floats(f->dev, f->p->grad, n);
    }
    assert_same_bits("result", results[1], results[0], 2 * targets);
    assert_same_bits("gradient", grad[1], grad[0], n);
    for (int i = 0; i < 2; i++) {
        free(results[i]);
        free(grad[i]);
    }
    free(d);
}

static void recomputed_layers_give_the_same_bits(void **state)
{
    (void)state;
    on_every_model(check_recomputed);
    on_every_model_as(DTYPE_BF16, check_recomputed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_probability_and_entropy),
        cmocka_unit_test(value_head),
        cmocka_unit_test(model_without_experts),
        cmocka_unit_test(mixture_without_shared_experts_and_rotation_by_halves),
        cmocka_unit_test(grouped_query_attention),
        cmocka_unit_test(tied_head),
        cmocka_unit_test(sequences_after_a_prompt),
        cmocka_unit_test(a_group_has_the_gradient_of_its_samples),
        cmocka_unit_test(tied_gradient_is_the_sum_of_both_uses),
        cmocka_unit_test(passes_add),
        cmocka_unit_test(recomputed_layers_give_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
