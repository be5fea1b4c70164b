// SPDX-License-Identifier: Apache-2.0
// A policy that is only read: the bits of a whole one, in the memory that is said, on the way there
// as well.
#include "tests/model_fixture.h"

#include "policy/memory.h"
#include "tests/fenced_device.h"

static struct policy *open_read_only(struct device *dev, const char *dir, const char *adapter,
                                     enum dtype dtype)
{
    const struct policy_source source = {.dir = dir, .adapter = adapter, .read_only = true};
    struct policy *p = NULL;
    assert_ok(policy_open_source(&p, dev, &source, dtype));
    assert_true(p->params.read_only);
    return p;
}

// Every golden model in either type, on a device that counts.
static void on_every_fenced_model(void (*test)(struct fixture *f))
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16};
    for (int i = 0; i < NUM_GOLDEN_MODELS; i++) {
        for (int j = 0; j < 2; j++) {
            struct fixture f = fixture_open_as(types[j], golden_models[i], DEVICE_FENCED, 2);
            test(&f);
            fixture_close(&f);
        }
    }
}

// ---- bits

// Log-probabilities, entropies and, of a model with a value head, values of two policies.
static void assert_same_results(struct policy *a, struct policy *b,
                                const struct policy_batch *batch)
{
    const size_t n = (size_t)batch->num_targets;
    float *of_a = mem_floats(2 * n), *of_b = mem_floats(2 * n);
    assert_ok(policy_forward(a, batch, false, of_a, of_a + n));
    assert_ok(policy_forward(b, batch, false, of_b, of_b + n));
    assert_same_bits("log-probability or entropy", of_a, of_b, 2 * n);
    if (a->arch.value_head) {
        assert_ok(policy_forward_values(a, batch, false, of_a));
        assert_ok(policy_forward_values(b, batch, false, of_b));
        assert_same_bits("value", of_a, of_b, n);
        assert_true(of_a[0] != of_a[n - 1]);
    }
    free(of_a);
    free(of_b);
}

static void check_files(struct fixture *f)
{
    const struct policy_batch b = pack_batch(&f->next);
    char *dir = golden_path(f->name, ".");
    struct policy *p = open_read_only(f->dev, dir, NULL, f->p->dtype);
    assert_same_results(p, f->p, &b);
    policy_free(&p);
    free(dir);
}

static void files_give_the_bits_of_a_whole_policy(void **state)
{
    (void)state;
    on_every_model_as(DTYPE_F32, check_files);
    on_every_model_as(DTYPE_BF16, check_files);
}

// A copy of f->p with a value head that is not zero.
static struct policy *with_value_head(struct fixture *f)
{
    struct policy *p = NULL;
    assert_ok(policy_clone(&p, f->p, true, false));
    const struct param *w = params_find(&p->params, "score.weight");
    const struct param *bias = params_find(&p->params, "score.bias");
    float *head = mem_floats(w->size);
    for (size_t i = 0; i < w->size; i++) {
        head[i] = (float)(i % 7) - 2.9f;
    }
    device_put(f->dev, p->params.data + w->offset, head, w->size * sizeof *head);
    device_put(f->dev, p->params.data + bias->offset, head, sizeof *head);
    assert_ok(policy_weights_changed(p));
    free(head);
    return p;
}

// Of a policy with a value head, a copy and what is opened from its files.
static void check_copies(struct fixture *f)
{
    const struct policy_batch b = pack_batch(&f->next);
    char *dir = temporary_dir();
    struct policy *whole = with_value_head(f), *copy = NULL, *opened;
    assert_ok(policy_clone(&copy, whole, true, true));
    assert_same_results(copy, whole, &b);
    assert_ok(policy_save(whole, dir));
    opened = open_read_only(f->dev, dir, NULL, f->p->dtype);
    assert_same_results(opened, whole, &b);
    policy_free(&opened);
    policy_free(&copy);
    assert_ok(policy_clone(&copy, whole, false, true)); // without the head
    assert_same_results(copy, f->p, &b);
    policy_free(&copy);
    policy_free(&whole);
    assert_ok(dir_remove_all(dir));
    free(dir);
}

