// SPDX-License-Identifier: Apache-2.0
// Data files: every format that we say we read, every row of the shared sets, and an error with
// file, line and text for what cannot be read.
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "rl/dataset.h"
#include "rl/rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct place {
    char dir[64], path[96];
};

static int make_place(void **state)
{
    struct place *p = mem_alloc0(sizeof *p);
    strcpy(p->dir, "/tmp/test_dataset.XXXXXX");
    *state = p;
    if (!mkdtemp(p->dir))
        return -1;
    snprintf(p->path, sizeof p->path, "%s/d.jsonl", p->dir);
    return 0;
}

static int remove_place(void **state)
{
    struct place *p = *state;
    const int rc = dir_remove_all(p->dir);
    free(p);
    return rc;
}

static struct dataset *read_text(struct place *p, const char *text)
{
    struct dataset *d = NULL;
    assert_int_equal(file_write_atomic(p->path, text, strlen(text)), 0);
    if (dataset_open(&d, p->path, 0) != 0)
        fail_msg("%s", err_message());
    return d;
}

static void refuse(struct place *p, const char *text, const char *message)
{
    struct dataset *d = NULL;
    assert_int_equal(file_write_atomic(p->path, text, strlen(text)), 0);
    assert_int_equal(dataset_open(&d, p->path, 0), ERR_DATA);
    assert_null(d);
    if (!strstr(err_message(), message))
        fail_msg("\"%s\" lacks \"%s\"", err_message(), message);
    assert_non_null(strstr(err_message(), "d.jsonl"));
}

static void our_own_columns_are_read(void **state)
{
    struct dataset *d = read_text(
        *state,
        "{\"id\":\"a\",\"prompt\":\"2+2?\",\"answer\":4,\"source\":\"s\",\"completion\":\"It is "
        "4.\"}\n\n"
        "{\"prompt\":\"p\",\"tests\":[{\"stdin\":\"1\",\"stdout\":\"2\"}],\"answer\":null}\r\n"
        "{\"tokens\":[5,6,7],\"prompt_tokens\":2,\"loss_mask\":[0,0,1]}");
    assert_int_equal(d->count, 3);
    const struct problem *p = d->items;
    assert_string_equal(p[0].id, "a");
    assert_string_equal(p[0].prompt, "2+2?");
    assert_string_equal(p[0].answer, "4");
    assert_string_equal(p[0].source, "s");
    assert_string_equal(p[0].completion, "It is 4.");
    assert_string_equal(p[1].id, "3");
    assert_string_equal(p[1].tests, "[{\"stdin\":\"1\",\"stdout\":\"2\"}]");
    assert_null(p[1].answer);
    assert_int_equal(p[2].line, 4);
    assert_int_equal(p[2].num_tokens, 3);
    assert_int_equal(p[2].tokens[2], 7);
    assert_int_equal(p[2].prompt_tokens, 2);
    assert_true(p[2].loss_mask[2] && !p[2].loss_mask[1]);
    dataset_close(&d);
}

static void conversations_are_read(void **state)
{
    struct dataset *d = read_text(
        *state,
        "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":"
        "\"r\"}]}\n"
        "{\"prompt\":[{\"role\":\"user\",\"content\":\"q\"}],\"completion\":[{\"role\":"
        "\"assistant\","
        "\"content\":\"r\"}]}\n"
        "{\"data_source\":\"openai/gsm8k\",\"prompt\":[{\"role\":\"user\",\"content\":\"q\"}],"
        "\"reward_model\":{\"style\":\"rule\",\"ground_truth\":\"72\"}}\n"
        "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":"
        "\"p\"},{\"role\":\"assistant\",\"content\":\"r\"},{\"role\":\"user\",\"content\":"
        "\"q\"}]}\n");
    for (int i = 0; i < 4; i++)
        assert_string_equal(d->items[i].prompt, "q");
    assert_null(d->items[3].completion);
    assert_string_equal(d->items[1].conversation,
                        "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":"
                        "\"assistant\",\"content\":\"r\"}]}");
    for (int i = 0; i < 2; i++)
        assert_string_equal(d->items[i].completion, "r");
    assert_string_equal(d->items[2].answer, "72");
    assert_string_equal(d->items[2].source, "openai/gsm8k");
    dataset_close(&d);
    refuse(*state, "{\"messages\":[{\"content\":\"s\"}]}",
           "d.jsonl:1: message 0 must be an object with a text \"role\"");
}

