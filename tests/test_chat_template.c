// SPDX-License-Identifier: Apache-2.0
// Chat templates: published ones as transformers renders them, the language as Jinja runs it, and
// everything outside the subset refused by name and line.
#include "base/error.h"
#include "base/file.h"
#include "policy/chat_template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct json_doc *open_json(const char *path)
{
    struct json_doc *doc = NULL;
    if (json_parse_file(&doc, path, 0, ERR_DATA) != 0)
        fail_msg("%s", err_message());
    return doc;
}

static struct json_doc *open_or_skip(const char *path)
{
    if (!file_exists(path)) {
        print_message("# \"%s\" is absent\n", path);
        skip();
    }
    return open_json(path);
}

// The text of a conversation by a template; NULL: refused, with the code.
static char *render(int *rc, const char *text, const struct chat_request *c)
{
    struct chat_template *t = NULL;
    struct strbuf out = {0};
    strbuf_puts(&out, "");
    *rc = chat_template_parse(&t, text, strlen(text), "T");
    if (*rc == 0)
        *rc = chat_template_render(&out, t, c);
    if (*rc != 0)
        assert_int_equal(out.len, 0);
    chat_template_free(&t);
    if (*rc == 0)
        return strbuf_take(&out);
    strbuf_free(&out);
    return NULL;
}

static void expect_text(const char *what, const char *got, const char *want)
{
    if (!got)
        fail_msg("%s: %s", what, err_message());
    if (strcmp(got, want) != 0)
        fail_msg("%s gives\n%s\nnot\n%s", what, got, want);
}

static void check_published(const struct json_doc *doc, const struct json *c)
{
    char path[1024];
    const char *name = json_string(json_get(c, "template"));
    snprintf(path, sizeof path, TEST_DATA "/fixtures/chat/%s.json", name);
    struct json_doc *file = open_json(path);
    // Beside messages and tools, the case gives the template a date.
    const char *date = json_string(json_get(c, "date_string"));
    struct strbuf variables = {0};
    struct json_writer w = {.out = &variables};
    json_begin_object(&w);
    json_put_key(&w, "date_string");
    json_put_string(&w, date);
    json_put_key(&w, "messages");
    json_put_value(&w, doc, json_get(c, "messages"));
    json_put_key(&w, "tools");
    json_put_value(&w, doc, json_get(c, "tools"));
    json_end_object(&w);
    struct json_doc *given = NULL;
    assert_int_equal(json_parse(&given, variables.data, variables.len, 0, "v", 1, ERR_DATA), 0);
    int rc = 0;
    char *got =
        render(&rc, json_string(json_get(json_root(file), "chat_template")),
               &(struct chat_request){
                   .doc = given,
                   .messages = json_get(json_root(given), "messages"),
                   .tools = json_get(c, "tools") ? json_get(json_root(given), "tools") : NULL,
                   .variables = json_root(given),
                   .bos = json_string(json_get(c, "bos_token")),
                   .eos = json_string(json_get(c, "eos_token")),
                   .generation_prompt = json_is_true(json_get(c, "add_generation_prompt")),
                   .time = -1});
    const char *want = json_string(json_get(c, "rendered"));
    if (want)
        expect_text(name, got, want);
    else // what Python raises on is the conversation's fault
        assert_int_equal(rc, ERR_DATA);
    free(got);
    strbuf_free(&variables);
    json_free(&given);
    json_free(&file);
}

static void published_templates_render_as_transformers_does(void **state)
{
    (void)state;
    struct json_doc *doc = open_or_skip(TEST_DATA "/fixtures/chat/cases.json");
    const struct json *cases = json_get(json_root(doc), "cases");
    assert_int_equal(json_count(cases), 144);
    for (const struct json *c = json_first(cases); c; c = json_next(c))
        check_published(doc, c);
    json_free(&doc);
}

