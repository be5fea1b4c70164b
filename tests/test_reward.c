// SPDX-License-Identifier: Apache-2.0
// Splitting into steps, answers, formats and the composition of scorers.
#include "base/error.h"
#include "reward/answer.h"
#include "reward/format.h"
#include "reward/reward.h"
#include "reward/split.h"
#include "tests/data_rows.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

// ---- steps

static void steps_end_at_separators_and_blank_pieces_are_none(void **state)
{
    (void)state;
    static const struct {
        const char *text, *separator, *pieces; // pieces joined by '|'
    } rows[] = {{"a\nb\n", NULL, "a|b"},
                {"a\nb", "", "a|b"},
                {"\n \na\n\t\r\n\nb\n\n", NULL, "a|b"},
                {"", NULL, ""},
                {"\n\n", NULL, ""},
                {"a\n\nb\nc", "\n\n", "a|b\nc"},
                {"a<s>b<s>", "<s>", "a|b"},
                {"a\n\n\nb", "\n\n", "a|\nb"},
                {" a ", NULL, " a "}};
    struct arena a = {0};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct reward_step *steps;
        struct strbuf joined = {0};
        const int n =
            steps_split(&steps, &a, rows[i].text, strlen(rows[i].text), rows[i].separator, NULL, 0);
        strbuf_puts(&joined, "");
        for (int j = 0; j < n; j++) {
            strbuf_puts(&joined, j > 0 ? "|" : "");
            strbuf_append(&joined, rows[i].text + steps[j].begin, steps[j].end - steps[j].begin);
            assert_int_equal(steps[j].token, -1);
        }
        assert_string_equal(n > 0 ? joined.data : "", rows[i].pieces);
        strbuf_free(&joined);
    }
    arena_free(&a);
}

static void a_step_ends_in_the_token_with_the_last_byte_of_its_separator(void **state)
{
    (void)state;
    //                  tokens: "ab" "c\n" "\n" "d" ")\n" "e" <eos>
    const char *text = "abc\n\nd)\ne";
    const int ends[] = {2, 4, 5, 6, 8, 9, 9};
    struct arena a = {0};
    struct reward_step *steps;
    assert_int_equal(steps_split(&steps, &a, text, strlen(text), "\n", ends, 7), 3);
    assert_int_equal(steps[0].token, 1);
    assert_int_equal(steps[1].token, 4);
    assert_int_equal(steps[2].token, 5); // unterminated: its own last byte, not the stop token
    assert_int_equal(steps_split(&steps, &a, text, strlen(text), "\n\n", ends, 7), 2);
    assert_int_equal(steps[0].token, 2);
    assert_int_equal(steps_split(&steps, &a, "a\0\nb", 4, "\n", NULL, 0),
                     2); // NUL is a byte like any other
    arena_free(&a);
}

// ---- answers

static void answers_are_found_where_texts_state_them(void **state)
{
    (void)state;
    static const struct {
        const char *text, *answer; // NULL: none
    } rows[] = {{"so \\boxed{1} and \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"},
                {"5 apples\n#### 1,234\nnice", "1,234"},
                {"The answer is 42.", "42."},
                {"the Answer is: 7 cm\nbye 8", "7 cm"},
                {"Final Answer: x + 1", "x + 1"},
                {"we get 3, then 4.5 in the end", "4.5"},
                {"it costs $1,250.", "1,250"},
                {"from 3-4 it is -4", "-4"},
                {"range 3-4", "4"},
                {"a half is 1/2", "1/2"},
                {"\\boxed{unclosed, 3", "3"},
                {"nothing", NULL},
                {"", NULL}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct answer_span s;
        const bool found = answer_find(&s, rows[i].text, strlen(rows[i].text));
        if (found != (rows[i].answer != NULL) ||
            (found &&
             (s.len != strlen(rows[i].answer) || memcmp(s.text, rows[i].answer, s.len) != 0)))
            fail_msg("'%s': '%.*s'", rows[i].text, found ? (int)s.len : 0, found ? s.text : "");
    }
}

