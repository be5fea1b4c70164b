// SPDX-License-Identifier: Apache-2.0
// LoRA adapters in PEFT's files: the merged model computes PEFT's logits, and adapters that do not
// fit are refused with all that is wrong.
#include "tests/model_fixture.h"

#include "policy/adapter.h"

// Of golden/lora; each is on the golden model of the same name.
static const char *const adapters[] = {"deepseek_v2_lite_tiny", "deepseek_v3_tiny", "llama_tiny",
                                       "qwen2_tiny"};
enum { NUM_ADAPTERS = sizeof adapters / sizeof adapters[0] };

static char *adapter_path(const char *name, const char *file)
{
    struct strbuf b = {0};
    strbuf_printf(&b, "%s/lora/%s/%s", TEST_GOLDEN, name, file);
    return strbuf_take(&b);
}

static int open_adapted(struct policy **out, struct device *dev, const char *model,
                        const char *adapter, bool allow_nonfinite)
{
    char *dir = golden_path(model, ".");
    const struct policy_source source = {
        .dir = dir, .adapter = adapter, .allow_nonfinite = allow_nonfinite};
    const int rc = policy_open_source(out, dev, &source, DTYPE_F32);
    free(dir);
    return rc;
}

// ---- numbers

static void check_logits(struct fixture *f)
{
    char *dir = adapter_path(f->name, "."), *path = adapter_path(f->name, "golden.safetensors");
    struct safetensors *golden = NULL;
    struct policy *p = NULL;
    assert_ok(safetensors_open(&golden, path, ERR_DATA));
    assert_ok(open_adapted(&p, f->dev, f->name, dir, false));
    const struct policy_batch b = pack_batch(&f->every);
    const size_t n = (size_t)f->T * (size_t)p->arch.V;
    float *logits = mem_floats(n);
    assert_ok(policy_forward_logits(p, &b, logits));
    // Merged or beside the weights is the same up to rounding; as test_model's logits.
    assert_close("merged logits", logits, safetensors_find(golden, "logits_merged")->data, n, 1e-4);
    assert_close("logits", logits, safetensors_find(golden, "logits")->data, n, 1e-4);
    float *base = mem_floats(n), far = 0;
    assert_ok(policy_forward_logits(f->p, &b, base));
    for (size_t i = 0; i < n; i++) {
        far = fmaxf(far, fabsf(logits[i] - base[i]));
    }
    assert_true(far > 0.1f); // the adapter does something
    free(base);
    free(logits);
    policy_free(&p);
    safetensors_free(&golden);
    free(dir);
    free(path);
}

static void merged_models_have_the_logits_of_peft(void **state)
{
    (void)state;
    int devices[TEST_DEVICES_MAX], n = test_devices(devices);
    for (int d = 0; d < n; d++) {
        for (int i = 0; i < NUM_ADAPTERS; i++) {
            struct fixture f = fixture_open(adapters[i], devices[d], 2);
            check_logits(&f);
            fixture_close(&f);
        }
    }
}

static void threads_change_no_bit_of_the_weights(void **state)
{
    (void)state;
    char *dir = adapter_path(adapters[1], ".");
    float *weights = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        struct team *team = NULL;
        struct device *dev = NULL;
        struct policy *p = NULL;
        assert_ok(team_open(&team, threads));
        assert_ok(test_device_open(&dev, team, DEVICE_BEST));
        assert_ok(open_adapted(&p, dev, adapters[1], dir, false));
        float *now = device_floats(dev, p->params.data, p->params.size);
        if (weights) {
            assert_same_bits("weight", now, weights, p->params.size);
        }
        free(weights);
        weights = now;
        policy_free(&p);
        test_device_close(&dev);
        team_close(&team);
    }
    free(weights);
    free(dir);
}

// ---- copies whose files a test spoils

struct copy {
    char *dir;
    struct device *dev;
    struct strbuf config;
};

static void write_file(const struct copy *c, const char *name, const void *bytes, size_t n)
{
    char *path = path_join(c->dir, name);
    assert_ok(file_write_atomic(path, bytes, n));
    free(path);
}

static struct safetensors *open_tensors(void)
{
    struct safetensors *s = NULL;
    char *path = adapter_path(adapters[1], "adapter_model.safetensors");
    assert_ok(safetensors_open(&s, path, ERR_MODEL));
    free(path);
    return s;
}

