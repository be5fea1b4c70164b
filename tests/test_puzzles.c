// SPDX-License-Identifier: Apache-2.0
// The generators of games and programs: what they make can be solved, is the same every time, and
// never what was held out.
#include "base/error.h"
#include "reward/countdown.h"
#include "reward/steps.h"
#include "rl/games.h"
#include "rl/programs.h"
#include "tests/data_rows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const int three_and_four[] = {3, 4};
static const struct games_settings quickstart = {.numbers = three_and_four,
                                                 .num_numbers = 2,
                                                 .max = 30,
                                                 .target_min = 10,
                                                 .target_max = 99,
                                                 .holdout = 1000,
                                                 .wins = 1.0,
                                                 .seed = 7};

static struct games *open_games(const struct games_settings *s)
{
    struct games *g = NULL;
    assert_int_equal(games_open(&g, s), 0);
    return g;
}

// Sorted numbers and target, as text.
static void game_key(char key[64], const struct problem *p)
{
    int64_t n[PUZZLE_NUMBERS_MAX];
    memcpy(n, p->puzzle->numbers, sizeof(n));
    for (int i = 1; i < p->puzzle->num_numbers; i++)
        for (int j = i; j > 0 && n[j - 1] > n[j]; j--) {
            const int64_t swap = n[j];
            n[j] = n[j - 1];
            n[j - 1] = swap;
        }
    int len = snprintf(key, 64, "%lld:", (long long)p->puzzle->target);
    for (int i = 0; i < p->puzzle->num_numbers; i++)
        len += snprintf(key + len, 64 - (size_t)len, " %lld", (long long)n[i]);
}

static int compare_keys(const void *a, const void *b) { return strcmp(a, b); }

static double value_of(const struct problem *p, const char *completion)
{
    const struct reward_scorer s = steps_scorer(NULL);
    const struct reward_reference ref = {.puzzle = p->puzzle};
    const struct reward_item item = {
        .completion = completion, .len = strlen(completion), .finished = true, .ref = &ref};
    struct arena a = {0};
    struct reward_result r;
    assert_int_equal(s.score(s.state, &a, &r, &item, 1), 0);
    assert_true(r.valid);
    for (int i = 0; i < r.num_steps && r.value == 1; i++)
        assert_int_equal(r.steps[i].flags,
                         REWARD_STEP_PARSED | REWARD_STEP_VALID | REWARD_STEP_REACHABLE);
    arena_free(&a);
    return r.value;
}

static void every_game_is_within_its_settings_and_its_completion_wins(void **state)
{
    (void)state;
    struct games *g = open_games(&quickstart);
    struct arena a = {0};
    const struct arena_mark start = arena_mark(&a);
    int threes = 0;
    for (int i = 0; i < 2000; i++) {
        struct problem p;
        games_problem(&p, &a, g, (uint64_t)i);
        const struct reward_puzzle *q = p.puzzle;
        assert_true(q->num_numbers == 3 || q->num_numbers == 4);
        threes += q->num_numbers == 3;
        assert_true(q->target >= 10 && q->target <= 99 && q->rules == PUZZLE_INTEGER);
        for (int k = 0; k < q->num_numbers; k++)
            assert_true(q->numbers[k] >= 1 && q->numbers[k] <= 30);
        if (value_of(&p, p.completion) != 1)
            fail_msg("%s%s", p.prompt, p.completion);
        arena_release(&a, start);
    }
    assert_true(threes > 900 && threes < 1100); // as many as have four
    games_close(&g);
    arena_free(&a);
}

// Whether every step of a completion is valid, and whether the last leaves the target.
static bool is_legal(const struct problem *p, bool *wins)
{
    struct chain *c = NULL;
    assert_true(chain_open(&c, p->puzzle));
    bool legal = true;
    for (const char *line = p->completion; *line;) {
        const size_t len = strcspn(line, "\n");
        legal = legal && chain_step(c, line, len).valid;
        line += len + (line[len] == '\n');
    }
    *wins = chain_done(c);
    chain_free(&c);
    return legal;
}

