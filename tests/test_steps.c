// SPDX-License-Identifier: Apache-2.0
// The step checker against the labels of 8,200 real chains and 5,977 real positions, and the rules
// of both games.
#include "base/file.h"
#include "base/json.h"
#include "reward/countdown.h"
#include "reward/steps.h"
#include "tests/data_rows.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static int64_t integer(const struct json_doc *doc, const struct json *v)
{
    int64_t x = 0;
    assert_true(json_int(doc, v, INT64_MIN, INT64_MAX, &x));
    return x;
}

// true, false, 1 and 0 alike; false when absent.
static bool flag(const struct json *v)
{
    double x = 0;
    return json_is_true(v) || (json_double(v, &x) && x != 0);
}

static struct reward_puzzle read_puzzle(const struct json_doc *doc, const struct json *row)
{
    struct reward_puzzle p = {.target = integer(doc, json_get(row, "target")),
                              .rules = PUZZLE_RATIONAL};
    for (const struct json *v = json_first(json_get(row, "nums")); v != NULL; v = json_next(v))
        p.numbers[p.num_numbers++] = integer(doc, v);
    return p;
}

// ---- real chains

struct totals {
    int chains, steps, correct;
};

static void check_chain(void *arg, const struct json_doc *doc)
{
    struct totals *totals = arg;
    const struct json *row = json_root(doc), *steps = json_get(row, "steps");
    const struct reward_puzzle p = read_puzzle(doc, row);
    struct chain *c;
    assert_true(chain_open(&c, &p));
    int index = 0, first_invalid = -1, first_dead = -1;
    for (const struct json *s = json_first(steps); s != NULL; s = json_next(s), index++) {
        const char *text = json_string(json_get(s, "text"));
        const struct step_labels l = chain_step(c, text, strlen(text));
        if (l.parsed != flag(json_get(s, "parsed")) ||
            l.arith_ok != flag(json_get(s, "arith_ok")) ||
            l.left_ok != flag(json_get(s, "left_ok")) || l.valid != flag(json_get(s, "valid")) ||
            l.reachable != flag(json_get(s, "reachable")))
            fail_msg("%s step %d '%s'", json_string(json_get(row, "id")), index, text);
        first_invalid = first_invalid < 0 && !l.valid ? index : first_invalid;
        first_dead = first_dead < 0 && !l.reachable ? index : first_dead;
    }
    chain_free(&c);
    assert_int_equal(first_invalid, integer(doc, json_get(row, "first_invalid")));
    assert_int_equal(first_dead, integer(doc, json_get(row, "first_dead")));
    const char *answer = json_string(json_get(row, "answer"));
    const bool correct = answer != NULL && countdown_expression(answer, strlen(answer), p.numbers,
                                                                p.num_numbers, p.target);
    assert_int_equal(correct, flag(json_get(row, "correct")));
    totals->chains++;
    totals->steps += index;
    totals->correct += correct;
}

static void every_label_of_the_8200_chains_is_reproduced(void **state)
{
    (void)state;
    struct totals totals = {0};
    data_rows("data/process/game24_gpt4_cot.jsonl.gz", check_chain, &totals);
    assert_int_equal(totals.chains, 8200);
    assert_int_equal(totals.steps, 27951);
    assert_int_equal(totals.correct, 334);
}