static void copies_and_value_heads_give_the_bits_of_a_whole_policy(void **state)
{
    (void)state;
    on_every_fenced_model(check_copies);
}

static void merged_adapters_give_the_bits_of_a_whole_policy(void **state)
{
    (void)state;
    static const char *const adapters[] = {"deepseek_v2_lite_tiny", "deepseek_v3_tiny",
                                           "llama_tiny", "qwen2_tiny"};
    for (int i = 0; i < 4; i++) {
        struct fixture f = fixture_open_as(DTYPE_BF16, adapters[i], DEVICE_FENCED, 2);
        const struct policy_batch b = pack_batch(&f.next);
        struct strbuf adapter = {0};
        char *dir = golden_path(adapters[i], ".");
        strbuf_printf(&adapter, "%s/lora/%s", TEST_GOLDEN, adapters[i]);
        const struct policy_source source = {.dir = dir, .adapter = adapter.data};
        struct policy *whole = NULL, *p = open_read_only(f.dev, dir, adapter.data, DTYPE_BF16);
        assert_ok(policy_open_source(&whole, f.dev, &source, DTYPE_BF16));
        assert_true(p->adapted > 0 && p->adapted == whole->adapted);
        assert_same_results(p, whole, &b);
        policy_free(&p);
        policy_free(&whole);
        strbuf_free(&adapter);
        free(dir);
        fixture_close(&f);
    }
}

// ---- memory

static size_t bytes_of(struct device *dev, const struct arch *a, enum dtype dtype, bool read_only)
{
    struct policy_memory m;
    policy_memory(&m, dev, a, &(struct policy_use){.dtype = dtype, .read_only = read_only});
    return policy_memory_total(&m);
}

// Of the largest matrix, or param of several that are no stack, that is only packed.
static size_t staged_bytes(const struct params *p)
{
    size_t most = 0;
    for (int i = 0; i < p->count; i++) {
        const struct param *q = &p->list[i];
        const size_t size = q->size / (size_t)(q->rank == 3 ? q->shape[0] : 1);
        const bool read = strstr(q->name, "embed_tokens") || strstr(q->name, "norm.weight");
        most = !read && size > most ? size : most;
    }
    return most * sizeof(float);
}

static void cannot_open(struct device *dev, const struct policy_source *source, enum dtype dtype,
                        size_t limit)
{
    struct policy *p = NULL;
    fenced_limit(dev, limit);
    assert_int_equal(policy_open_source(&p, dev, source, dtype), ERR_ENV);
    assert_int_equal(fenced_bytes(dev), 0);
}

static void check_memory(struct fixture *f)
{
    const enum dtype dtype = f->p->dtype;
    char *dir = golden_path(f->name, ".");
    const struct policy_source source = {.dir = dir, .read_only = true};
    const struct arch a = f->p->arch;
    const size_t whole = bytes_of(f->dev, &a, dtype, false);
    const size_t held = bytes_of(f->dev, &a, dtype, true), way = held + staged_bytes(&f->p->params);
    struct policy *p = NULL;
    assert_int_equal(fenced_bytes(f->dev), whole);
    policy_free(&f->p);
    for (size_t limit = 0; limit < way; limit += way / 9) {
        cannot_open(f->dev, &source, dtype, limit);
    }
    cannot_open(f->dev, &source, dtype, way - 1);
    fenced_limit(f->dev, way);
    assert_ok(policy_open_source(&p, f->dev, &source, dtype));
    assert_int_equal(fenced_bytes(f->dev), held);
    assert_true(held < whole);
    policy_free(&p);
    free(dir);
}

static void opening_takes_what_is_said_and_one_matrix_on_the_way(void **state)
{
    (void)state;
    on_every_fenced_model(check_memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_give_the_bits_of_a_whole_policy),
        cmocka_unit_test(copies_and_value_heads_give_the_bits_of_a_whole_policy),
        cmocka_unit_test(merged_adapters_give_the_bits_of_a_whole_policy),
        cmocka_unit_test(opening_takes_what_is_said_and_one_matrix_on_the_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
