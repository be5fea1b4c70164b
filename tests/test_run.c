// SPDX-License-Identifier: Apache-2.0
// What a run leaves behind: checkpoints that are whole or not opened, metrics cut where a
// checkpoint stood, one process a directory; and the statistics of evaluations.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/file.h"
#include "rl/checkpoint.h"
#include "rl/metrics.h"
#include "rl/rundir.h"
#include "rl/stats.h"
#include "tests/assert_ok.h"
#include "tests/devices.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- a run directory with two checkpoints of a small model

struct fixture {
    char dir[64];
    struct device *dev;
    struct policy *policy;
    struct tokenizer *tokenizer;
    struct optimizer *optimizer;
    struct rundir *run;
};

static const char arch_text[] =
    "{\"model_type\": \"deepseek_v2\", \"vocab_size\": 300, \"hidden_size\": 16,"
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"q_lora_rank\": null,"
    " \"kv_lora_rank\": 8, \"qk_nope_head_dim\": 4, \"qk_rope_head_dim\": 4, \"v_head_dim\": 4,"
    " \"intermediate_size\": 16, \"first_k_dense_replace\": 1, \"n_routed_experts\": null,"
    " \"max_position_embeddings\": 32, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0,"
    " \"tie_word_embeddings\": true, \"initializer_range\": 0.02, \"hidden_act\": \"silu\"}";

static void save_step(struct fixture *f, int step)
{
    const struct checkpoint_parts parts = {.policy = f->policy,
                                           .optimizer = f->optimizer,
                                           .optimized = f->policy,
                                           .tokenizer = f->tokenizer};
    const struct checkpoint_state state = {.stage = 1,
                                           .step = step,
                                           .global_step = 10 + step,
                                           .metrics_bytes = 1234567890123,
                                           .num_tokens = 99,
                                           .seconds = 1.5,
                                           .config = "{\"a\": 1}"};
    assert_ok(checkpoint_save(f->run->path, &parts, &state));
}

static int open_fixture(void **state)
{
    struct fixture *f = mem_alloc0(sizeof *f);
    struct json_doc *doc = NULL;
    struct arch arch;
    const struct optimizer_settings settings = {.learning_rate = 1e-3};
    snprintf(f->dir, sizeof f->dir, "/tmp/gradus-run-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    char *run = path_join(f->dir, "run");
    assert_ok(rundir_open(&f->run, run, false));
    free(run);
    assert_ok(test_device_open(&f->dev, NULL, DEVICE_FENCED));
    assert_ok(json_parse(&doc, arch_text, strlen(arch_text), 0, "arch", 1, ERR_MODEL));
    assert_ok(arch_from_json(&arch, doc, json_root(doc), "arch", ERR_MODEL));
    json_free(&doc);
    assert_ok(policy_create(&f->policy, f->dev, &arch, DTYPE_F32, 1));
    assert_ok(optimizer_open(&f->optimizer, f->policy, &settings));
    assert_ok(
        tokenizer_open(&f->tokenizer, TEST_GOLDEN "/../../configs/data/quickstart.tokenizer.json"));
    save_step(f, 1);
    float first;
    device_get(f->dev, &first, f->policy->params.data, sizeof first);
    first += 1.0f;
    device_put(f->dev, f->policy->params.data, &first, sizeof first);
    save_step(f, 2);
    *state = f;
    return 0;
}

static int close_fixture(void **state)
{
    struct fixture *f = *state;
    rundir_close(&f->run);
    optimizer_free(&f->optimizer);
    policy_free(&f->policy);
    tokenizer_free(&f->tokenizer);
    test_device_close(&f->dev);
    assert_ok(dir_remove_all(f->dir));
    free(f);
    return 0;
}

static char *checkpoint_file(const struct fixture *f, const char *step, const char *file)
{
    struct strbuf b = {0};
    strbuf_printf(&b, "%s/checkpoints/%s/%s", f->run->path, step, file);
    return strbuf_take(&b);
}

static void flip_byte(const char *path, long at)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    const int c = fgetc(file);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    fputc(c ^ 1, file);
    fclose(file);
}