// The same chains as completions: the scorer must say what the labels say.
static void score_chain(void *arg, const struct json_doc *doc)
{
    struct totals *totals = arg;
    const struct json *row = json_root(doc), *steps = json_get(row, "steps");
    const struct reward_puzzle p = read_puzzle(doc, row);
    const char *answer = json_string(json_get(row, "answer"));
    struct strbuf text = {0};
    for (const struct json *s = json_first(steps); s != NULL; s = json_next(s))
        strbuf_printf(&text, "%s\n", json_string(json_get(s, "text")));
    strbuf_printf(&text, "Answer: %s", answer != NULL ? answer : "");
    const struct reward_reference ref = {.puzzle = &p};
    const struct reward_item item = {
        .completion = text.data, .len = text.len, .finished = true, .ref = &ref};
    const struct reward_scorer scorer = steps_scorer(NULL);
    struct arena a = {0};
    struct reward_result r;
    assert_int_equal(scorer.score(scorer.state, &a, &r, &item, 1), 0);
    assert_true(r.valid);
    assert_int_equal(r.num_steps, json_count(steps));
    assert_int_equal(r.first_wrong, integer(doc, json_get(row, "first_invalid")));
    assert_true(r.value == flag(json_get(row, "correct")));
    const struct json *s = json_first(steps);
    for (int i = 0; i < r.num_steps; i++, s = json_next(s))
        assert_true(r.steps[i].valid && r.steps[i].value == flag(json_get(s, "reachable")));
    arena_free(&a);
    strbuf_free(&text);
    totals->chains++;
    totals->steps += r.num_steps;
}

static void the_scorer_says_what_the_labels_say(void **state)
{
    (void)state;
    struct totals totals = {0};
    data_rows("data/process/game24_gpt4_cot.jsonl.gz", score_chain, &totals);
    assert_int_equal(totals.steps, 27951);
}

static void check_position(void *arg, const struct json_doc *doc)
{
    struct totals *totals = arg;
    const struct json *row = json_root(doc), *left = json_get(row, "left");
    struct fraction numbers[PUZZLE_NUMBERS_MAX];
    int n = 0;
    for (const struct json *v = json_first(left); v != NULL; v = json_next(v)) {
        double x;
        if (!json_double(v, &x) || x != floor(x) || n == PUZZLE_NUMBERS_MAX)
            return; // decimals were rounded when the rows were written
        numbers[n++] = (struct fraction){(int64_t)x, 1};
    }
    if (n == 0)
        return;
    const struct json *expected = json_get(row, "reachable_from_left");
    assert_int_equal(fractions_reachable(numbers, n, 24), flag(expected));
    totals->chains++;
}

static void real_positions_are_judged_as_their_solver_did(void **state)
{
    (void)state;
    struct totals totals = {0};
    data_rows("data/process/game24_tot_values.jsonl.gz", check_position, &totals);
    print_message("# %d positions of whole numbers\n", totals.chains);
    assert_true(totals.chains > 4500);
}

// ---- rules

struct line {
    const char *text;
    const char *labels; // of p a l v r: those that hold
};

static void check_lines(const struct reward_puzzle *p, const struct line *lines, int n)
{
    struct chain *c;
    assert_true(chain_open(&c, p));
    for (int i = 0; i < n; i++) {
        const struct step_labels l = chain_step(c, lines[i].text, strlen(lines[i].text));
        char got[6];
        snprintf(got, sizeof(got), "%s%s%s%s%s", l.parsed ? "p" : "", l.arith_ok ? "a" : "",
                 l.left_ok ? "l" : "", l.valid ? "v" : "", l.reachable ? "r" : "");
        if (strcmp(got, lines[i].labels) != 0)
            fail_msg("'%s': %s, expected %s", lines[i].text, got, lines[i].labels);
    }
    chain_free(&c);
}

#define CHECK(puzzle, ...)                                                                         \
    do {                                                                                           \
        const struct line lines_[] = {__VA_ARGS__};                                                \
        check_lines(puzzle, lines_, (int)(sizeof(lines_) / sizeof(lines_[0])));                    \
    } while (0)