static void steps_and_labels_are_read(void **state)
{
    struct dataset *d = read_text(
        *state,
        "{\"prompt\":\"p\",\"steps\":[\"a\",\"b\",\"c\"],\"label\":1}\n"
        "{\"prompt\":\"p\",\"completions\":[\"a\",\"b\"],\"labels\":[true,false]}\n"
        "{\"prompt\":\"p\",\"steps\":[{\"text\":\"a\"},{\"text\":\"b\"}],\"labels\":[0.5,null]}\n"
        "{\"prompt\":\"p\",\"steps\":[\"a\",\"b\"],\"label\":-1}\n");
    const struct problem *p = d->items;
    assert_string_equal(p[0].completion, "a\nb\nc");
    assert_int_equal(p[0].num_steps, 3);
    assert_true(p[0].labels[0] == 1 && p[0].labels[1] == 0 && isnan(p[0].labels[2]));
    assert_true(p[1].labels[0] == 1 && p[1].labels[1] == 0);
    assert_string_equal(p[2].steps[1], "b");
    assert_true(p[2].labels[0] == 0.5f && isnan(p[2].labels[1]));
    assert_true(p[3].labels[0] == 1 && p[3].labels[1] == 1);
    dataset_close(&d);
}

static void faults_name_file_line_and_text(void **state)
{
    refuse(*state, "", "no rows");
    refuse(*state, "\n \n\r\n", "no rows");
    refuse(*state, "{\"prompt\":\"p\"}\n{\"prompt\":\"p\"",
           "d.jsonl:2: the text ends where ',' or '}' is expected, in `{\"prompt\":\"p\"`");
    refuse(*state, "{\"prompt\":\"\xff\"}", "d.jsonl:1: the text is not valid UTF-8");
    refuse(*state, "[1]", "a row must be an object, found an array");
    refuse(*state, "{\"a\":1,\"b\":2}", "its columns are \"a\", \"b\"");
    refuse(*state, "{}", "its columns are none");
    refuse(*state, "{\"prompt\":{}}", "\"prompt\" must be text or a number, found an object");
    refuse(*state, "{\"prompt\":\"p\",\"answer\":[1]}", "\"answer\" must be text or a number");
    refuse(*state, "{\"prompt\":\"p\",\"steps\":[1]}", "\"steps\" must be an array of texts");
    refuse(*state, "{\"prompt\":\"p\",\"steps\":[\"a\"],\"labels\":[]}",
           "\"labels\" must be an array of 1");
    refuse(*state, "{\"prompt\":\"p\",\"steps\":[\"a\"],\"labels\":[2]}", "numbers of 0..1");
    refuse(*state, "{\"tokens\":[1.5]}", "\"tokens\" must hold whole numbers");
    refuse(*state, "{\"tokens\":[-1]}", "\"tokens\" must hold whole numbers");
    refuse(*state, "{\"tokens\":[]}", "at least one");
    refuse(*state, "{\"tokens\":[1],\"prompt_tokens\":2}",
           "\"prompt_tokens\" must be a whole number of 0..1");
    refuse(*state, "{\"tokens\":[1],\"loss_mask\":[1,1]}", "\"loss_mask\" must be an array of 1");
    refuse(*state, "{\"nums\":[],\"target\":1}", "\"nums\"");
    char line[400];
    snprintf(line, sizeof line, "{\"a\":\"%0300d\"}", 0);
    refuse(*state, line, "000...`");
    struct dataset *d = NULL;
    assert_int_equal(dataset_open(&d, "/nonexistent/d.jsonl", 0), ERR_DATA);
}

