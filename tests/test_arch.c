// SPDX-License-Identifier: Apache-2.0
// config.json: both layouts, what is written is what was read, faults are listed together, YaRN's
// constants.
#include "tests/model_fixture.h"

#include "policy/rope.h"

static int parse(struct arch *a, const char *text)
{
    struct json_doc *doc = NULL;
    assert_ok(json_parse(&doc, text, strlen(text), 0, "config.json", 1, ERR_MODEL));
    int rc = arch_from_json(a, doc, json_root(doc), "config.json", ERR_MODEL);
    json_free(&doc);
    return rc;
}

static char *written(const struct arch *a)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    arch_to_json(&w, a);
    return strbuf_take(&text);
}

static struct arch read_file(const char *model, const char *file)
{
    struct strbuf text = {0};
    struct arch a;
    char *path = golden_path(model, file);
    assert_ok(file_read(&text, path, 0, ERR_MODEL));
    assert_ok(parse(&a, text.data));
    strbuf_free(&text);
    free(path);
    return a;
}

static void both_layouts_of_a_model_are_one_architecture(void **state)
{
    (void)state;
    for (int i = 0; i < NUM_GOLDEN_MODELS; i++) {
        struct arch published = read_file(golden_models[i], "config.json");
        struct arch v5 = read_file(golden_models[i], "config.v5.json");
        char *a = written(&published), *b = written(&v5);
        assert_string_equal(a, b);
        free(a);
        free(b);
    }
}

static void what_is_written_reads_as_the_same(void **state)
{
    (void)state;
    for (int i = 0; i < NUM_GOLDEN_MODELS; i++) {
        struct arch first = read_file(golden_models[i], "config.json"), second;
        char *a = written(&first);
        assert_ok(parse(&second, a));
        char *b = written(&second);
        assert_string_equal(a, b);
        // Readers that check types take a number without a point for an integer.
        char theta[64];
        snprintf(theta, sizeof theta, "\"rope_theta\":%.1f,", first.rope_theta);
        assert_non_null(strstr(a, theta));
        free(a);
        free(b);
    }
}

static void fields_become_the_letters(void **state)
{
    (void)state;
    struct arch a = read_file("deepseek_v2_tiny", "config.json");
    assert_int_equal(a.kind, ARCH_DEEPSEEK_V2);
    assert_int_equal(a.Rq, 20);
    assert_int_equal(a.E, 12);
    assert_int_equal(a.K, 4);
    assert_int_equal(a.n_group, 4);
    assert_int_equal(a.topk_group, 2);
    assert_int_equal(a.group_rank, MOE_GROUP_MAX);
    assert_false(a.route_bias);
    assert_true(a.route_scale == 16);
    assert_true(a.yarn.factor == 4 && a.yarn.truncate);
    assert_int_equal(arch_cache_width(&a), (32 + 8) * 3);
    a = read_file("deepseek_v3_nogroup_tiny", "config.v5.json");
    assert_int_equal(a.kind, ARCH_DEEPSEEK_V3);
    assert_int_equal(a.Rq, 0);
    assert_int_equal(a.dense_layers, 1);
    assert_true(a.route_bias && a.route_normalise && !a.rope_halves);
    assert_true(a.norm_eps == 1e-3 && a.yarn.factor == 0);
    assert_int_equal(a.pad_id, -1);
    assert_int_equal(a.fp8_rows, 0);
    assert_true(arch_is_latent(&a));
}

static void grouped_attention_has_the_letters_of_its_heads(void **state)
{
    (void)state;
    struct arch a = read_file("llama_tiny", "config.json");
    assert_false(arch_is_latent(&a));
    assert_true(a.H == 6 && a.Hkv == 2 && a.Dn == 0 && a.Dr == 8 && a.Dv == 8);
    assert_true(a.tied && a.rope_halves && !a.qkv_bias && !a.o_bias && !a.qk_norm);
    assert_true(a.llama3.factor == 8 && a.llama3.original_positions == 256 && a.yarn.factor == 0);
    assert_int_equal(arch_cache_width(&a), 2 * 2 * 8 * 2);
    assert_true(a.E == 0 && a.dense_layers == a.L);
    a = read_file("llama_bias_tiny", "config.json");
    assert_true(a.Dr == 16 && a.Hkv == 3 && a.qkv_bias && a.o_bias); // head_dim is C/H
    a = read_file("qwen2_tiny", "config.json");
    assert_true(a.Dr == 12 && a.qkv_bias && !a.o_bias && !a.qk_norm);
    a = read_file("qwen3_tiny", "config.v5.json");
    assert_true(a.H * a.Dr == 64 && a.C == 48 && a.qk_norm && !a.qkv_bias);
    a = read_file("qwen3_moe_tiny", "config.v5.json");
    assert_true(a.E == 8 && a.K == 3 && a.S == 0 && a.F == 24 && a.dense_layers == 1);
    assert_true(a.scoring == MOE_SOFTMAX && a.route_normalise && !a.route_bias);
    assert_true(a.yarn.factor == 4 && fabs(rope_softmax_scale(&a) - 0.25) < 1e-12);
}