static void write_tensors(const struct copy *c, const struct tensor *t, int count)
{
    char *path = path_join(c->dir, "adapter_model.safetensors");
    assert_ok(safetensors_write(path, NULL, t, count, NULL, 0));
    free(path);
}

static struct copy copy_open(void)
{
    struct copy c = {.dir = temporary_dir()};
    struct safetensors *s = open_tensors();
    char *config = adapter_path(adapters[1], "adapter_config.json");
    assert_ok(test_device_open(&c.dev, NULL, DEVICE_FENCED));
    assert_ok(file_read(&c.config, config, 0, ERR_MODEL));
    write_file(&c, "adapter_config.json", c.config.data, c.config.len);
    write_tensors(&c, s->tensors, s->count);
    safetensors_free(&s);
    free(config);
    return c;
}

static void copy_close(struct copy *c)
{
    assert_ok(dir_remove_all(c->dir));
    free(c->dir);
    strbuf_free(&c->config);
    test_device_close(&c->dev);
}

// The config with one text in the place of another.
static void edit(struct copy *c, const char *from, const char *to)
{
    struct strbuf text = {0};
    const char *at = strstr(c->config.data, from);
    if (!at) {
        fail_msg("no %s in the config", from);
    }
    strbuf_append(&text, c->config.data, (size_t)(at - c->config.data));
    strbuf_puts(&text, to);
    strbuf_puts(&text, at + strlen(from));
    strbuf_free(&c->config);
    c->config = text;
    write_file(c, "adapter_config.json", text.data, text.len);
}

static void refused_on(struct copy *c, const char *model, const char *text)
{
    struct policy *p = NULL;
    assert_int_equal(open_adapted(&p, c->dev, model, c->dir, false), ERR_MODEL);
    assert_null(p);
    if (!strstr(err_message(), text)) {
        fail_msg("expected \"%s\" in: %s", text, err_message());
    }
}

static void refused(struct copy *c, const char *text) { refused_on(c, adapters[1], text); }

static void scales_are_alpha_over_r_or_its_root(void **state)
{
    (void)state;
    struct copy c = copy_open();
    struct policy *base = NULL, *plain = NULL, *rs = NULL;
    struct safetensors *s = open_tensors();
    assert_ok(open_adapted(&base, c.dev, adapters[1], NULL, false));
    assert_ok(open_adapted(&plain, c.dev, adapters[1], c.dir, false));
    edit(&c, "\"use_rslora\": false", "\"use_rslora\": true");
    assert_ok(open_adapted(&rs, c.dev, adapters[1], c.dir, false));
    const struct param *w = params_find(&base->params, "model.layers.1.self_attn.kv_b_proj.weight");
    const char *module = "base_model.model.model.layers.1.self_attn.kv_b_proj";
    char name[128];
    snprintf(name, sizeof name, "%s.lora_A.weight", module);
    const float *A = safetensors_find(s, name)->data;
    snprintf(name, sizeof name, "%s.lora_B.weight", module);
    const float *B = safetensors_find(s, name)->data;
    float *of_base = device_floats(c.dev, base->params.data + w->offset, w->size);
    float *of_plain = device_floats(c.dev, plain->params.data + w->offset, w->size);
    float *of_rs = device_floats(c.dev, rs->params.data + w->offset, w->size);
    const int in = base->arch.R, r = 5;
    for (size_t i = 0; i < w->size; i++) {
        double sum = 0;
        for (int k = 0; k < r; k++) {
            sum += (double)B[i / (size_t)in * r + (size_t)k] *
                   (double)A[(size_t)k * (size_t)in + i % (size_t)in];
        }
        const double x = (double)of_base[i];
        assert_true(fabs((double)of_plain[i] - (x + 10.0 / r * sum)) < 1e-6);
        assert_true(fabs((double)of_rs[i] - (x + 10.0 / sqrt(r) * sum)) < 1e-6);
    }
    free(of_base);
    free(of_plain);
    free(of_rs);
    policy_free(&base);
    policy_free(&plain);
    policy_free(&rs);
    safetensors_free(&s);
    copy_close(&c);
}