static void an_id_is_used_once_unless_the_rows_are_samples(void **state)
{
    refuse(*state,
           "{\"id\":\"x\",\"prompt\":\"p\"}\n{\"prompt\":\"q\"}\n{\"id\":\"x\",\"prompt\":\"r\"}\n",
           "d.jsonl:3: the id \"x\" is that of line 1");
    struct dataset *d = read_text(*state, "{\"id\":\"x\",\"sample\":0,\"prompt\":\"p\"}\n"
                                          "{\"id\":\"x\",\"sample\":1,\"prompt\":\"p\"}\n"
                                          "{\"id\":\"x\",\"completion\":\"c\"}\n"
                                          "{\"id\":\"x\",\"completion\":\"d\"}\n");
    assert_int_equal(d->count, 4);
    assert_int_equal(d->items[1].sample, 1);
    dataset_close(&d);
}

static void the_last_rows_are_held_out(void **state)
{
    struct place *p = *state;
    const char *text =
        "{\"prompt\":\"0\"}\n{\"prompt\":\"1\"}\n{\"prompt\":\"2\"}\n{\"prompt\":\"3\"}\n";
    assert_int_equal(file_write_atomic(p->path, text, strlen(text)), 0);
    static const struct {
        int limit, holdout, train, eval;
    } cases[] = {{0, 0, 4, 0}, {0, 1, 3, 1}, {0, 9, 0, 4}, {3, 1, 2, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rows *rows = NULL;
        assert_int_equal(rows_open(&rows, p->path, cases[i].limit, cases[i].holdout, "s"), 0);
        assert_int_equal(rows_train_count(rows), cases[i].train);
        assert_int_equal(rows_eval_count(rows), cases[i].eval);
        struct problem problem;
        struct arena a = {0};
        assert_int_equal(rows_problem(&problem, &a, rows, cases[i].train + cases[i].eval - 1), 0);
        assert_string_equal(problem.prompt, cases[i].limit ? "2" : "3");
        arena_free(&a);
        rows_close(&rows);
    }
}

// ---- the shared sets

static struct dataset *open_shared(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/data/%s", TEST_DATA, name);
    if (!file_exists(path)) {
        print_message("# %s is absent\n", path);
        skip();
    }
    struct dataset *d = NULL;
    if (dataset_open(&d, path, 0) != 0)
        fail_msg("%s", err_message());
    return d;
}

static void every_row_of_the_shared_sets_is_read(void **state)
{
    (void)state;
    enum {
        PROMPT = 1,
        ANSWER = 2,
        COMPLETION = 4,
        TESTS = 8,
        PUZZLE = 16,
        STEPS = 32,
        LABELS = 64
    };
    static const struct {
        const char *name;
        int rows;
        unsigned has; // what each row has
    } sets[] = {
        {"gsm8k/train.jsonl.gz", 7473, PROMPT | ANSWER | COMPLETION},
        {"gsm8k/test.jsonl.gz", 1319, PROMPT | ANSWER | COMPLETION},
        {"code/HumanEval.jsonl.gz", 164, PROMPT | COMPLETION | TESTS},
        {"code/mbpp.jsonl.gz", 803, PROMPT | COMPLETION | TESTS},
        {"code/humaneval_cpp.jsonl.gz", 161, PROMPT | TESTS},
        {"code/humaneval_example_samples.jsonl", 6, COMPLETION},
        {"code/adversarial_code.jsonl", 19, COMPLETION | TESTS},
        {"math/math500.jsonl.gz", 500, PROMPT | ANSWER | COMPLETION},
        {"math/math_test5000.jsonl.gz", 5000, PROMPT | ANSWER | COMPLETION},
        {"math/math_train7500_answers.jsonl.gz", 7500, PROMPT | ANSWER},
        {"countdown/countdown_cd3.jsonl.gz", 203, PROMPT | PUZZLE},
        {"countdown/game24.jsonl.gz", 1085, PROMPT | PUZZLE},
        {"process/game24_gpt4_cot.jsonl.gz", 8200, PROMPT | PUZZLE | STEPS | COMPLETION},
        {"processbench/gsm8k.jsonl.gz", 345, PROMPT | STEPS | LABELS | COMPLETION},
        {"processbench/omnimath.jsonl.gz", 850, PROMPT | STEPS | LABELS | COMPLETION},
        {"rollouts/llada_gsm8k.jsonl.gz", 2670, PROMPT | ANSWER | COMPLETION},
        {"rollouts/llada_math500.jsonl.gz", 1182, PROMPT | ANSWER | COMPLETION},
        {"word_problems/svamp.jsonl.gz", 802, PROMPT | ANSWER},
        {"word_problems/mawps.jsonl.gz", 1686, PROMPT | ANSWER},
        {"graders/adversarial_math.jsonl", 75, ANSWER | COMPLETION},
    };
    for (size_t s = 0; s < sizeof sets / sizeof *sets; s++) {
        struct dataset *d = open_shared(sets[s].name);
        assert_int_equal(d->count, sets[s].rows);
        for (int i = 0; i < d->count; i++) {
            const struct problem *p = &d->items[i];
            const unsigned has = (p->prompt ? PROMPT : 0) | (p->answer ? ANSWER : 0) |
                                 (p->completion ? COMPLETION : 0) | (p->tests ? TESTS : 0) |
                                 (p->puzzle ? PUZZLE : 0) | (p->steps ? STEPS : 0) |
                                 (p->labels ? LABELS : 0);
            if (has != sets[s].has)
                fail_msg("%s:%d has %u, not %u", sets[s].name, p->line, has, sets[s].has);
            assert_true(p->id && *p->id);
        }
        dataset_close(&d);
    }
}

static void gsm8k_humaneval_and_mbpp_become_what_they_mean(void **state)
{
    (void)state;
    struct dataset *d = open_shared("gsm8k/train.jsonl.gz");
    assert_non_null(strstr(d->items[0].prompt, "Natalia sold clips"));
    assert_non_null(strstr(d->items[0].answer, "#### 72"));
    assert_string_equal(d->items[7472].id, "7473");
    dataset_close(&d);
    d = open_shared("code/HumanEval.jsonl.gz");
    assert_string_equal(d->items[0].id, "HumanEval/0");
    assert_non_null(strstr(d->items[0].tests, "\\n\\ncheck(has_close_elements)\\n\""));
    dataset_close(&d);
    d = open_shared("code/mbpp.jsonl.gz");
    assert_string_equal(d->items[0].id, "1");
    assert_int_equal(strncmp(d->items[0].tests, "\"assert min_cost(", 17), 0);
    dataset_close(&d);
    d = open_shared("word_problems/svamp.jsonl.gz");
    assert_string_equal(d->items[0].id, "chal-777");
    assert_non_null(strstr(d->items[0].prompt, "into 93 groups. How big is each group"));
    assert_string_equal(d->items[0].answer, "145.0");
    dataset_close(&d);
}

#define IN_A_PLACE(test) cmocka_unit_test_setup_teardown(test, make_place, remove_place)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_A_PLACE(our_own_columns_are_read),
        IN_A_PLACE(conversations_are_read),
        IN_A_PLACE(steps_and_labels_are_read),
        IN_A_PLACE(faults_name_file_line_and_text),
        IN_A_PLACE(an_id_is_used_once_unless_the_rows_are_samples),
        IN_A_PLACE(the_last_rows_are_held_out),
        cmocka_unit_test(every_row_of_the_shared_sets_is_read),
        cmocka_unit_test(gsm8k_humaneval_and_mbpp_become_what_they_mean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
