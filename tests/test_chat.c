// SPDX-License-Identifier: Apache-2.0
// Conversations of data rows as prompts and completions, by the template among a tokenizer's files.
#include "base/error.h"
#include "base/file.h"
#include "rl/chat.h"
#include "rl/dataset.h"
#include "rl/texts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define QUICKSTART TEST_GOLDEN "/../../configs/data/quickstart.tokenizer.json"
#define MARKS      "{{ '[' + m.role + ']' + m.content }}"
// Its answers end with the tokenizer's end token, <eos>.
#define PLAIN                                                                                      \
    "{% for m in messages %}" MARKS "{% if m.role == 'assistant' %}{{ eos_token + '\\n' }}"        \
    "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
// It opens the thinking itself, and drops what was thought.
#define THINKING                                                                                   \
    "{% for m in messages %}{% set c = m.content.split('</think>')[-1] %}"                         \
    "{{ '[' + m.role + ']' + c }}{% endfor %}"                                                     \
    "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"

struct place {
    char dir[64];
    struct tokenizer *tokenizer;
    struct chat chat;
};

static void put_file(const struct place *p, const char *name, const char *text)
{
    char *path = path_join(p->dir, name);
    assert_int_equal(file_write_atomic(path, text, strlen(text)), 0);
    free(path);
}

// A tokenizer with these files beside it; NULL: without.
static struct place place_open(const char *template, const char *config)
{
    struct place p = {.dir = "/tmp/gradus-chat-XXXXXX"};
    struct strbuf text = {0};
    assert_non_null(mkdtemp(p.dir));
    assert_int_equal(file_read(&text, QUICKSTART, 0, ERR_DATA), 0);
    put_file(&p, "tokenizer.json", text.data);
    strbuf_free(&text);
    if (template)
        put_file(&p, "chat_template.jinja", template);
    if (config)
        put_file(&p, "tokenizer_config.json", config);
    if (tokenizer_open(&p.tokenizer, p.dir) != 0)
        fail_msg("%s", err_message());
    return p;
}

static void place_close(struct place *p)
{
    chat_close(&p->chat);
    tokenizer_free(&p->tokenizer);
    assert_int_equal(dir_remove_all(p->dir), 0);
}

// Opens the template; then a row's conversation gives this prompt and completion (NULL: none).
static void expect(struct place *p, const char *row, const char *prompt, const char *completion)
{
    struct dataset *d = NULL;
    struct chat_text text = {0};
    put_file(p, "row.jsonl", row);
    char *path = path_join(p->dir, "row.jsonl");
    if (dataset_open(&d, path, 0) != 0 ||
        (!p->chat.tokenizer && chat_open(&p->chat, p->tokenizer, -1) != 0))
        fail_msg("%s", err_message());
    assert_non_null(d->items[0].conversation);
    if (chat_render(&text, &p->chat, d->items[0].conversation, "row 1") != 0)
        fail_msg("%s", err_message());
    assert_string_equal(text.prompt.data, prompt);
    assert_int_equal(text.has_completion, completion != NULL);
    if (completion)
        assert_string_equal(text.completion.len ? text.completion.data : "", completion);
    chat_text_free(&text);
    dataset_close(&d);
    free(path);
}

static void expect_fault(struct place *p, const char *row, int code, const char *message)
{
    struct dataset *d = NULL;
    struct chat_text text = {0};
    put_file(p, "row.jsonl", row);
    char *path = path_join(p->dir, "row.jsonl");
    int rc = dataset_open(&d, path, 0);
    if (rc == 0 && !p->chat.tokenizer)
        rc = chat_open(&p->chat, p->tokenizer, -1);
    if (rc == 0)
        rc = chat_render(&text, &p->chat, d->items[0].conversation, "row 1");
    if (rc != code || !strstr(err_message(), message))
        fail_msg("%s: code %d, \"%s\"", row, rc, rc ? err_message() : text.prompt.data);
    dataset_close(&d);
    free(path);
}

#define M(role, content) "{\"role\":\"" role "\",\"content\":\"" content "\"}"

static void the_last_answer_is_the_completion(void **state)
{
    (void)state;
    struct place p = place_open(PLAIN, NULL);
    expect(&p, "{\"messages\":[" M("user", "q") "]}", "[user]q[assistant]", NULL);
    expect(&p, "{\"messages\":[" M("system", "s") "," M("user", "q") "," M("assistant", "r") "]}",
           "[system]s[user]q[assistant]", "r");
    expect(&p,
           "{\"messages\":[" M("user", "1") "," M("assistant", "2") "," M("user", "3") "," M(
               "assistant", "4") "]}",
           "[user]1[assistant]2<eos>\n[user]3[assistant]", "4");
    expect(&p, "{\"prompt\":[" M("user", "q") "],\"completion\":[" M("assistant", "r") "]}",
           "[user]q[assistant]", "r");
    expect(&p, "{\"prompt\":[" M("user", "q") "],\"answer\":\"7\"}", "[user]q[assistant]", NULL);
    place_close(&p);
}