static void answers_are_compared_exactly(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        bool equal;
    } rows[] = {{"18", "18", true},
                {"18", "18.0", true},
                {"18", "18.00000000000000000001", false},
                {"0.3", "3/10", true},
                {"0.333", "1/3", false},
                {"1,234", "1234", true},
                {"1,234,567.5", "1234567.5", true},
                {"12,34", "1234", false},
                {"1,2", "12", false},
                {"-5",
                 "\xE2\x88\x92"
                 "5",
                 true},
                {"+5", "5", true},
                {"-5", "5", false},
                {"\\frac{1}{2}", "0.5", true},
                {"-\\dfrac{3}{4}", "-0.75", true},
                {"$18", "18", true},
                {"$18$", "18", true},
                {"\\(18\\)", "18", true},
                {"18 dollars", "18", true},
                {"18 dollars.", "$18.00", true},
                {"5 pi", "5", false},
                {"3 million", "3", false},
                {"2x", "2", false},
                {"7 or 8", "7", false},
                {"50%", "50", true},
                {"50\\%", "0.5", true},
                {"50%", "5", false},
                {"0.5", "50", false},
                {"1/0", "1", false},
                {"1e3", "1000", false},
                {"\\text{Monday}", "Monday", true},
                {"x + 1", "x+1", true},
                {"x + 1", "x + 2", false},
                {"**18**", "18", true},
                {".5", "1/2", true},
                {"007", "7", true},
                {"123456789012345678901234567890", "123456789012345678901234567891", false},
                {"", "", false}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        const struct answer_span a = {rows[i].a, strlen(rows[i].a)},
                                 b = {rows[i].b, strlen(rows[i].b)};
        if (answer_equal(a, b) != rows[i].equal || answer_equal(b, a) != rows[i].equal)
            fail_msg("'%s' and '%s'", rows[i].a, rows[i].b);
    }
}

struct agreement {
    int rows, agree;
};

static double score_answer(const char *gold, const char *text)
{
    const struct reward_reference ref = {.answer = gold};
    const struct reward_item item = {
        .completion = text, .len = strlen(text), .finished = true, .ref = &ref};
    const struct reward_scorer s = answer_scorer();
    struct arena a = {0};
    struct reward_result r;
    assert_int_equal(s.score(s.state, &a, &r, &item, 1), 0);
    assert_true(r.valid);
    arena_free(&a);
    return r.value;
}

static void check_gsm8k_row(void *arg, const struct json_doc *doc)
{
    struct agreement *sum = arg;
    const struct json *row = json_root(doc);
    const char *gold = strstr(json_string(json_get(row, "ground_truth")), "A: ");
    assert_non_null(gold);
    static const char *const systems[] = {"6b_finetuning", "6b_verification", "175b_finetuning",
                                          "175b_verification"};
    for (int k = 0; k < 4; k++) {
        const struct json *s = json_get(row, systems[k]);
        sum->agree += score_answer(gold + 3, json_string(json_get(s, "solution"))) ==
                      json_is_true(json_get(s, "is_correct"));
        sum->rows++;
    }
}

static void real_gsm8k_solutions_are_judged_as_their_authors_did(void **state)
{
    (void)state;
    struct agreement sum = {0};
    data_rows("data/gsm8k/example_model_solutions.jsonl.gz", check_gsm8k_row, &sum);
    assert_int_equal(sum.rows, 4 * 1319);
    assert_int_equal(sum.agree, sum.rows);
}

static void check_gold(void *arg, const struct json_doc *doc)
{
    struct agreement *sum = arg;
    const char *answer = json_string(json_get(json_root(doc), "answer"));
    const struct answer_span gold = answer_of_reference(answer);
    const char *mark = strstr(answer, "#### ");
    assert_non_null(mark);
    sum->agree += gold.len == strlen(mark + 5) && memcmp(gold.text, mark + 5, gold.len) == 0 &&
                  score_answer(answer, answer) == 1;
    sum->rows++;
}

static void every_gold_answer_of_gsm8k_is_found_and_right(void **state)
{
    (void)state;
    struct agreement sum = {0};
    data_rows("data/gsm8k/test.jsonl.gz", check_gold, &sum);
    assert_int_equal(sum.rows, 1319);
    assert_int_equal(sum.agree, sum.rows);
}

// ---- format