static void integer_rules_hold_step_by_step(void **state)
{
    (void)state;
    const struct reward_puzzle p = {{3, 8, 5}, 3, 55, PUZZLE_INTEGER}; // (3 + 8) * 5
    CHECK(&p, {"3 + 8 = 11 (left: 11 5)", "palvr"}, {"11 * 5 = 55 (left: 55)", "palvr"});
    CHECK(&p, {"8 + 3 = 11 (left: 5 11)", "palvr"}, {"5 * 11 = 55 (left: 55)", "palvr"});
    CHECK(&p, {"8 - 3 = 5 (left: 5 5)", "palv"}, {"5 * 5 = 25 (left: 25)", "palv"}); // out of reach
    CHECK(&p, {"3 - 8 = 5 (left: 5 5)", "pl"}); // smaller minus larger
    CHECK(&p, {"3 - 8 = -5 (left: -5 5)", ""}); // no signs
    CHECK(&p, {"8 / 3 = 2 (left: 2 5)", "pl"}); // not exact
    CHECK(&p, {"8 * 3 = 25 (left: 25 5)", "pl"},
          {"25 + 5 = 30 (left: 30)", "palv"});      // one slip is one wrong step
    CHECK(&p, {"8 * 8 = 64 (left: 3 5 64)", "pa"}); // one 8 only
    CHECK(&p, {"8 + 3 = 11 (left: 11 5 5)", "pa"});
    CHECK(&p, {"8 + 3 = 11 (left: 5)", "pa"});
    CHECK(&p, {"8 + 3 = 11 (left: 11 5) ok", ""}, {"8 + 3 = 11", ""},
          {"8 + 3 = 11 (left: 11 5", ""}, {"", ""});
    CHECK(&p, {"8 + 3 = 011 (left: 11 5)", ""}, {"8.0 + 3 = 11 (left: 11 5)", ""});
    CHECK(&p, {"8+3=11 (left: 11 5)", "palvr"});
    const struct reward_puzzle big = {{20, 20, 2}, 3, 200, PUZZLE_INTEGER};
    CHECK(&big, {"20 * 20 = 400 (left: 400 2)", "pl"}); // results end at 399
    const struct reward_puzzle zero = {{5, 5, 3}, 3, 0, PUZZLE_INTEGER};
    CHECK(&zero, {"5 - 5 = 0 (left: 0 3)", "palvr"}, {"3 / 0 = 0 (left: 0)", "pl"});
    CHECK(&zero, {"5 - 5 = 0 (left: 0 3)", "palvr"}, {"0 / 3 = 0 (left: 0)", "palvr"});
}

static void fraction_rules_hold_step_by_step(void **state)
{
    (void)state;
    const struct reward_puzzle p = {{3, 3, 8, 8}, 4, 24, PUZZLE_RATIONAL}; // 8 / (3 - 8/3)
    CHECK(&p, {"8 / 3 = 8/3 (left: 3 8/3 8)", "palvr"}, {"3 - 8/3 = 1/3 (left: 1/3 8)", "palvr"},
          {"8 / 1/3 = 24 (left: 24)", "palvr"});
    CHECK(&p, {"8/3 = 8/3 (left: 3 8/3 8)", "palvr"});
    CHECK(&p, {"8 / 3 = 2.667 (left: 2.667 3 8)",
               "palv"}); // within 0.005, but 24 cannot be made from it exactly
    CHECK(&p, {"8 / 3 = 2.66 (left: 2.66 3 8)", "pl"});
    CHECK(&p, {"3 - 8 = -5 (left: -5 3 8)", "palv"});
    CHECK(&p, {"3 / 0 = 0 (left: 0 3 8)", "p"}, {"3 + 1/0 = 4 (left: 4)", ""});
    CHECK(&p,
          {"99999999999999999999999999999999999999999999999999999999999999999 + 3 = 1 (left: 1)",
           ""});
}

