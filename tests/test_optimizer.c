// SPDX-License-Identifier: Apache-2.0
// AdamW against PyTorch's ten steps (tests/golden/models), schedules, moments on disk, and the
// balance of the experts.
#include "tests/model_fixture.h"

#include "policy/optimizer.h"

static const struct optimizer_settings torch_settings = {.learning_rate = 3e-3,
                                                         .adam_beta1 = 0.9,
                                                         .adam_beta2 = 0.95,
                                                         .adam_epsilon = 1e-8,
                                                         .weight_decay = 0.1,
                                                         .max_grad_norm = 1};

// Forward and, when asked, backward of the mean negative log-probability.
static double nll(struct fixture *f, bool backward)
{
    struct policy_batch b = pack_batch(&f->next);
    size_t n = (size_t)b.num_targets;
    float *logprob = mem_floats(n), *dlogprob = mem_floats(n);
    double sum = 0;
    assert_ok(policy_forward(f->p, &b, backward, logprob, NULL));
    for (size_t i = 0; i < n; i++) {
        sum -= (double)logprob[i];
        dlogprob[i] = -1.0f / (float)n;
    }
    if (backward) {
        assert_ok(policy_grad_zero(f->p));
        assert_ok(policy_backward(f->p, &b, dlogprob, NULL));
    }
    free(logprob);
    free(dlogprob);
    return sum / (double)n;
}

static void assert_near(const char *what, double a, const struct json *expected)
{
    double b;
    assert_true(json_double(expected, &b));
    if (!(fabs(a - b) <= 1e-4 * fmax(1, fabs(b)))) {
        fail_msg("%s is %.8g, expected %.8g", what, a, b);
    }
}

static void check_ten_steps(struct fixture *f)
{
    struct optimizer *o = NULL;
    const struct json *adamw = json_get(json_root(f->meta), "adamw");
    const struct json *loss = json_first(json_get(adamw, "losses"));
    const struct json *norm = json_first(json_get(adamw, "grad_norms_before_clipping"));
    assert_ok(policy_train_begin(f->p));
    assert_ok(optimizer_open(&o, f->p, &torch_settings));
    for (int step = 0; step < 10; step++, loss = json_next(loss), norm = json_next(norm)) {
        double n, again;
        assert_near("loss", nll(f, true), loss);
        assert_ok(optimizer_grad_norm(&again, f->p));
        assert_ok(optimizer_update(o, f->p, 3e-3, &n));
        assert_near("norm", n, norm);
        assert_true(n == again);
    }
    assert_int_equal(o->step, 10);
    assert_near("last loss", nll(f, false), loss);
    optimizer_free(&o);
}

static void ten_steps_have_the_losses_and_norms_of_torch(void **state)
{
    (void)state;
    on_every_model(check_ten_steps);
}

static void an_infinite_gradient_changes_nothing(void **state)
{
    (void)state;
    struct fixture f = fixture_open(golden_models[2], DEVICE_FENCED, 1);
    struct optimizer *o = NULL;
    double norm = -1;
    assert_ok(policy_train_begin(f.p));
    assert_ok(optimizer_open(&o, f.p, &torch_settings));
    const float infinite = INFINITY;
    float *before = device_floats(f.dev, f.p->params.data, f.p->params.size);
    device_put(f.dev, f.p->grad + 17, &infinite, sizeof infinite);
    assert_int_equal(optimizer_update(o, f.p, 3e-3, &norm), ERR_NUMERIC);
    float *after = device_floats(f.dev, f.p->params.data, f.p->params.size);
    assert_same_bits("weight", after, before, f.p->params.size);
    assert_int_equal(o->step, 0);
    assert_true(norm == -1);
    free(before);
    free(after);
    optimizer_free(&o);
    fixture_close(&f);
}