static void formats_are_of_the_whole_completion(void **state)
{
    (void)state;
    const struct reward_puzzle integers = {{3, 8, 5}, 3, 55, PUZZLE_INTEGER};
    static const struct {
        const char *kind, *pattern, *text;
        double value;
    } rows[] = {{"steps", NULL, "3 + 8 = 11 (left: 11 5)\n1 + 1 = 3 (left: 3)\n", 1}, // form alone
                {"steps", NULL, "3 + 8 = 11 (left: 11 5)\nso\n", 0},
                {"steps", NULL, "", 0},
                {"", NULL, "3 + 8 = 11 (left: 11 5)\n", 1}, // by the reference
                {"program", NULL, "x = sorted(x)\nx = x[1:]\n", 1},
                {"program", NULL, "x = sorted(x)\nreturn x", 0},
                {"program", NULL, "x == 1", 0},
                {"program", NULL, "1 = x", 0},
                {"program", NULL, "x = ", 0},
                {"think", NULL, "<think>hm\n</think>\n42", 1},
                {"think", NULL, "<think></think>a", 1},
                {"think", NULL, "<think>hm</think> \n", 0},
                {"think", NULL, "well <think>hm</think>42", 0},
                {"think", NULL, "<think>hm 42", 0},
                {"think", NULL, "<think>a</think>b</think>c", 0},
                {"think", NULL, "<think>a<think>b</think>c", 0},
                {"pattern", "\\d+", "42", 1},
                {"pattern", "\\d+", "42 ", 0},
                {"pattern", "(?s).*end", "a\nend", 1},
                {"pattern", "\\d+|\\d+ apples", "42 apples", 1}};
    struct arena a = {0};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct reward_scorer s;
        assert_int_equal(format_scorer_open(&s, rows[i].kind, rows[i].pattern), 0);
        const struct reward_reference ref = {.puzzle = &integers};
        struct reward_item item = {
            .completion = rows[i].text, .len = strlen(rows[i].text), .finished = true, .ref = &ref};
        struct reward_result r;
        assert_int_equal(s.score(s.state, &a, &r, &item, 1), 0);
        if (!r.valid || r.value != rows[i].value)
            fail_msg("%s '%s'", rows[i].kind, rows[i].text);
        item.finished = false;
        assert_int_equal(s.score(s.state, &a, &r, &item, 1), 0);
        assert_true(r.valid && r.value == 0); // cut
        s.close(s.state);
    }
    arena_free(&a);
}

static void a_pattern_that_explodes_is_unscorable_not_slow(void **state)
{
    (void)state;
    struct reward_scorer s;
    assert_int_equal(format_scorer_open(&s, "pattern", "(a|aa)+b(*COMMIT)c|(x+x+)+y"), 0);
    char text[2000];
    memset(text, 'x', sizeof(text));
    const struct reward_item item = {.completion = text, .len = sizeof(text), .finished = true};
    struct arena a = {0};
    struct reward_result r;
    assert_int_equal(s.score(s.state, &a, &r, &item, 1), 0);
    assert_false(r.valid);
    assert_non_null(strstr(r.reason, "limit"));
    s.close(s.state);
    arena_free(&a);
}

static void bad_formats_are_config_errors(void **state)
{
    (void)state;
    struct reward_scorer s;
    assert_int_equal(format_scorer_open(&s, "poem", NULL), ERR_CONFIG);
    assert_non_null(strstr(err_message(), "poem"));
    assert_int_equal(format_scorer_open(&s, "pattern", NULL), ERR_CONFIG);
    assert_int_equal(format_scorer_open(&s, "think", "a"), ERR_CONFIG);
    assert_int_equal(format_scorer_open(&s, "pattern", "(a"), ERR_CONFIG);
    assert_non_null(strstr(err_message(), "byte 2"));
}

// ---- composition

// A scorer that values a completion by its first byte: a digit is that value for it and for each of
// its steps; '?' cannot be scored.
static int score_digit(void *state, struct arena *a, struct reward_result *out,
                       const struct reward_item *items, int n)
{
    ++*(int *)state;
    for (int i = 0; i < n; i++) {
        const char c = items[i].completion[0];
        if (c == '!')
            return err_set(ERR_ENV, "gone");
        if (c == '?') {
            reward_set_unscorable(&out[i], "not a digit");
            continue;
        }
        reward_set_value(&out[i], c == 'n' ? (double)NAN : c - '0');
        out[i].num_steps =
            steps_split(&out[i].steps, a, items[i].completion, items[i].len, NULL, NULL, 0);
        for (int j = 0; j < out[i].num_steps; j++) {
            out[i].steps[j].value = c - '0';
            out[i].steps[j].valid = true;
        }
    }
    return 0;
}

static void close_digit(void *state) { *(int *)state += 1000; }