// ---- refusals

static void an_adapter_for_another_base_is_refused_with_both_shapes(void **state)
{
    (void)state;
    struct copy c = copy_open();
    refused_on(&c, "deepseek_v2_tiny", "made for \"../models/deepseek_v3_tiny\", does not fit:");
    refused_on(
        &c, "deepseek_v2_tiny",
        "base_model.model.model.layers.*.self_attn.q_a_proj.lora_B.weight: want [20,5] (\"r\" "
        "is 5), have [24,5] (3 of them)");
    // One without query latents has no such matrices.
    refused_on(&c, "deepseek_v2_lite_tiny",
               "base_model.model.model.layers.*.self_attn.q_b_proj.lora_A.weight: unexpected (3 of "
               "them)");
    copy_close(&c);
}

static void another_r_than_the_files_is_refused_with_both(void **state)
{
    (void)state;
    struct copy c = copy_open();
    edit(&c, "\"r\": 5", "\"r\": 6");
    refused(&c,
            "self_attn.o_proj.lora_A.weight: want [6,64] (\"r\" is 6), have [5,64] (3 of them)");
    refused(&c, "self_attn.o_proj.lora_B.weight: want [48,6] (\"r\" is 6), have [48,5]");
    copy_close(&c);
}

static void what_is_not_plain_lora_is_refused_by_its_key(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"\"rank_pattern\": {}", "\"rank_pattern\": {\"q_a_proj\": 8}",
         "rank_pattern: gives \"q_a_proj\" 8, \"r\" is 5: one for all modules"},
        {"\"alpha_pattern\": {}", "\"alpha_pattern\": {\"o_proj\": 4}",
         "alpha_pattern: gives \"o_proj\" 4, \"lora_alpha\" is 10: one for all modules"},
        {"\"rank_pattern\": {}", "\"rank_pattern\": 3", "rank_pattern: is 3, expected an object"},
        {"\"use_dora\": false", "\"use_dora\": true", "use_dora: is true, expected null or false"},
        {"\"bias\": \"none\"", "\"bias\": \"all\"", "bias: is \"all\", expected \"none\""},
        {"\"fan_in_fan_out\": false", "\"fan_in_fan_out\": true", "fan_in_fan_out: is true"},
        {"\"lora_bias\": false", "\"lora_bias\": true", "lora_bias: is true"},
        {"\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]",
         "modules_to_save: is [\"lm_head\"], expected null or false"},
        {"\"layers_to_transform\": null", "\"layers_to_transform\": [0]",
         "layers_to_transform: is [0]"},
        {"\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\"",
         "init_lora_weights: is \"pissa\", expected true, false, \"gaussian\""},
        {"\"peft_type\": \"LORA\"", "\"peft_type\": \"ADALORA\"",
         "peft_type: is \"ADALORA\", expected \"LORA\""},
        {"\"task_type\": \"CAUSAL_LM\"", "\"task_type\": \"SEQ_CLS\"",
         "task_type: is \"SEQ_CLS\", expected \"CAUSAL_LM\""},
        {"\"revision\": null", "\"revision\": null, \"use_new_thing\": true",
         "use_new_thing: is true, expected null or false"},
        {"\"r\": 5", "\"r\": 0", "r: is 0, expected an integer"},
        {"\"r\": 5", "\"s\": null", "r: is missing, expected an integer"},
        {"\"lora_alpha\": 10", "\"lora_alpha\": \"10\"",
         "lora_alpha: is \"10\", expected a number"},
        {"\"use_rslora\": false", "\"use_rslora\": 1", "use_rslora: is 1, expected true or false"},
        {"\"o_proj\",", "3,", "target_modules: is [3,"},
        {"\"o_proj\",", "", "self_attn.o_proj.lora_A.weight: unexpected (3 of them)"},
        {"\"r\": 5", "\"r\": 5, \"r\": 5", "adapter_config.json:31: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct copy c = copy_open();
        edit(&c, cases[i].from, cases[i].to);
        refused(&c, cases[i].message);
        copy_close(&c);
    }
}

