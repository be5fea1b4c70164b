// SPDX-License-Identifier: Apache-2.0
// Parsing of a verb's arguments: what is taken, what is refused, and with which words.
#include "base/error.h"
#include "rl/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct given {
    const char *config, *model;
    int count;
    double temperature;
    bool flag, done;
    struct option_list sets;
};

// Arguments end with NULL.
static int parse(struct given *g, const char *first, ...)
{
    char *argv[16] = {(char *)"sample"};
    int argc = 1;
    va_list ap;
    va_start(ap, first);
    for (const char *word = first; word; word = va_arg(ap, const char *))
        argv[argc++] = (char *)word;
    va_end(ap);
    *g = (struct given){.count = 7, .temperature = 1};
    const struct option options[] = {
        {"CONFIG", NULL, OPTION_STRING, &g->config, 0, 0, true, "the config"},
        {"--model", "DIR", OPTION_STRING, &g->model, 0, 0, false, "the model"},
        {"-n", "N", OPTION_INT, &g->count, 1, 100, false, "samples"},
        {"--temperature", "T", OPTION_REAL, &g->temperature, 0, 2, false, "of sampling"},
        {"--dry-run", NULL, OPTION_FLAG, &g->flag, 0, 0, false, "only say"},
        {"--set", "KEY=VALUE", OPTION_LIST, &g->sets, 0, 0, false, "override"},
        {0}};
    const int rc = options_parse(options, argc, argv, "Tests.", &g->done);
    if (rc != 0 || g->done) {
        free(g->sets.items);
        g->sets = (struct option_list){0};
    }
    return rc;
}

static void assert_refused(int rc, const char *words)
{
    assert_int_equal(rc, ERR_CONFIG);
    if (!strstr(err_message(), words))
        fail_msg("\"%s\" does not say \"%s\"", err_message(), words);
}

static void every_kind_of_option_is_taken_in_any_order(void **state)
{
    (void)state;
    struct given g;
    assert_int_equal(parse(&g, "--set", "a=1", "-n", "3", "c.json", "--temperature=0.5",
                           "--dry-run", "--model", "-", "--set=b=2", NULL),
                     0);
    assert_string_equal(g.config, "c.json");
    assert_string_equal(g.model, "-");
    assert_int_equal(g.count, 3);
    assert_true(g.temperature == 0.5);
    assert_true(g.flag);
    assert_int_equal(g.sets.count, 2);
    assert_string_equal(g.sets.items[0], "a=1");
    assert_string_equal(g.sets.items[1], "b=2");
    free(g.sets.items);
}

static void what_is_not_given_keeps_its_default(void **state)
{
    (void)state;
    struct given g;
    assert_int_equal(parse(&g, "c.json", NULL), 0);
    assert_int_equal(g.count, 7);
    assert_null(g.model);
    assert_false(g.flag);
}

static void words_after_two_dashes_are_no_options(void **state)
{
    (void)state;
    struct given g;
    assert_int_equal(parse(&g, "--", "--dry-run", NULL), 0);
    assert_string_equal(g.config, "--dry-run");
    assert_false(g.flag);
}

static void a_misspelt_option_is_refused_with_the_one_that_was_meant(void **state)
{
    (void)state;
    struct given g;
    assert_refused(parse(&g, "c.json", "--modle", "x", NULL), "did you mean \"--model\"?");
    assert_refused(parse(&g, "c.json", "--bogus-thing", NULL), "gradus help sample");
}

static void numbers_out_of_range_or_not_numbers_are_refused(void **state)
{
    (void)state;
    struct given g;
    assert_refused(parse(&g, "c", "-n", "0", NULL),
                   "-n is \"0\", expected a whole number in [1, 100]");
    assert_refused(parse(&g, "c", "-n", "101", NULL), "[1, 100]");
    assert_refused(parse(&g, "c", "-n", "3x", NULL), "\"3x\"");
    assert_refused(parse(&g, "c", "-n", "99999999999999999999", NULL), "[1, 100]");
    assert_refused(parse(&g, "c", "--temperature", "nan", NULL), "[0, 2]");
    assert_refused(parse(&g, "c", "--temperature", "2.5", NULL), "[0, 2]");
    assert_int_equal(g.count, 7);
}

static void missing_and_surplus_words_are_refused(void **state)
{
    (void)state;
    struct given g;
    assert_refused(parse(&g, NULL), "CONFIG is missing");
    assert_refused(parse(&g, "c", "d", NULL), "\"d\" is one argument too many");
    assert_refused(parse(&g, "c", "--model", NULL), "--model needs a value: DIR");
    assert_refused(parse(&g, "c", "--dry-run=1", NULL), "--dry-run takes no value");
    assert_refused(parse(&g, "c", "--model", "\xff", NULL), "not UTF-8");
}

static void help_needs_nothing_and_shows_every_option(void **state)
{
    (void)state;
    struct given g;
    fflush(stdout);
    const int terminal = dup(STDOUT_FILENO);
    FILE *caught = tmpfile(); // the help would not be TAP
    dup2(fileno(caught), STDOUT_FILENO);
    const int rc = parse(&g, "--help", NULL);
    fflush(stdout);
    dup2(terminal, STDOUT_FILENO);
    close(terminal);
    assert_int_equal(rc, 0);
    assert_true(g.done);
    char text[2048] = "";
    rewind(caught);
    assert_true(fread(text, 1, sizeof text - 1, caught) > 0);
    fclose(caught);
    assert_non_null(strstr(text, "usage: gradus sample CONFIG [--model DIR]"));
    assert_non_null(strstr(text, "--temperature T  of sampling"));
}

static void the_nearest_name_is_found_only_when_it_is_near(void **state)
{
    (void)state;
    const char *const names[] = {"rollout", "optimizer", "eval"};
    assert_string_equal(options_nearest("rolout", names, 3), "rollout");
    assert_string_equal(options_nearest("optimiser", names, 3), "optimizer");
    assert_null(options_nearest("banana", names, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_option_is_taken_in_any_order),
        cmocka_unit_test(what_is_not_given_keeps_its_default),
        cmocka_unit_test(words_after_two_dashes_are_no_options),
        cmocka_unit_test(a_misspelt_option_is_refused_with_the_one_that_was_meant),
        cmocka_unit_test(numbers_out_of_range_or_not_numbers_are_refused),
        cmocka_unit_test(missing_and_surplus_words_are_refused),
        cmocka_unit_test(help_needs_nothing_and_shows_every_option),
        cmocka_unit_test(the_nearest_name_is_found_only_when_it_is_near),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