static struct chat_request golden_request(const struct json_doc *doc)
{
    return (struct chat_request){.doc = doc,
                                 .messages = json_get(json_root(doc), "messages"),
                                 .variables = json_get(json_root(doc), "variables"),
                                 .bos = "<BOS>",
                                 .eos = "<EOS>",
                                 .generation_prompt = true,
                                 .time = -1};
}

static void the_language_is_jinjas(void **state)
{
    (void)state;
    struct json_doc *doc = open_json(TEST_GOLDEN "/chat/cases.json");
    const struct chat_request request = golden_request(doc);
    const struct json *cases = json_get(json_root(doc), "features");
    assert_int_equal(json_count(cases), 98);
    for (const struct json *c = json_first(cases); c; c = json_next(c)) {
        const char *template = json_string(json_get(c, "template"));
        const char *want = json_string(json_get(c, "rendered"));
        int rc = 0;
        char *got = render(&rc, template, &request);
        if (want)
            expect_text(template, got, want);
        else if (rc == 0)
            fail_msg("%s gives \"%s\", where Jinja says %s", template, got,
                     json_string(json_get(c, "error")));
        free(got);
    }
    json_free(&doc);
}

// What is refused as unsupported is not wrong; everything else agrees.
static void random_templates_render_as_in_jinja_or_are_refused(void **state)
{
    (void)state;
    struct json_doc *doc = open_json(TEST_GOLDEN "/chat/cases.json");
    const struct chat_request request = golden_request(doc);
    int equal = 0, unsupported = 0, raised = 0;
    for (const struct json *c = json_first(json_get(json_root(doc), "random")); c;
         c = json_next(c)) {
        const char *template = json_string(json_get(c, "template"));
        const char *want = json_string(json_get(c, "rendered"));
        int rc = 0;
        char *got = render(&rc, template, &request);
        if (rc == ERR_MODEL && want)
            unsupported++;
        else if (!want && rc != 0)
            raised++;
        else if (!want)
            fail_msg("%s gives \"%s\", where Jinja raises", template, got);
        else
            expect_text(template, got, want);
        equal += want && rc == 0;
        free(got);
    }
    print_message("# %d equal, %d refused, %d raise in both\n", equal, unsupported, raised);
    assert_int_equal(equal + unsupported + raised, 400);
    assert_true(equal >= 277); // as many as when the file was made
    json_free(&doc);
}

static struct json_doc *messages_doc(const char *text)
{
    struct json_doc *doc = NULL;
    if (json_parse(&doc, text, strlen(text), 0, "messages", 1, ERR_DATA) != 0)
        fail_msg("%s", err_message());
    return doc;
}

#define USER "[{\"role\": \"user\", \"content\": \"hi\"}]"

static void expect_refused(const char *template, const char *messages, int code,
                           const char *message)
{
    struct json_doc *doc = messages_doc(messages);
    int rc = 0;
    char *got = render(&rc, template,
                       &(struct chat_request){.doc = doc, .messages = json_root(doc), .time = -1});
    if (rc != code || !strstr(err_message(), message))
        fail_msg("%s: code %d, \"%s\"; expected %d, \"%s\"", template, rc, rc ? err_message() : got,
                 code, message);
    free(got);
    json_free(&doc);
}