static void the_newest_whole_checkpoint_is_found(void **state)
{
    struct fixture *f = *state;
    char *path = NULL, *damaged = NULL;
    assert_ok(checkpoint_find(&path, &damaged, f->run->path));
    assert_non_null(strstr(path, "step-000012"));
    assert_null(damaged);
    struct checkpoint_state s;
    assert_ok(checkpoint_read_state(&s, path));
    assert_int_equal(s.step, 2);
    assert_int_equal(s.stage, 1);
    assert_true(s.metrics_bytes == 1234567890123);
    assert_string_equal(s.config, "{\"a\": 1}");
    free((char *)s.config);
    free(path);
}

static void a_flipped_bit_in_any_file_sends_resume_to_the_one_before(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"model.safetensors", "optimizer.safetensors", "state.json",
                                        "config.json", "tokenizer.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *file = checkpoint_file(f, "step-000012", names[i]);
        char *path = NULL, *damaged = NULL;
        flip_byte(file, 20);
        assert_ok(checkpoint_find(&path, &damaged, f->run->path));
        assert_non_null(strstr(path, "step-000011"));
        assert_non_null(strstr(damaged, names[i]));
        flip_byte(file, 20); // whole again
        free(damaged);
        free(path);
        free(file);
    }
}

static void a_checkpoint_without_its_manifest_is_not_opened(void **state)
{
    struct fixture *f = *state;
    char *a = checkpoint_file(f, "step-000012", "MANIFEST.json");
    char *b = checkpoint_file(f, "step-000011", "MANIFEST.json");
    unlink(a);
    unlink(b);
    char *path = NULL, *damaged = NULL;
    assert_int_equal(checkpoint_find(&path, &damaged, f->run->path), ERR_DATA);
    assert_null(path);
    free(a);
    free(b);
}

static void pruning_keeps_the_newest(void **state)
{
    struct fixture *f = *state;
    assert_ok(checkpoint_prune(f->run->path, 1));
    char *old = checkpoint_file(f, "step-000011", ""), *new = checkpoint_file(f, "step-000012", "");
    assert_false(dir_exists(old));
    assert_true(dir_exists(new));
    free(old);
    free(new);
}

static void a_directory_belongs_to_one_process(void **state)
{
    struct fixture *f = *state;
    struct rundir *second = NULL;
    assert_int_equal(rundir_open(&second, f->run->path, false), ERR_CONFIG);
    assert_non_null(strstr(err_message(), "in use by process"));
    assert_null(second);
}

static void a_used_directory_is_refused_and_an_unused_one_not_resumed(void **state)
{
    struct fixture *f = *state;
    char *path = mem_strdup(f->run->path);
    struct rundir *second = NULL;
    rundir_close(&f->run);
    assert_int_equal(rundir_open(&second, path, true), ERR_CONFIG);
    assert_non_null(strstr(err_message(), "no run to resume"));
    char *config = path_join(path, "config.json");
    assert_ok(file_write_atomic(config, "{}", 2));
    assert_int_equal(rundir_open(&second, path, false), ERR_CONFIG);
    assert_non_null(strstr(err_message(), "--resume"));
    assert_ok(rundir_open(&second, path, true));
    rundir_close(&second);
    free(config);
    free(path);
}

// ---- metrics

static void metrics_are_cut_where_the_checkpoint_stood(void **state)
{
    struct fixture *f = *state;
    char *path = path_join(f->dir, "metrics.jsonl");
    struct metrics m;
    struct metrics_line line = {0};
    assert_ok(metrics_open(&m, path, 0));
    int64_t after_first = 0;
    for (int step = 1; step <= 3; step++) {
        metrics_begin(&line, "sft", step, step);
        metrics_put(&line, 0.5 * step, "loss");
        metrics_put(&line, (double)NAN, "eval/%s/x", "a\"b");
        assert_ok(metrics_write(&m, &line, 1.0));
        if (step == 1)
            after_first = m.bytes;
    }
    metrics_close(&m);
    assert_ok(metrics_open(&m, path, after_first));
    metrics_close(&m);
    struct strbuf text = {0};
    assert_ok(file_read(&text, path, 0, ERR_DATA));
    assert_string_equal(text.data, "{\"stage\":\"sft\",\"step\":1,\"global_step\":1,\"time\":1,"
                                   "\"loss\":0.5,\"eval/a\\\"b/x\":null}\n");
    assert_int_equal(metrics_open(&m, path, (int64_t)text.len + 1), ERR_DATA);
    strbuf_free(&text);
    metrics_free(&line);
    free(path);
}