static void rewards_are_weighted_sums_and_one_failure_makes_them_unscorable(void **state)
{
    (void)state;
    int calls = 0;
    const struct reward_scorer digit = {"digit", score_digit, close_digit, &calls};
    const struct reward_component components[] = {
        {.use = "digit", .weight = 2},
        {.use = "format", .weight = 0.5, .kind = "pattern", .pattern = "[^x]*"},
        {.use = "digit", .weight = 0.25, .per_step = true},
        {.use = "digit", .weight = 1, .per_step = true},
        {.use = "answer", .weight = 0}}; // measured only: has no reference
    struct reward *r;
    assert_int_equal(reward_open(&r, components, 5, &digit, 1), 0);
    assert_int_equal(reward_num_components(r), 5);
    assert_string_equal(reward_component_name(r, 0), "digit");
    assert_string_equal(reward_component_name(r, 2), "digit_2");
    assert_string_equal(reward_component_name(r, 3), "digit_3");
    assert_true(reward_has_steps(r));
    const struct reward_item items[] = {{.completion = "3\n4\n", .len = 4, .finished = true},
                                        {.completion = "?", .len = 1, .finished = true},
                                        {.completion = "1x", .len = 2, .finished = true},
                                        {.completion = "n", .len = 1, .finished = true}};
    struct arena a = {0};
    struct reward_score s[4];
    assert_int_equal(reward_run(r, &a, s, items, 4), 0);
    assert_int_equal(calls, 3);
    assert_true(s[0].total.valid && s[0].total.value == 2 * 3 + 0.5);
    assert_int_equal(s[0].total.num_steps, 2);
    for (int j = 0; j < 2; j++)
        assert_true(s[0].total.steps[j].valid && s[0].total.steps[j].value == 3 * 1.25);
    assert_true(s[0].parts[1].valid && s[0].parts[1].value == 1);
    assert_false(s[0].parts[4].valid);
    assert_false(s[1].total.valid);
    assert_string_equal(s[1].total.reason, "digit: not a digit");
    assert_true(s[2].total.valid && s[2].total.value == 2);
    assert_false(s[3].total.valid); // NaN is no value
    const struct reward_item gone = {.completion = "!", .len = 1};
    assert_int_equal(reward_run(r, &a, s, &gone, 1), ERR_ENV);
    reward_close(&r);
    assert_null(r);
    assert_int_equal(calls / 1000, 1);
    arena_free(&a);
}

static void unknown_scorers_and_stray_keys_are_config_errors(void **state)
{
    (void)state;
    int calls = 0;
    const struct reward_scorer digit = {"digit", score_digit, close_digit, &calls};
    struct reward *r = NULL;
    const struct reward_component unknown[] = {{.use = "format", .weight = 1},
                                               {.use = "oracle", .weight = 1}};
    assert_int_equal(reward_open(&r, unknown, 2, &digit, 1), ERR_CONFIG);
    assert_non_null(strstr(err_message(), "oracle"));
    assert_int_equal(calls, 1000); // taken over, so closed
    const struct reward_component stray = {.use = "steps", .weight = 1, .pattern = "a"};
    assert_int_equal(reward_open(&r, &stray, 1, NULL, 0), ERR_CONFIG);
    assert_null(r);
}

static void steps_of_different_splits_are_not_added_up(void **state)
{
    (void)state;
    int calls = 0;
    const struct reward_scorer digit = {"digit", score_digit, NULL, &calls};
    const struct reward_component components[] = {
        {.use = "digit", .weight = 1, .per_step = true},
        {.use = "steps", .weight = 1, .per_step = true, .separator = ";"}};
    const struct reward_puzzle p = {{3, 8, 5}, 3, 55, PUZZLE_INTEGER};
    const struct reward_reference ref = {.puzzle = &p};
    const struct reward_item item = {
        .completion = "3;4\n5", .len = 5, .finished = true, .ref = &ref};
    struct reward *r;
    struct reward_score s;
    struct arena a = {0};
    assert_int_equal(reward_open(&r, components, 2, &digit, 1), 0);
    assert_int_equal(reward_run(r, &a, &s, &item, 1), 0);
    assert_false(s.total.valid);
    assert_non_null(strstr(s.total.reason, "steps"));
    reward_close(&r);
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_end_at_separators_and_blank_pieces_are_none),
        cmocka_unit_test(a_step_ends_in_the_token_with_the_last_byte_of_its_separator),
        cmocka_unit_test(answers_are_found_where_texts_state_them),
        cmocka_unit_test(answers_are_compared_exactly),
        cmocka_unit_test(real_gsm8k_solutions_are_judged_as_their_authors_did),
        cmocka_unit_test(every_gold_answer_of_gsm8k_is_found_and_right),
        cmocka_unit_test(formats_are_of_the_whole_completion),
        cmocka_unit_test(a_pattern_that_explodes_is_unscorable_not_slow),
        cmocka_unit_test(bad_formats_are_config_errors),
        cmocka_unit_test(rewards_are_weighted_sums_and_one_failure_makes_them_unscorable),
        cmocka_unit_test(unknown_scorers_and_stray_keys_are_config_errors),
        cmocka_unit_test(steps_of_different_splits_are_not_added_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