static void what_is_outside_the_subset_is_refused_by_name_and_line(void **state)
{
    (void)state;
    static const struct {
        const char *template, *message;
    } cases[] = {
        {"a\n{% macro f(x) %}{% endmacro %}", "T:2: the tag \"macro\" is not supported"},
        {"\n\n{%- block b %}{% endblock %}", "T:3: the tag \"block\""},
        {"{% include 'x' %}", "the tag \"include\""},
        {"{% raw %}{% endraw %}", "the tag \"raw\""},
        {"{% generation %}{% endgeneration %}", "the tag \"generation\""},
        {"{% for m in messages %}{% break %}{% endfor %}", "the tag \"break\""},
        {"{% for m in messages if m %}{% endfor %}", "a \"for\" with \"if\""},
        {"{% for m in messages %}{% else %}{% endfor %}", "a \"for\" with \"else\""},
        {"{% for m in messages recursive %}{% endfor %}", "recursive"},
        {"{% set x %}a{% endset %}", "a \"set\" of a block"},
        {"{% set a, b = 1, 2 %}", "several variables"},
        {"{{ 1, 2 }}", "a tuple"},
        {"{{ () }}", "a tuple"},
        {"{{ 2 ** 3 }}", "the operator \"**\""},
        {"{{ 1 < 2 < 3 }}", "a chain of comparisons"},
        {"{{ 'a' * 3 }}", "\"*\" of a str and an int"},
        {"{{ '%s' % 1 }}", "formatting"},
        {"{{ [1] }}", "a list as text"},
        {"{{ messages }}", "a list as text"},
        {"\n{{ messages | tojson(separators=(',', ':')) }}", "T:2: a tuple"},
        {"{{ messages | tojson(sort_keys=true) }}", "only \"indent\""},
        {"{{ messages | dictsort }}", "the filter \"dictsort\""},
        {"{{ 'a' is lower }}", "the test \"lower\""},
        {"{{ 'a'.title() }}", "the method \"title\""},
        {"{{ messages[0].items }}", "the method \"items\" of a dict without a call"},
        {"{{ 'a'.upper }}", "the method \"upper\" of a str without a call"},
        {"{{ range(3) }}", "the function \"range\""},
        {"{{ range }}", "a function as text"},
        {"{{ messages[0]() }}", "a call of what has no name"},
        {"{{ f(*x) }}", "the function \"f\""},
        {"{{ namespace(*x) }}", "unpacked arguments"},
        {"{{ 'a' | trim(x=1) }}", "the argument \"x\" of \"trim\""},
        {"{{ 'a' | trim('a', 'b') }}", "more arguments"},
        {"{{ 'a' | replace('b') }}", "lacks an argument"},
        {"{{ 'a'.__class__ }}", "the member \"__class__\""},
        {"{{ '\\N{DASH}' }}", "the escape \\N"},
        {"{{ 'é' | upper }}", "beyond ASCII"},
        {"{{ 0x10 }}", "the number that begins with \"0\""},
        {"{{ 9223372036854775808 }}", "the number that begins with \"9223372036854775808\""},
        {"{{ 9223372036854775807 + 1 }}", "beyond 64 bits"},
        {"{{ a ? b }}", "the character \"?\""},
        {"{% for m in messages %}{{ loop.cycle }}{% endfor %}", "\"loop.cycle\""},
        {"{% for m in messages %}{{ x }}{% endfor %}{% set x = 1 %}", "setting \"x\" after a loop"},
        {"{% set g = messages | select %}{{ g | list | length }}{{ g | list }}", "twice"},
        {"{% set x = {1: 2} %}", "a dict's key that is an int"},
        {"\xff", "not text in UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(cases[i].template, USER, ERR_MODEL, cases[i].message);
}

static void a_template_may_refuse_a_conversation(void **state)
{
    (void)state;
    expect_refused("{% if messages[0].role != 'system' %}\n"
                   "{{ raise_exception('a system message is needed: ' + messages[0].role) }}\n"
                   "{% endif %}",
                   USER, ERR_DATA,
                   "T:2: the template refuses the conversation: a system message is needed: user");
    expect_refused("{{ messages[0].text.x }}", USER, ERR_DATA,
                   "T:1: \"text\" is undefined, so it has no \"x\"");
    expect_refused("x", "{}", ERR_DATA, "\"messages\" is an object");
    expect_refused("x", "[{\"content\": \"x\"}]", ERR_DATA, "message 0 is not an object");
    expect_refused("{{ messages[0].n }}", "[{\"role\": \"a\", \"n\": 18446744073709551616}]",
                   ERR_DATA, "beyond 64 bits");
}

static void templates_that_do_not_end_or_nest_without_end_are_refused(void **state)
{
    (void)state;
    struct strbuf t = {0};
    strbuf_puts(&t, "{% set s = 'x' %}");
    for (int i = 0; i < 40; i++)
        strbuf_puts(&t, "{% set s = s + s %}");
    expect_refused(t.data, USER, ERR_MODEL, "too long or makes too much text");
    strbuf_clear(&t);
    strbuf_puts(&t, "{% set l = 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' %}");
    for (int i = 0; i < 8; i++)
        strbuf_puts(&t, "{% for x in l %}");
    for (int i = 0; i < 8; i++)
        strbuf_puts(&t, "{% endfor %}");
    expect_refused(t.data, USER, ERR_MODEL, "too long or makes too much text");
    const char *const repeated[][2] = {
        {"(", "more than 200 brackets"}, {"{% if 1 %}", "nests more than"},
        {"[", "more than 200 brackets"}, {"not ", "nests more than"},
        {"1 + ", "nests more than"},     {"x.", "nests more than"}};
    for (size_t i = 0; i < sizeof repeated / sizeof *repeated; i++) {
        strbuf_clear(&t);
        strbuf_puts(&t, repeated[i][0][0] == '{' ? "" : "{{ ");
        for (int k = 0; k < 20000; k++)
            strbuf_puts(&t, repeated[i][0]);
        strbuf_puts(&t, "x }}");
        expect_refused(t.data, USER, ERR_MODEL, repeated[i][1]);
    }
    strbuf_free(&t);
    expect_refused(
        "{% set ns = namespace(a=[]) %}{% for a in 'aaaaaaaaaaaaaaa' %}"
        "{% for b in 'bbbbbbbbbbbbbbb' %}{% set ns.a = [ns.a] %}{% endfor %}{% endfor %}",
        USER, ERR_MODEL, "lists nest more than");
}

static void the_date_is_given_or_there_is_none(void **state)
{
    (void)state;
    struct json_doc *doc = messages_doc(USER);
    struct chat_request c = {.doc = doc, .messages = json_root(doc), .time = -1};
    const char *template = "{{ strftime_now('%Y') if strftime_now is defined else 'none' }}";
    int rc = 0;
    char *got = render(&rc, template, &c);
    expect_text(template, got, "none");
    free(got);
    c.time = 1000000000; // in September 2001 everywhere
    got = render(&rc, template, &c);
    expect_text(template, got, "2001");
    free(got);
    c.time = -1;
    assert_null(render(&rc, "{{ strftime_now('%Y') }}", &c));
    assert_int_equal(rc, ERR_DATA);
    json_free(&doc);
}

// Published with its macro, which the subset has not.
static void a_published_template_with_a_macro_is_refused_by_its_line(void **state)
{
    (void)state;
    const char *path = TEST_DATA "/data/tokenizer/llama-cpp-deepseek-r1.jinja";
    struct strbuf text = {0};
    struct chat_template *t = NULL;
    if (!file_exists(path)) {
        print_message("# \"%s\" is absent\n", path);
        skip();
    }
    assert_int_equal(file_read(&text, path, 0, ERR_DATA), 0);
    assert_int_equal(chat_template_parse(&t, text.data, text.len, "r1.jinja"), ERR_MODEL);
    assert_null(t);
    assert_non_null(strstr(err_message(), "the tag \"macro\" is not supported"));
    assert_non_null(strstr(err_message(), "r1.jinja:27:"));
    strbuf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_templates_render_as_transformers_does),
        cmocka_unit_test(the_language_is_jinjas),
        cmocka_unit_test(random_templates_render_as_in_jinja_or_are_refused),
        cmocka_unit_test(what_is_outside_the_subset_is_refused_by_name_and_line),
        cmocka_unit_test(a_template_may_refuse_a_conversation),
        cmocka_unit_test(templates_that_do_not_end_or_nest_without_end_are_refused),
        cmocka_unit_test(the_date_is_given_or_there_is_none),
        cmocka_unit_test(a_published_template_with_a_macro_is_refused_by_its_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