static void outcomes_need_an_end_valid_steps_and_the_target(void **state)
{
    (void)state;
    const struct reward_puzzle integer = {{3, 8, 5}, 3, 55, PUZZLE_INTEGER};
    const struct reward_puzzle rational = {{3, 8, 5}, 3, 55, PUZZLE_RATIONAL},
                               broken = {{400, 1}, 2, 5, PUZZLE_INTEGER};
    const struct {
        const struct reward_puzzle *puzzle;
        const char *text;
        bool finished, valid, right;
        const char *reason;
    } rows[] = {
        {&integer, "3 + 8 = 11 (left: 11 5)\n11 * 5 = 55 (left: 55)\n", true, true, true, ""},
        {&integer, "3 + 8 = 11 (left: 11 5)\n\n11 * 5 = 55 (left: 55)", true, true, true, ""},
        {&integer, "3 + 8 = 11 (left: 11 5)\n11 * 5 = 55 (left: 55)\n", false, true, false,
         "cut at the length limit"},
        {&integer, "3 + 8 = 11 (left: 11 5)\n", true, true, false, "the target is not reached"},
        {&integer, "3 + 8 = 11 (left: 11 5)\n11 * 5 = 56 (left: 56)\n", true, true, false,
         "step 2 '11 * 5 = 56 (left: 56)' has a wrong result"},
        {&integer, "", true, true, false, "the target is not reached"},
        {&integer, "55", true, true, false,
         "step 1 '55' is not of the form 'a op b = c (left: ...)'"},
        {&integer, "Answer: (3 + 8) * 5", true, true, false,
         "step 1 'Answer: (3 + 8) * 5' is not of the form 'a op b = c (left: ...)'"},
        {&rational, "Answer: (3 + 8) * 5 = 55", true, true, true, ""},
        {&rational, "3 + 8 = 11 (left: 11 5)\n11 * 5 = 55 (left: 55)\nAnswer: 55", true, true,
         false, "the target is not reached"},
        {&broken, "", true, false, false, "a puzzle outside the rules of its game"},
        {NULL, "", true, false, false, "no puzzle to check against"},
    };
    const struct reward_scorer scorer = steps_scorer(NULL);
    struct arena a = {0};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct reward_reference ref = {.puzzle = rows[i].puzzle};
        const struct reward_item item = {.completion = rows[i].text,
                                         .len = strlen(rows[i].text),
                                         .finished = rows[i].finished,
                                         .ref = &ref};
        struct reward_result r;
        assert_int_equal(scorer.score(scorer.state, &a, &r, &item, 1), 0);
        assert_int_equal(r.valid, rows[i].valid);
        assert_true(!r.valid || r.value == rows[i].right);
        assert_string_equal(r.reason, rows[i].reason);
    }
    arena_free(&a);
}

static void flags_of_a_step_speak_of_all_before_it(void **state)
{
    (void)state;
    const struct reward_puzzle p = {{3, 8, 5}, 3, 55, PUZZLE_INTEGER};
    const char *text =
        "8 - 3 = 5 (left: 5 5)\n5 * 5 = 26 (left: 26)\n26 + 0 = 26 (left: 26)\nwell\n";
    const struct reward_reference ref = {.puzzle = &p};
    const struct reward_item item = {
        .completion = text, .len = strlen(text), .finished = true, .ref = &ref};
    const struct reward_scorer scorer = steps_scorer("\n");
    struct arena a = {0};
    struct reward_result r;
    assert_int_equal(scorer.score(scorer.state, &a, &r, &item, 1), 0);
    assert_int_equal(r.num_steps, 4);
    assert_int_equal(r.steps[0].flags, REWARD_STEP_PARSED | REWARD_STEP_VALID);
    assert_int_equal(r.steps[1].flags, REWARD_STEP_PARSED);
    assert_int_equal(r.steps[2].flags, REWARD_STEP_PARSED);
    assert_int_equal(r.steps[3].flags, 0);
    assert_int_equal(r.first_wrong, 1);
    assert_string_equal(r.reason, "step 1 '8 - 3 = 5 (left: 5 5)' leaves the target out of reach");
    arena_free(&a);
}

// ---- solvers and expressions