static void parameters_are_counted_as_they_are_laid_out(void **state)
{
    (void)state;
    for (int i = 0; i < NUM_GOLDEN_MODELS; i++) {
        struct arch a = read_file(golden_models[i], "config.json");
        for (int variant = 0; variant < 4; variant++) {
            struct params p;
            size_t sum = 0;
            a.tied = variant & 1;
            a.value_head = variant & 2;
            params_layout(&p, &a, false);
            for (int j = 0; j < p.count; j++) {
                sum += p.list[j].size;
                assert_int_equal(p.list[j].offset % 16, 0);
            }
            assert_int_equal(arch_num_parameters(&a, false), sum);
            int64_t unused = (int64_t)(a.L - a.dense_layers) * 3 * a.C * a.F * (a.E - a.K);
            assert_int_equal(arch_num_parameters(&a, true), (int64_t)sum - unused);
            params_free(&p);
        }
    }
}

// The sizes of a published config, as far as they matter here.
#define LITE_SIZES                                                                                 \
    "\"vocab_size\":102400,\"hidden_size\":2048,\"num_hidden_layers\":27,"                         \
    "\"num_attention_heads\":16,\"kv_lora_rank\":512,\"qk_nope_head_dim\":128,"                    \
    "\"qk_rope_head_dim\":64,\"v_head_dim\":128,\"intermediate_size\":10944,"                      \
    "\"max_position_embeddings\":163840"
#define YARN_OF(mscale)                                                                            \
    "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,\"original_max_position_embeddings\":4096," \
    "\"beta_fast\":32,\"beta_slow\":1,\"mscale\":" mscale ",\"mscale_all_dim\":" mscale "}"

static void yarn_has_the_constants_of_published_models(void **state)
{
    (void)state;
    struct arch a;
    assert_ok(parse(&a, "{\"model_type\":\"deepseek_v2\"," LITE_SIZES "," YARN_OF("0.707") "}"));
    assert_true(fabs(rope_softmax_scale(&a) - 0.1147214) < 1e-7);
    assert_true(rope_attention_factor(&a) == 1);
    for (int i = 0; i < 32; i++) { // the ramp runs from 10 to 23
        double share = rope_frequency(&a, i) / pow(10000, -i / 32.0);
        double w = fmin(fmax((i - 10) / 13.0, 0), 1);
        assert_true(fabs(share - (1 - w + w / 40)) < 1e-12);
    }
    assert_ok(parse(&a, "{\"model_type\":\"deepseek_v3\"," LITE_SIZES "," YARN_OF("1.0") "}"));
    assert_true(fabs(rope_softmax_scale(&a) - 0.1352338) < 1e-7);
}

#define LLAMA_SIZES                                                                                \
    "\"model_type\":\"llama\",\"vocab_size\":128256,\"hidden_size\":4096,\"num_hidden_layers\":"   \
    "32,"                                                                                          \
    "\"num_attention_heads\":32,\"num_key_value_heads\":8,\"intermediate_size\":14336,"            \
    "\"max_position_embeddings\":131072,\"rope_theta\":500000.0"
#define LLAMA3_OF(low, high)                                                                       \
    "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":" low           \
    ",\"high_freq_factor\":" high ",\"original_max_position_embeddings\":8192}"

static void llama3_has_the_constants_of_published_models(void **state)
{
    (void)state;
    struct arch a;
    assert_ok(parse(&a, "{" LLAMA_SIZES "," LLAMA3_OF("1.0", "4.0") "}"));
    assert_int_equal(a.Dr, 128);
    static const struct {
        int pair;
        double share; // 0.828168 and 0.190211 of Llama-3.1 lie in the smooth part
    } cases[] = {{0, 1}, {28, 1}, {29, 0.828168}, {34, 0.190211}, {35, 0.125}, {63, 0.125}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double theta = pow(500000, -cases[i].pair / 64.0);
        assert_true(fabs(rope_frequency(&a, cases[i].pair) / theta - cases[i].share) < 1e-6);
    }
    assert_true(rope_attention_factor(&a) == 1);
    assert_true(fabs(rope_softmax_scale(&a) - 1 / sqrt(128)) < 1e-12);
}

