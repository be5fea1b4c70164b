// SPDX-License-Identifier: Apache-2.0
// generation_config.json: what it says is read or refused with its line, its bytes survive load and
// save, and every token that it lists ends a completion.
#include "tests/model_fixture.h"

static struct generation_config read_text(int *rc, const char *text, const struct arch *a)
{
    struct generation_config g = {.top_k = 7};
    char *dir = temporary_dir(), *path = path_join(dir, "generation_config.json");
    if (text)
        assert_ok(file_write_atomic(path, text, strlen(text)));
    *rc = generation_config_open(&g, dir, a);
    if (*rc)
        assert_int_equal(g.top_k, 7);
    assert_ok(dir_remove_all(dir));
    free(path);
    free(dir);
    return g;
}

static const struct arch two_ends = {
    .V = 100, .bos_id = -1, .eos_id = 5, .pad_id = -1, .eos_ids = {5, 6}, .num_eos_ids = 2};

static void what_it_says_is_read(void **state)
{
    (void)state;
    int rc = 0;
    struct generation_config g =
        read_text(&rc,
                  "{\"do_sample\": true, \"temperature\": 0.6, \"top_p\": 0.95, \"top_k\": 20,\n"
                  "\"max_new_tokens\": 2048, \"eos_token_id\": [6, 9], \"repetition_penalty\": 1.0,"
                  "\"transformers_version\": \"4.51.0\"}",
                  &two_ends);
    assert_ok(rc);
    assert_false(g.greedy);
    assert_true(g.temperature == 0.6 && g.top_p == 0.95 && isnan(g.min_p));
    assert_int_equal(g.top_k, 20);
    assert_int_equal(g.max_new_tokens, 2048);
    assert_int_equal(g.num_stop_ids, 3); // of both files, each once
    assert_memory_equal(g.stop_ids, ((const int[]){5, 6, 9}), 3 * sizeof(int));
    assert_string_equal(g.ignored, "");
    generation_config_free(&g);
    g = read_text(&rc, "{\"do_sample\": false, \"eos_token_id\": 5, \"top_k\": null}", &two_ends);
    assert_ok(rc);
    assert_true(g.greedy && g.top_k == -1);
    assert_int_equal(g.num_stop_ids, 2);
    generation_config_free(&g);
    g = read_text(&rc, NULL, &two_ends);
    assert_ok(rc);
    assert_null(g.text);
    assert_true(isnan(g.temperature) && !g.greedy && g.max_new_tokens == -1);
    assert_int_equal(g.num_stop_ids, 2);
}

static void settings_that_are_not_applied_are_named(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"encoder_repetition_penalty\": 1.05}", "\"encoder_repetition_penalty\" 1.05"},
        {"{\"num_beams\": 4}", "\"num_beams\" 4"},
        {"{\"suppress_tokens\": [3]}", "\"suppress_tokens\""},
        {"{\"num_beams\": 1, \"no_repeat_ngram_size\": 0, \"suppress_tokens\": null}", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int rc = 0;
        struct generation_config g = read_text(&rc, cases[i][0], &two_ends);
        assert_ok(rc);
        assert_string_equal(g.ignored, cases[i][1]);
        generation_config_free(&g);
    }
}

static void what_cannot_be_meant_is_refused_with_its_line(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"[]", "is an array, expected an object"},
        {"{\"do_sample\": 1}", ":1: \"do_sample\" is a number, expected true or false"},
        {"{\n\"temperature\": \"0.6\"}", ":2: \"temperature\" is a string, expected a number"},
        {"{\"temperature\": -1}", "\"temperature\""},
        {"{\"top_p\": 0}", "\"top_p\""},
        {"{\"top_k\": 1.5}", "\"top_k\" is a number, expected a whole number"},
        {"{\"max_new_tokens\": 0}", "\"max_new_tokens\""},
        {"{\"eos_token_id\": 100}", "expected a token id below vocab_size 100"},
        {"{\"eos_token_id\": [1, \"</s>\"]}", "\"eos_token_id\" is a string"},
        {"{\"eos_token_id\": 1", "generation_config.json:1"},
        {"{\"top_k\": 1, \"top_k\": 2}", "twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int rc = 0;
        read_text(&rc, cases[i][0], &two_ends);
        assert_int_equal(rc, ERR_MODEL);
        if (!strstr(err_message(), cases[i][1]) || !strstr(err_message(), "generation_config.json"))
            fail_msg("case %zu says: %s", i, err_message());
    }
}

// A golden model with a file of its own and several end tokens in config.json.
static void its_bytes_survive_load_and_save(void **state)
{
    (void)state;
    static const char text[] = "{ \"eos_token_id\": [1, 7],\n  \"top_p\": 0.95,\"unknown\": {}}\n";
    struct device *dev = NULL;
    struct policy *p = NULL, *copy = NULL;
    char *from = temporary_dir(), *to = temporary_dir();
    static const char *const names[] = {"config.json", "model.safetensors"};
    assert_ok(test_device_open(&dev, NULL, DEVICE_FENCED));
    for (int i = 0; i < 2; i++) {
        struct strbuf bytes = {0};
        char *source = golden_path(golden_models[3], names[i]), *target = path_join(from, names[i]);
        assert_ok(file_read(&bytes, source, 0, ERR_MODEL));
        char *eos = strstr(bytes.data, "\"eos_token_id\": 1,");
        if (i == 0) {
            assert_non_null(eos);
            struct strbuf edited = {0};
            strbuf_append(&edited, bytes.data, (size_t)(eos - bytes.data));
            strbuf_printf(&edited, "\"eos_token_id\": [1, 3],%s", strchr(eos, ',') + 1);
            strbuf_free(&bytes);
            bytes = edited;
        }
        assert_ok(file_write_atomic(target, bytes.data, bytes.len));
        strbuf_free(&bytes);
        free(source);
        free(target);
    }
    char *path = path_join(from, "generation_config.json");
    assert_ok(file_write_atomic(path, text, sizeof text - 1));
    assert_ok(policy_open(&p, dev, from, DTYPE_F32, false));
    assert_int_equal(p->generation.num_stop_ids, 3);
    assert_ok(policy_clone(&copy, p, false, false));
    assert_ok(policy_save(copy, to));
    policy_free(&copy);
    policy_free(&p);
    free(path);
    path = path_join(to, "generation_config.json");
    struct strbuf saved = {0};
    assert_ok(file_read(&saved, path, 0, ERR_MODEL));
    assert_string_equal(saved.data, text);
    strbuf_free(&saved);
    // Without the file, what config.json lists is still there.
    assert_int_equal(unlink(path), 0);
    assert_ok(policy_open(&p, dev, to, DTYPE_F32, false));
    assert_int_equal(p->generation.num_stop_ids, 2);
    assert_ok(policy_save(p, to));
    assert_ok(file_read(&saved, path, 0, ERR_MODEL));
    assert_non_null(strstr(saved.data, "\"eos_token_id\":[1,3]"));
    policy_free(&p);
    strbuf_free(&saved);
    free(path);
    assert_ok(dir_remove_all(from));
    assert_ok(dir_remove_all(to));
    free(from);
    free(to);
    test_device_close(&dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_it_says_is_read),
        cmocka_unit_test(settings_that_are_not_applied_are_named),
        cmocka_unit_test(what_cannot_be_meant_is_refused_with_its_line),
        cmocka_unit_test(its_bytes_survive_load_and_save),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