static void lines_that_need_not_win_are_legal_and_as_many_as_said(void **state)
{
    (void)state;
    struct games_settings s = quickstart;
    s.numbers = (int[]){3};
    s.num_numbers = 1;
    s.wins = 0.7;
    struct games *g = open_games(&s);
    struct arena a = {0};
    int won = 0;
    for (int i = 0; i < 2000; i++) {
        struct problem p;
        bool wins;
        games_problem(&p, &a, g, (uint64_t)i);
        if (!is_legal(&p, &wins))
            fail_msg("%s%s", p.prompt, p.completion);
        won += wins;
        arena_release(&a, (struct arena_mark){0});
    }
    // 0.7, five standard errors of 0.01, and the random ones that happen to win (about one in
    // twenty)
    assert_true(won > 2000 * 0.65 && won < 2000 * 0.80);
    games_close(&g);
    arena_free(&a);
}

static void held_out_games_are_distinct_and_never_trained_on(void **state)
{
    (void)state;
    struct games_settings s = quickstart;
    s.numbers = (int[]){3};
    s.num_numbers = 1;
    s.max = 9; // a small world, so that training would meet them often
    s.target_max = 30;
    s.holdout = 300;
    struct games *g = open_games(&s);
    struct arena a = {0};
    char(*keys)[64] = calloc(300, 64);
    for (int i = 0; i < 300; i++) {
        struct problem p;
        games_holdout(&p, &a, g, i);
        assert_true(value_of(&p, p.completion) == 1);
        game_key(keys[i], &p);
    }
    qsort(keys, 300, 64, compare_keys);
    for (int i = 1; i < 300; i++)
        assert_string_not_equal(keys[i - 1], keys[i]);
    for (int i = 0; i < 20000; i++) {
        struct problem p;
        char key[64] = "";
        games_problem(&p, &a, g, (uint64_t)i);
        game_key(key, &p);
        assert_null(bsearch(key, keys, 300, 64, compare_keys));
    }
    free(keys);
    games_close(&g);
    arena_free(&a);
}

static void games_depend_on_seed_and_index_alone_and_held_out_ones_on_neither_seed(void **state)
{
    (void)state;
    struct games_settings other = quickstart;
    other.seed = 8;
    struct games *g = open_games(&quickstart), *h = open_games(&quickstart),
                 *k = open_games(&other);
    struct arena a = {0};
    int differ = 0;
    for (int i = 99; i >= 0; i--) { // in another order than the first time
        struct problem p, q, r;
        games_problem(&p, &a, g, (uint64_t)(99 - i));
        games_problem(&p, &a, g, (uint64_t)i);
        games_problem(&q, &a, h, (uint64_t)i);
        games_problem(&r, &a, k, (uint64_t)i);
        assert_string_equal(p.prompt, q.prompt);
        assert_string_equal(p.completion, q.completion);
        assert_string_equal(p.id, q.id);
        differ += strcmp(p.prompt, r.prompt) != 0;
        games_holdout(&p, &a, g, i);
        games_holdout(&r, &a, k, i);
        assert_string_equal(p.prompt, r.prompt);
    }
    assert_true(differ > 90);
    games_close(&g);
    games_close(&h);
    games_close(&k);
    arena_free(&a);
}

static void games_that_cannot_be_are_config_errors(void **state)
{
    (void)state;
    struct games *g = NULL;
    struct games_settings s = quickstart;
    s.max = 400;
    assert_int_equal(games_open(&g, &s), ERR_CONFIG);
    s = quickstart;
    s.target_max = 5;
    assert_int_equal(games_open(&g, &s), ERR_CONFIG);
    s = quickstart;
    s.numbers = (int[]){7};
    s.num_numbers = 1;
    assert_int_equal(games_open(&g, &s), ERR_CONFIG);
    s = quickstart;
    s.numbers = (int[]){2};
    s.num_numbers = 1;
    s.max = 2;
    s.target_min = 0;
    s.target_max = 4;
    s.holdout = 100; // 1 1, 1 2, 2 2 make 0..4 in ten ways
    assert_int_equal(games_open(&g, &s), ERR_CONFIG);
    assert_non_null(strstr(err_message(), "holdout"));
    assert_null(g);
}