static void rows_of_the_table_do_not_depend_on_its_size(void **state)
{
    (void)state;
    struct arch a = read_file("deepseek_v2_tiny", "config.json");
    struct rope_table small = {0}, large = {0};
    struct device *dev = NULL;
    assert_ok(test_device_open(&dev, NULL, DEVICE_FENCED));
    assert_ok(rope_table_grow(&small, dev, &a, 10));
    assert_ok(rope_table_grow(&large, dev, &a, 3000));
    size_t n = (size_t)small.positions * (size_t)(a.Dr / 2);
    assert_true(large.positions >= 3000 && small.positions < 3000);
    for (int i = 0; i < 2; i++) {
        float *few = device_floats(dev, i ? small.sin : small.cos, n);
        float *many = device_floats(dev, i ? large.sin : large.cos, n);
        assert_same_bits(i ? "sin" : "cos", few, many, n);
        free(few);
        free(many);
    }
    rope_table_free(&small);
    rope_table_free(&large);
    test_device_close(&dev);
}

#define V3       "{\"model_type\":\"deepseek_v3\"," LITE_SIZES ","
#define LLAMA    "{" LLAMA_SIZES
#define QWEN(of) "{\"model_type\":\"qwen3" of "\"," SMALL_SIZES ","
#define SMALL_SIZES                                                                                \
    "\"vocab_size\":100,\"hidden_size\":16,\"num_hidden_layers\":4,\"num_attention_heads\":4,"     \
    "\"intermediate_size\":20,\"max_position_embeddings\":64"
#define QWEN_MOE                                                                                   \
    QWEN("_moe")                                                                                   \
    "\"head_dim\":8,\"num_experts\":4,\"num_experts_per_tok\":2,\"moe_intermediate_size\":8,"
#define MOE "\"n_routed_experts\":16,\"num_experts_per_tok\":4,\"moe_intermediate_size\":8,"

static void blocks_of_float8_are_read_as_deepseek_publishes_them(void **state)
{
    (void)state;
    struct arch a;
    assert_ok(parse(&a, "{\"model_type\":\"deepseek_v3\"," LITE_SIZES ","
                        "\"quantization_config\":{\"activation_scheme\":\"dynamic\",\"fmt\":"
                        "\"e4m3\",\"quant_method\":\"fp8\",\"weight_block_size\":[128,64]}}"));
    assert_int_equal(a.fp8_rows, 128);
    assert_int_equal(a.fp8_columns, 64);
    char *text = written(&a); // what is written is not quantised
    assert_null(strstr(text, "quantization_config"));
    free(text);
}