// Three steps, saved, and three more equal three steps in another process: the moments keep their
// bits.
static void saved_moments_go_on_to_the_same_bits(void **state)
{
    (void)state;
    struct fixture a = fixture_open(golden_models[1], DEVICE_FENCED, 1);
    struct fixture b = fixture_open(golden_models[1], DEVICE_FENCED, 1);
    struct optimizer *oa = NULL, *ob = NULL;
    char *dir = temporary_dir();
    double norm;
    assert_ok(policy_train_begin(a.p));
    assert_ok(policy_train_begin(b.p));
    assert_ok(optimizer_open(&oa, a.p, &torch_settings));
    assert_ok(optimizer_open(&ob, b.p, &torch_settings));
    for (int step = 0; step < 6; step++) {
        if (step == 3) {
            assert_ok(optimizer_save(oa, a.p, dir));
            assert_ok(optimizer_load(ob, b.p, dir));
            float *weights = device_floats(a.dev, a.p->params.data, a.p->params.size);
            device_put(b.dev, b.p->params.data, weights, a.p->params.size * sizeof *weights);
            free(weights);
            assert_ok(policy_weights_changed(b.p));
        }
        nll(&a, true);
        assert_ok(optimizer_update(oa, a.p, 3e-3, &norm));
        if (step >= 3) {
            nll(&b, true);
            assert_ok(optimizer_update(ob, b.p, 3e-3, &norm));
        }
    }
    assert_int_equal(ob->step, 6);
    const struct {
        const char *name;
        const float *a, *b;
    } blocks[] = {{"weight", a.p->params.data, b.p->params.data},
                  {"first moment", oa->m, ob->m},
                  {"second moment", oa->v, ob->v}};
    for (int i = 0; i < 3; i++) {
        float *of_a = device_floats(a.dev, blocks[i].a, oa->end);
        float *of_b = device_floats(b.dev, blocks[i].b, oa->end);
        assert_same_bits(blocks[i].name, of_b, of_a, oa->end);
        free(of_a);
        free(of_b);
    }

    struct fixture other = fixture_open(golden_models[0], DEVICE_FENCED, 1);
    struct optimizer *oo = NULL;
    assert_ok(optimizer_open(&oo, other.p, &torch_settings));
    assert_int_equal(optimizer_load(oo, other.p, dir), ERR_MODEL);
    assert_int_equal(optimizer_load(oo, other.p, "/nonexistent"), ERR_MODEL);
    optimizer_free(&oo);
    fixture_close(&other);
    assert_ok(dir_remove_all(dir));
    free(dir);
    optimizer_free(&oa);
    optimizer_free(&ob);
    fixture_close(&a);
    fixture_close(&b);
}

static void rates_warm_up_then_follow_the_schedule(void **state)
{
    (void)state;
    struct optimizer_settings s = {.learning_rate = 2, .warmup_steps = 4, .min_lr_ratio = 0.1};
    const struct {
        enum schedule schedule;
        int step;
        double rate;
    } cases[] = {
        {SCHEDULE_CONSTANT, 0, 0.5}, {SCHEDULE_CONSTANT, 3, 2},   {SCHEDULE_CONSTANT, 99, 2},
        {SCHEDULE_LINEAR, 0, 0.5},   {SCHEDULE_LINEAR, 4, 2},     {SCHEDULE_LINEAR, 54, 1.1},
        {SCHEDULE_LINEAR, 104, 0.2}, {SCHEDULE_LINEAR, 200, 0.2}, {SCHEDULE_COSINE, 4, 2},
        {SCHEDULE_COSINE, 54, 1.1},  {SCHEDULE_COSINE, 104, 0.2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        s.schedule = cases[i].schedule;
        double rate = optimizer_rate(&s, cases[i].step, 104);
        if (!(fabs(rate - cases[i].rate) < 1e-12)) {
            fail_msg("case %zu: %.17g, expected %.17g", i, rate, cases[i].rate);
        }
    }
    s.warmup_steps = 0; // no warm-up, and a run that is over at once
    s.schedule = SCHEDULE_COSINE;
    assert_true(fabs(optimizer_rate(&s, 0, 100) - 2) < 1e-12);
    assert_true(fabs(optimizer_rate(&s, 0, 0) - 0.2) < 1e-12);
}

static void biases_move_against_the_load(void **state)
{
    (void)state;
    struct fixture f = fixture_open(golden_models[2], DEVICE_FENCED, 1);
    const struct arch *a = &f.p->arch;
    assert_true(policy_max_violation(f.p) == 0);
    const struct param *bias =
        params_find(&f.p->params, "model.layers.%d.mlp.gate.e_score_correction_bias", 1);
    float before[16], now[16];
    assert_int_equal(a->E, 16);
    device_get(f.dev, before, f.p->params.data + bias->offset, sizeof before);
    int64_t *load = f.p->expert_load + a->E; // layer 1; layer 2 stays without load
    for (int e = 0; e < a->E; e++) {
        load[e] = e == 0 ? 25 : e == 1 ? 4 : e == 2 ? 19 : 16; // mean 16
    }
    assert_ok(policy_balance_bias(f.p, 0.001));
    device_get(f.dev, now, f.p->params.data + bias->offset, sizeof now);
    assert_true(now[0] == before[0] - 0.001f);
    assert_true(now[1] == before[1] + 0.001f);
    assert_true(now[2] == before[2] - 0.001f);
    assert_true(now[3] == before[3]);
    assert_true(fabs(policy_max_violation(f.p) - 9.0 / 16) < 1e-12);
    policy_load_reset(f.p);
    assert_true(policy_max_violation(f.p) == 0);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_steps_have_the_losses_and_norms_of_torch),
        cmocka_unit_test(an_infinite_gradient_changes_nothing),
        cmocka_unit_test(saved_moments_go_on_to_the_same_bits),
        cmocka_unit_test(rates_warm_up_then_follow_the_schedule),
        cmocka_unit_test(biases_move_against_the_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