// ---- real rows

struct totals {
    int rows, first, second;
};

static void check_real(void *arg, const struct json_doc *doc)
{
    struct totals *t = arg;
    struct arena a = {0};
    struct problem p;
    assert_int_equal(games_read(&p, &a, doc, json_root(doc)), 0);
    struct fraction n[PUZZLE_NUMBERS_MAX];
    for (int i = 0; i < p.puzzle->num_numbers; i++)
        n[i] = (struct fraction){p.puzzle->numbers[i], 1};
    assert_true(fractions_reachable(n, p.puzzle->num_numbers, p.puzzle->target));
    t->first += strcmp(p.source, "countdown_cd3") == 0 && p.puzzle->num_numbers == 3;
    t->second += strcmp(p.source, "game24") == 0 && p.puzzle->target == 24;
    t->rows++;
    arena_free(&a);
}

static void every_real_puzzle_is_read_and_has_a_solution(void **state)
{
    (void)state;
    struct totals t = {0};
    data_rows_of(TEST_GOLDEN "/../../configs/data/countdown.jsonl", check_real, &t);
    assert_int_equal(t.rows, 1288);
    assert_int_equal(t.first, 203);
    assert_int_equal(t.second, 1085);
}

static void bad_rows_name_their_line_and_key(void **state)
{
    (void)state;
    static const struct {
        const char *text, *key;
    } rows[] = {{"{\"target\":24}", "nums"},
                {"{\"nums\":[],\"target\":24}", "nums"},
                {"{\"nums\":[1,2,3,4,5,6,7],\"target\":24}", "nums"},
                {"{\"nums\":[1,2.5],\"target\":24}", "nums"},
                {"{\"nums\":[1,-2],\"target\":24}", "nums"},
                {"{\"nums\":[1,2]}", "target"},
                {"[1]", "nums"}};
    struct arena a = {0};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct json_doc *doc;
        struct problem p;
        assert_int_equal(
            json_parse(&doc, rows[i].text, strlen(rows[i].text), 0, "rows", 12, ERR_DATA), 0);
        assert_int_equal(games_read(&p, &a, doc, json_root(doc)), ERR_DATA);
        assert_non_null(strstr(err_message(), rows[i].key));
        assert_non_null(strstr(err_message(), "12"));
        json_free(&doc);
    }
    arena_free(&a);
}

// ---- programs

static struct programs *open_programs(int depth, int holdout, uint64_t seed)
{
    struct programs *p = NULL;
    assert_int_equal(programs_open(&p, &(struct programs_settings){depth, 3, holdout, seed}), 0);
    return p;
}

static struct int_list parse_list(const char *s)
{
    struct int_list x = {0};
    for (s++; *s != ']';) {
        char *end;
        x.at[x.n++] = strtol(s, &end, 10);
        s = *end == ' ' || *end == ',' ? end + 1 : end;
    }
    return x;
}