static void bad_configs_are_refused_with_their_key(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"[]", "an array"},
        {"{\"model_type\":\"mistral\"}", "\"llama\", \"qwen2\", \"qwen3\", \"qwen3_moe\" (unknown"},
        {"{}", "\"model_type\" is missing"},
        {V3 "\"hidden_act\":\"gelu\"}", "\"hidden_act\" is \"gelu\""},
        {V3 "\"attention_bias\":true}", "attention_bias"},
        {V3 "\"num_key_value_heads\":4}", "differs from \"num_attention_heads\" 16"},
        {V3 "\"quantization_config\":{\"quant_method\":\"fp8\"}}", "\"weight_block_size\" [rows"},
        {V3 "\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4}}",
         "\"quant_method\" \"fp8\""},
        {V3 "\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}}",
         "\"fmt\" \"e4m3\""},
        {V3 "\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128,0]}}",
         "\"weight_block_size\" [rows"},
        {V3 "\"quantization_config\":3}", "no other is supported"},
        {"{\"model_type\":\"deepseek_v3\",\"num_hidden_layers\":0}",
         "\"num_hidden_layers\" is 0, expected an integer in 1..512"},
        {V3 "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}", "linear"},
        {V3 "\"rope_scaling\":{\"type\":\"yarn\"}}", "\"factor\" is missing"},
        {V3 "\"rope_scaling\":3}", "expected an object"},
        {V3 "\"eos_token_id\":102400}", "below vocab_size 102400"},
        {V3 "\"rms_norm_eps\":\"1e-5\"}", "\"rms_norm_eps\" is \"1e-5\""},
        {V3 MOE "\"n_group\":3}", "16 is not a multiple of \"n_group\" 3"},
        {V3 MOE "\"n_group\":8,\"topk_group\":1}", "is more than the 2 experts"},
        {V3 MOE "\"n_group\":4,\"topk_group\":5}", "\"topk_group\" 5 is more than"},
        {V3 MOE "\"n_group\":16,\"topk_group\":16}", "no two best scores"},
        {V3 MOE "\"topk_method\":\"greedy\"}", "noaux_tc"},
        {V3 MOE "\"moe_layer_freq\":2}", "moe_layer_freq"},
        {V3 MOE "\"first_k_dense_replace\":28}", "first_k_dense_replace"},
        {V3 "\"n_routed_experts\":16}", "\"num_experts_per_tok\" is missing"},
        {"{\"model_type\":\"deepseek_v2\"," LITE_SIZES "," MOE "\"norm_topk_prob\":true}",
         "implementations disagree"},
        {"{\"model_type\":\"llama\"," SMALL_SIZES ",\"num_key_value_heads\":3}",
         "\"num_attention_heads\" 4 is not a multiple of \"num_key_value_heads\" 3"},
        {"{\"model_type\":\"llama\"," SMALL_SIZES ",\"head_dim\":7}", "\"head_dim\" 7 is odd"},
        {"{\"model_type\":\"llama\"," SMALL_SIZES ",\"mlp_bias\":true}", "\"mlp_bias\" is true"},
        {"{\"model_type\":\"llama\"," SMALL_SIZES ",\"attention_bias\":1}", "true or false"},
        {LLAMA ",\"partial_rotary_factor\":0.5}", "\"partial_rotary_factor\" is 0.5, expected 1"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}",
         "a scaling of type \"yarn\", \"llama3\" or \"default\""},
        {LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}",
         "\"high_freq_factor\" is missing"},
        {LLAMA "," LLAMA3_OF("4", "4") "}",
         "\"high_freq_factor\" 4 is not above \"low_freq_factor\" 4"},
        {QWEN("") "\"rms_norm_eps\":1e-6}", "\"head_dim\" is missing"},
        {QWEN("") "\"head_dim\":8,\"use_sliding_window\":true}", "\"use_sliding_window\" is true"},
        {QWEN("") "\"head_dim\":8,\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
         "\"full_attention\" alone"},
        {QWEN_MOE "\"decoder_sparse_step\":2}", "\"decoder_sparse_step\" is 2, expected 1"},
        {QWEN_MOE "\"mlp_only_layers\":[0,2]}", "expected the first layers"},
        {QWEN_MOE "\"mlp_only_layers\":[4]}", "layers below \"num_hidden_layers\""},
        {QWEN_MOE "\"mlp_only_layers\":0}", "a list of layers"},
        {QWEN_MOE "\"norm_topk_prob\":2}", "true or false"},
        {QWEN("_moe") "\"head_dim\":8}", "\"num_experts\" is missing"},
        {QWEN("_moe") "\"head_dim\":8,\"num_experts\":4,\"num_experts_per_tok\":5,"
                      "\"moe_intermediate_size\":8}",
         "\"num_experts_per_tok\" 5 is more than \"num_experts\" 4"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct arch a = {.V = -7};
        assert_int_equal(parse(&a, cases[i].text), ERR_MODEL);
        if (!strstr(err_message(), cases[i].message)) {
            fail_msg("case %zu says: %s", i, err_message());
        }
        assert_int_equal(a.V, -7);
    }
}

static void all_faults_come_in_one_message_with_their_lines(void **state)
{
    (void)state;
    struct arch a;
    const char *text = "{\"model_type\": \"deepseek_v2\",\n"
                       " \"vocab_size\": 100, \"hidden_size\": 0,\n"
                       " \"num_hidden_layers\": 2, \"num_attention_heads\": 2.5,\n"
                       " \"kv_lora_rank\": 8, \"qk_nope_head_dim\": 4, \"qk_rope_head_dim\": 3,\n"
                       " \"v_head_dim\": 4, \"max_position_embeddings\": 64}";
    assert_int_equal(parse(&a, text), ERR_MODEL);
    assert_non_null(
        strstr(err_message(), "config.json:2: \"hidden_size\" is 0, expected an integer"));
    assert_non_null(strstr(err_message(), "config.json:3: \"num_attention_heads\" is 2.5"));
    assert_non_null(strstr(err_message(), "config.json:4: \"qk_rope_head_dim\" 3 is odd"));
    assert_non_null(strstr(err_message(), "\"intermediate_size\" is missing"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_layouts_of_a_model_are_one_architecture),
        cmocka_unit_test(what_is_written_reads_as_the_same),
        cmocka_unit_test(fields_become_the_letters),
        cmocka_unit_test(grouped_attention_has_the_letters_of_its_heads),
        cmocka_unit_test(llama3_has_the_constants_of_published_models),
        cmocka_unit_test(blocks_of_float8_are_read_as_deepseek_publishes_them),
        cmocka_unit_test(parameters_are_counted_as_they_are_laid_out),
        cmocka_unit_test(yarn_has_the_constants_of_published_models),
        cmocka_unit_test(rows_of_the_table_do_not_depend_on_its_size),
        cmocka_unit_test(bad_configs_are_refused_with_their_key),
        cmocka_unit_test(all_faults_come_in_one_message_with_their_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