// ---- statistics

static void pass_at_k_is_the_share_of_subsets_with_a_right_sample(void **state)
{
    (void)state;
    for (int n = 1; n <= 6; n++) {
        for (int right = 0; right <= n; right++) {
            for (int k = 1; k <= n; k++) {
                int subsets = 0, hit = 0; // samples below `right` are the right ones
                for (unsigned set = 0; set < 1u << n; set++) {
                    if (__builtin_popcount(set) != k)
                        continue;
                    subsets++;
                    hit += (set & ((1u << right) - 1)) != 0;
                }
                assert_true(fabs(stats_pass_at_k(n, right, k) - (double)hit / subsets) < 1e-12);
            }
        }
    }
}

static void an_interval_is_normal_theory(void **state)
{
    (void)state;
    const double x[] = {0.0, 1.0, 1.0, 1.0};
    const struct stats_interval i = stats_mean(x, 4, 0.0, 1.0);
    assert_true(fabs(i.mean - 0.75) < 1e-12);
    assert_true(fabs(i.low - (0.75 - 1.96 * 0.25)) < 1e-12); // s = 1/2, s / sqrt(n) = 1/4
    assert_true(i.high == 1.0);
}

static void paired_test_sees_a_difference_and_none_in_noise(void **state)
{
    (void)state;
    double a[200], b[200], c[200];
    for (int i = 0; i < 200; i++) {
        a[i] = i % 2;
        b[i] = i % 10 == 0 ? 1.0 : a[i];                     // better on 20
        c[i] = i % 10 == 0 ? 1.0 : i % 10 == 5 ? 0.0 : a[i]; // better on 20, worse on 20
    }
    const struct stats_paired better = stats_paired(a, b, 200, 1, 2000);
    assert_int_equal(better.better, 20);
    assert_int_equal(better.worse, 0);
    assert_true(fabs(better.difference.mean - 0.1) < 1e-12);
    assert_true(better.p_value < 0.01); // exactly 2^-19
    const struct stats_paired same = stats_paired(a, c, 200, 1, 2000);
    assert_true(same.difference.mean == 0.0);
    assert_true(same.p_value > 0.5);
}

static void auc_counts_pairs(void **state)
{
    (void)state;
    // Pairs by hand: 0.9 beats both negatives, 0.5 ties one and beats the other.
    struct stats_scored x[] = {{0.5, true}, {0.5, false}, {0.9, true}, {0.1, false}};
    assert_true(fabs(stats_auc(x, 4) - 3.5 / 4.0) < 1e-12);
    struct stats_scored flat[] = {{1.0, true}, {1.0, false}, {1.0, false}};
    assert_true(stats_auc(flat, 3) == 0.5);
    assert_true(isnan(stats_auc(flat, 0)));
}

#define WITH_RUN(test) cmocka_unit_test_setup_teardown(test, open_fixture, close_fixture)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_RUN(the_newest_whole_checkpoint_is_found),
        WITH_RUN(a_flipped_bit_in_any_file_sends_resume_to_the_one_before),
        WITH_RUN(a_checkpoint_without_its_manifest_is_not_opened),
        WITH_RUN(pruning_keeps_the_newest),
        WITH_RUN(a_directory_belongs_to_one_process),
        WITH_RUN(a_used_directory_is_refused_and_an_unused_one_not_resumed),
        WITH_RUN(metrics_are_cut_where_the_checkpoint_stood),
        cmocka_unit_test(pass_at_k_is_the_share_of_subsets_with_a_right_sample),
        cmocka_unit_test(an_interval_is_normal_theory),
        cmocka_unit_test(auc_counts_pairs),
        cmocka_unit_test(paired_test_sees_a_difference_and_none_in_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