// What CPython prints for each line, run on three lists (python3 -c "x = ...; LINE; print(x)").
static void primitives_do_what_python_does(void **state)
{
    (void)state;
    static const struct {
        const char *line, *of_a, *of_b, *of_empty; // a = [3, 1, 2, 1, 7], b = [8]
    } rows[] = {{"x = sorted(x)", "[1 1 2 3 7]", "[8]", "[]"},
                {"x = x[::-1]", "[7 1 2 1 3]", "[8]", "[]"},
                {"x = x[1:]", "[1 2 1 7]", "[]", "[]"},
                {"x = x[:-1]", "[3 1 2 1]", "[]", "[]"},
                {"x = [i + 1 for i in x]", "[4 2 3 2 8]", "[9]", "[]"},
                {"x = [i * 2 for i in x]", "[6 2 4 2 14]", "[16]", "[]"},
                {"x = [i for i in x if i % 2 == 0]", "[2]", "[8]", "[]"},
                {"x = [i for i in x if i % 2]", "[3 1 1 7]", "[]", "[]"},
                {"x = [i for i in x if i > 4]", "[7]", "[8]", "[]"},
                {"x = [sum(x)]", "[14]", "[8]", "[0]"},
                {"x = x[:1]", "[3]", "[8]", "[]"},
                {"x = x[-1:]", "[7]", "[8]", "[]"},
                {"x = [len(x)]", "[5]", "[1]", "[0]"},
                {"x = sorted(set(x))", "[1 2 3 7]", "[8]", "[]"},
                {"x = x + x", "[3 1 2 1 7 3 1 2 1 7]", "[8 8]", "[]"},
                {"x = [max(x, default=0)]", "[7]", "[8]", "[0]"},
                {"x = [min(x, default=0)]", "[1]", "[8]", "[0]"},
                {"x = [i * i for i in x]", "[9 1 4 1 49]", "[64]", "[]"}};
    assert_int_equal(COUNT(rows), PROGRAMS_PRIMITIVES);
    for (int k = 0; k < PROGRAMS_PRIMITIVES; k++) {
        const char *results[] = {rows[k].of_a, rows[k].of_b, rows[k].of_empty};
        struct int_list x[] = {{5, {3, 1, 2, 1, 7}}, {1, {8}}, {0, {0}}};
        assert_string_equal(programs_primitive(k), rows[k].line);
        for (int i = 0; i < 3; i++) {
            programs_apply(&x[i], k);
            const struct int_list y = parse_list(results[i]);
            assert_int_equal(x[i].n, y.n);
            assert_memory_equal(x[i].at, y.at, (size_t)y.n * sizeof(y.at[0]));
        }
    }
}

// Runs the lines of a completion on a list, by the table.
static void run_lines(struct int_list *x, const char *completion)
{
    while (*completion != '\0') {
        const size_t len = strcspn(completion, "\n");
        int k = 0;
        while (strlen(programs_primitive(k)) != len ||
               memcmp(programs_primitive(k), completion, len) != 0)
            k++;
        programs_apply(x, k);
        completion += len + 1;
    }
}

static void check_tests(const struct problem *p, bool *sees_long)
{
    struct json_doc *doc;
    assert_int_equal(json_parse(&doc, p->tests, strlen(p->tests), 0, "tests", 1, ERR_DATA), 0);
    const struct json *calls = json_get(json_root(doc), "calls");
    assert_string_equal(json_string(json_get(json_root(doc), "entry")), "f");
    assert_int_equal(json_count(calls), 7);
    for (const struct json *c = json_first(calls); c != NULL; c = json_next(c)) {
        struct int_list x = {0};
        const struct json *args = json_get(c, "args"), *result = json_get(c, "result");
        assert_int_equal(json_count(args), 1);
        for (const struct json *v = json_first(json_first(args)); v != NULL; v = json_next(v))
            assert_true(json_int(doc, v, 0, 9, &x.at[x.n++]));
        assert_true(x.n >= 3 && x.n <= 5);
        run_lines(&x, p->completion);
        assert_int_equal(json_count(result), x.n);
        int i = 0;
        for (const struct json *v = json_first(result); v != NULL; v = json_next(v), i++) {
            int64_t y = -1;
            assert_true(json_int(doc, v, 0, 399, &y));
            assert_int_equal(y, x.at[i]);
        }
        *sees_long = *sees_long || x.n > 5;
    }
    json_free(&doc);
}