static void targets_are_names(void **state)
{
    (void)state;
    static const char *const refused_targets[] = {"\"all-linear\"", "\".*o_proj\"", "null", "[]",
                                                  "{\"a\": 1}"};
    for (size_t i = 0; i < sizeof refused_targets / sizeof refused_targets[0]; i++) {
        struct copy c = copy_open();
        struct strbuf to = {0};
        strbuf_printf(&to, "\"target_modules\": %s, \"rest\": [", refused_targets[i]);
        edit(&c, "\"target_modules\": [", to.data);
        refused(&c, i == 0 ? "target_modules: name no matrix of the model" : "target_modules: is ");
        strbuf_free(&to);
        copy_close(&c);
    }
}

static void missing_and_misshapen_tensors_come_in_one_list(void **state)
{
    (void)state;
    struct copy c = copy_open();
    struct safetensors *s = open_tensors();
    struct tensor *t = mem_array0((size_t)s->count, sizeof *t);
    int n = 0;
    for (int i = 0; i < s->count; i++) {
        const char *name = s->tensors[i].name;
        if (strstr(name, "layers.1.self_attn.o_proj.lora_B")) {
            continue;
        }
        t[n] = s->tensors[i];
        if (strstr(name, "layers.0.self_attn.o_proj.lora_B")) {
            t[n].name = "base_model.model.model.layers.0.self_attn.o_proj.lora_magnitude_vector";
        } else if (strstr(name, "layers.2.self_attn.o_proj.lora_A")) {
            t[n].shape[0] = s->tensors[i].shape[1];
            t[n].shape[1] = s->tensors[i].shape[0];
        }
        n++;
    }
    write_tensors(&c, t, n);
    edit(&c, "\"use_dora\": false", "\"use_dora\": true");
    refused(&c, "use_dora: is true");
    refused(&c, "model.layers.*.self_attn.o_proj.weight: has no lora_B, want [48,5] (2 of them)");
    refused(&c, "layers.2.self_attn.o_proj.lora_A.weight: want [5,64] (\"r\" is 5), have [64,5]");
    refused(&c, "layers.0.self_attn.o_proj.lora_magnitude_vector: unexpected");
    free(t);
    safetensors_free(&s);
    copy_close(&c);
}

static void values_that_are_not_finite_are_refused_unless_allowed(void **state)
{
    (void)state;
    struct copy c = copy_open();
    struct safetensors *s = open_tensors();
    struct tensor *t = mem_array0((size_t)s->count, sizeof *t);
    float *spoilt = NULL;
    for (int i = 0; i < s->count; i++) {
        t[i] = s->tensors[i];
        if (strstr(t[i].name, "layers.1.self_attn.o_proj.lora_A")) {
            spoilt = mem_alloc(t[i].size);
            memcpy(spoilt, t[i].data, t[i].size);
            spoilt[3] = INFINITY;
            t[i].data = spoilt;
        }
    }
    write_tensors(&c, t, s->count);
    refused(&c, "layers.1.self_attn.o_proj.lora_A.weight: holds inf at index 3 (1 of its 320");
    struct policy *p = NULL;
    assert_ok(open_adapted(&p, c.dev, adapters[1], c.dir, true));
    assert_int_equal(p->nonfinite, 48); // a column of the merged matrix
    policy_free(&p);
    free(spoilt);
    free(t);
    safetensors_free(&s);
    copy_close(&c);
}

static void absent_files_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors"};
    for (int i = 0; i < 2; i++) {
        struct copy c = copy_open();
        char *path = path_join(c.dir, names[i]);
        assert_int_equal(unlink(path), 0);
        refused(&c, names[i]);
        free(path);
        copy_close(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merged_models_have_the_logits_of_peft),
        cmocka_unit_test(threads_change_no_bit_of_the_weights),
        cmocka_unit_test(scales_are_alpha_over_r_or_its_root),
        cmocka_unit_test(an_adapter_for_another_base_is_refused_with_both_shapes),
        cmocka_unit_test(another_r_than_the_files_is_refused_with_both),
        cmocka_unit_test(what_is_not_plain_lora_is_refused_by_its_key),
        cmocka_unit_test(targets_are_names),
        cmocka_unit_test(missing_and_misshapen_tensors_come_in_one_list),
        cmocka_unit_test(values_that_are_not_finite_are_refused_unless_allowed),
        cmocka_unit_test(absent_files_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