static void tools_and_variables_reach_the_template(void **state)
{
    (void)state;
    struct place p = place_open("{{ tools | tojson }}{{ mood }}{{ messages[0].content }}", NULL);
    expect(&p,
           "{\"messages\":[" M("user", "q") "],\"tools\":[{\"name\":\"f\"}],"
                                            "\"chat_template_kwargs\":{\"mood\":\"calm\"}}",
           "[{\"name\": \"f\"}]calmq", NULL);
    expect(&p, "{\"messages\":[" M("user", "q") "],\"tools\":\"[{\\\"name\\\":\\\"g\\\"}]\"}",
           "[{\"name\": \"g\"}]q", NULL);
    expect_fault(&p, "{\"messages\":[" M("user", "q") "],\"tools\":\"3\"}", ERR_DATA,
                 "\"tools\" must be an array");
    expect_fault(&p, "{\"messages\":[" M("user", "q") "],\"chat_template_kwargs\":[]}", ERR_DATA,
                 "\"chat_template_kwargs\" must be an object");
    place_close(&p);
}

// What the model would be taught to write after "<think>\n" is the message from there on, or
// nothing.
static void an_answer_that_the_template_rewrites_goes_on_from_the_prompt_or_is_none(void **state)
{
    (void)state;
    struct place p = place_open(THINKING, NULL);
    expect(&p, "{\"messages\":[" M("user", "q") "," M("assistant", "<think>\\nhm</think>r") "]}",
           "[user]q[assistant]<think>\n", "hm</think>r");
    expect(&p, "{\"messages\":[" M("user", "q") "," M("assistant", "r") "]}",
           "[user]q[assistant]<think>\n", NULL);
    expect(&p, "{\"messages\":[" M("user", "q") "," M("assistant", "\\nr") "]}",
           "[user]q[assistant]<think>\n", NULL);
    place_close(&p);
}

static void without_a_template_a_lone_question_is_its_text(void **state)
{
    (void)state;
    struct place p = place_open(NULL, NULL);
    expect(&p, "{\"messages\":[" M("user", "q") "]}", "q", NULL);
    expect(&p, "{\"messages\":[" M("user", "q") "," M("assistant", "r") "]}", "q", "r");
    expect_fault(&p, "{\"messages\":[" M("system", "s") "," M("user", "q") "]}", ERR_MODEL,
                 "row 1: a conversation of more than a user's message and its answer needs a chat "
                 "template");
    expect_fault(&p, "{\"messages\":[]}", ERR_DATA, "row.jsonl:1: a conversation has no messages");
    expect_fault(&p, "{\"messages\":[3]}", ERR_DATA, "message 0 must be an object");
    place_close(&p);
}

static void the_template_is_the_file_or_the_configs(void **state)
{
    (void)state;
    const char *row = "{\"messages\":[" M("user", "q") "]}";
    const char *with_tools = "{\"messages\":[" M("user", "q") "],\"tools\":[{}]}";
    struct place p =
        place_open(NULL, "{\"eos_token\":\"<eos>\",\"chat_template\":\"one{{ eos_token }}\"}");
    expect(&p, row, "one<eos>", NULL);
    place_close(&p);
    p = place_open("file{{ bos_token }}", "{\"chat_template\":\"one\"}");
    expect(&p, row, "file", NULL);
    place_close(&p);
    p = place_open(NULL, "{\"chat_template\":[{\"name\":\"default\",\"template\":\"d\"},"
                         "{\"name\":\"tool_use\",\"template\":\"t\"},{\"name\":\"rag\","
                         "\"template\":\"{% macro x %}\"}]}");
    expect(&p, row, "d", NULL);
    expect(&p, with_tools, "t", NULL);
    place_close(&p);
    static const char *const faults[][2] = {
        {"{\"chat_template\":\"a\\n{% macro f() %}{% endmacro %}\"}",
         "tokenizer_config.json: chat_template:2: the tag \"macro\" is not supported"},
        {"{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"t\"}]}", "named \"default\""},
        {"{\"chat_template\":[3]}", "tokenizer_config.json: \"chat_template\" holds what is not"},
        {"{\"chat_template\":3}", "tokenizer_config.json:1: \"chat_template\" is a number"},
        {"{\"chat_template\":\"{{ raise_exception('never') }}\"}", "row 1: "}};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        p = place_open(NULL, faults[i][0]);
        expect_fault(&p, row, i == 4 ? ERR_DATA : ERR_MODEL, faults[i][1]);
        place_close(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_answer_is_the_completion),
        cmocka_unit_test(tools_and_variables_reach_the_template),
        cmocka_unit_test(an_answer_that_the_template_rewrites_goes_on_from_the_prompt_or_is_none),
        cmocka_unit_test(without_a_template_a_lone_question_is_its_text),
        cmocka_unit_test(the_template_is_the_file_or_the_configs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