static void programs_and_their_tests_agree(void **state)
{
    (void)state;
    struct programs *g = open_programs(2, 50, 3);
    struct arena a = {0};
    bool sees_long = false;
    int lines[3] = {0};
    for (int i = 0; i < 1000; i++) {
        struct problem p;
        if (i < 50)
            programs_holdout(&p, &a, g, i);
        else
            programs_problem(&p, &a, g, (uint64_t)i);
        check_tests(&p, &sees_long);
        int n = 0;
        for (const char *c = p.completion; *c != '\0'; c++)
            n += *c == '\n';
        assert_true(n == 1 || n == 2);
        lines[n]++;
        assert_non_null(strstr(p.prompt, "] -> ["));
        assert_string_equal(p.prompt + strlen(p.prompt) - 9, "program:\n");
    }
    assert_true(sees_long && lines[1] > 300 && lines[2] > 300);
    programs_close(&g);
    arena_free(&a);
}

static void held_out_programs_do_not_depend_on_the_seed_and_are_not_trained_on(void **state)
{
    (void)state;
    struct programs *g = open_programs(1, 200, 3), *h = open_programs(1, 200, 4);
    struct arena a = {0};
    struct problem held[200];
    for (int i = 0; i < 200; i++) {
        struct problem p;
        programs_holdout(&held[i], &a, g, i);
        programs_holdout(&p, &a, h, i);
        assert_string_equal(held[i].prompt, p.prompt);
    }
    for (int i = 0; i < 3000; i++) {
        struct problem p, q;
        programs_problem(&p, &a, g, (uint64_t)i);
        programs_problem(&q, &a, g, (uint64_t)i);
        assert_string_equal(p.tests, q.tests);
        for (int k = 0; k < 200; k++)
            assert_true(strcmp(p.prompt, held[k].prompt) != 0 ||
                        strcmp(p.completion, held[k].completion) != 0);
    }
    programs_close(&g);
    programs_close(&h);
    arena_free(&a);
}

static void completions_become_functions(void **state)
{
    (void)state;
    static const struct {
        const char *completion, *source; // NULL: as it is
    } rows[] = {
        {"x = sorted(x)\nx = x[1:]\n",
         "def f(x):\n    x = sorted(x)\n    x = x[1:]\n    return x\n"},
        {"x = x[1:]", "def f(x):\n    x = x[1:]\n    return x\n"},
        {"x = x\n\n\nx = x + x\n", "def f(x):\n    x = x\n\n\n    x = x + x\n    return x\n"},
        {"  x = 1\n", NULL},
        {"x = 1\n    return 3\n", NULL},
        {"x = 1\r\n", NULL},
        {"", NULL},
        {"\n\n", NULL}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct strbuf b = {0};
        programs_source(&b, rows[i].completion, strlen(rows[i].completion));
        assert_string_equal(b.len > 0 ? b.data : "",
                            rows[i].source != NULL ? rows[i].source : rows[i].completion);
        strbuf_free(&b);
    }
}

static void the_deepest_programs_stay_within_their_lists(void **state)
{
    (void)state;
    struct programs *g = open_programs(PROGRAMS_DEPTH_MAX, 0, 1);
    struct arena a = {0};
    const struct arena_mark start = arena_mark(&a);
    for (int i = 0; i < 2000; i++) {
        struct problem p;
        bool sees_long = false;
        programs_problem(&p, &a, g, (uint64_t)i);
        check_tests(&p, &sees_long);
        arena_release(&a, start);
    }
    programs_close(&g);
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_game_is_within_its_settings_and_its_completion_wins),
        cmocka_unit_test(lines_that_need_not_win_are_legal_and_as_many_as_said),
        cmocka_unit_test(held_out_games_are_distinct_and_never_trained_on),
        cmocka_unit_test(games_depend_on_seed_and_index_alone_and_held_out_ones_on_neither_seed),
        cmocka_unit_test(games_that_cannot_be_are_config_errors),
        cmocka_unit_test(every_real_puzzle_is_read_and_has_a_solution),
        cmocka_unit_test(bad_rows_name_their_line_and_key),
        cmocka_unit_test(primitives_do_what_python_does),
        cmocka_unit_test(programs_and_their_tests_agree),
        cmocka_unit_test(held_out_programs_do_not_depend_on_the_seed_and_are_not_trained_on),
        cmocka_unit_test(completions_become_functions),
        cmocka_unit_test(the_deepest_programs_stay_within_their_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