// Plays at random and keeps what it meets: every number so reached must be called reachable, from
// every position on the way.
static void what_random_play_reaches_is_reachable(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (int game = 0; game < 2000; game++) {
        int numbers[PUZZLE_NUMBERS_MAX], rest[PUZZLE_NUMBERS_MAX],
            path[PUZZLE_NUMBERS_MAX][PUZZLE_NUMBERS_MAX];
        const int n = 2 + game % 3;
        for (int i = 0; i < n; i++) {
            seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            numbers[i] = (int)(seed >> 33) % 31;
        }
        for (int k = n; k >= 1; k--) {
            memcpy(path[k - 1], numbers, sizeof(numbers));
            if (k == 1)
                break;
            struct countdown_move moves[COUNTDOWN_MOVES_MAX];
            const int count = countdown_moves(moves, numbers, k);
            seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            countdown_apply(rest, numbers, k, &moves[(seed >> 33) % (uint64_t)count]);
            memcpy(numbers, rest, sizeof(numbers));
        }
        for (int k = 1; k <= n; k++)
            assert_true(countdown_reachable(path[k - 1], k, numbers[0]));
    }
}

static void solvers_know_what_cannot_be_made(void **state)
{
    (void)state;
    assert_false(countdown_reachable((int[]){1, 1, 1, 1}, 4, 24));
    assert_false(countdown_reachable((int[]){3, 3, 8, 8}, 4, 24)); // only with fractions
    assert_true(countdown_reachable((int[]){20, 20}, 2, 40));
    assert_false(countdown_reachable((int[]){20, 20}, 2, 400));
    assert_false(countdown_reachable((int[]){20, 21, 14}, 3, 30)); // by way of 420
    assert_false(countdown_reachable((int[]){5}, 1, -5));
    const struct fraction hard[] = {{3, 1}, {3, 1}, {8, 1}, {8, 1}},
                          ones[] = {{1, 1}, {1, 1}, {1, 1}, {1, 1}};
    assert_true(fractions_reachable(hard, 4, 24));
    assert_false(fractions_reachable(ones, 4, 24));
    const struct fraction big[] = {{INT64_MAX, 2}, {INT64_MAX, 3}, {INT64_MIN + 1, 1}};
    assert_false(fractions_reachable(big, 3, 24)); // gives up, without overflow
}

static void expressions_are_worth_what_they_say(void **state)
{
    (void)state;
    const int64_t n[] = {6, 9, 12, 13};
    static const struct {
        const char *text;
        bool right;
    } rows[] = {{"(13 - 9) * (12 - 6)", true},
                {"(13 - 9) * (12 - 6) = 48", true},
                {"(13-9)*(12-6)=24", true},
                {"(13.0 - 9) * (12 - 6)", true},
                {"-(9 - 13) * (12 - 6)", true},
                {"(13 - 9) * 6", false},
                {"(13 - 9) * (12 - 6) + 0", false},
                {"(13 - 9) * (12 - 6", false},
                {"(13 - 9)) * (12 - 6)", false},
                {"(13 - 9) (12 - 6)", false},
                {"(13 - 9) * (12 - 6) apples", false},
                {"", false},
                {"=", false},
                {".", false},
                {"24", false},
                {"6 / (9 - 9) + 12 + 13", false},
                {"((((((((((((((((((((((((((((((((((((((((((((((((((6", false},
                {"99999999999999999999", false}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (countdown_expression(rows[i].text, strlen(rows[i].text), n, 4, 24) != rows[i].right)
            fail_msg("'%s'", rows[i].text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_label_of_the_8200_chains_is_reproduced),
        cmocka_unit_test(the_scorer_says_what_the_labels_say),
        cmocka_unit_test(real_positions_are_judged_as_their_solver_did),
        cmocka_unit_test(integer_rules_hold_step_by_step),
        cmocka_unit_test(fraction_rules_hold_step_by_step),
        cmocka_unit_test(outcomes_need_an_end_valid_steps_and_the_target),
        cmocka_unit_test(flags_of_a_step_speak_of_all_before_it),
        cmocka_unit_test(what_random_play_reaches_is_reachable),
        cmocka_unit_test(solvers_know_what_cannot_be_made),
        cmocka_unit_test(expressions_are_worth_what_they_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
