// SPDX-License-Identifier: Apache-2.0
// The quickstart's tokenizer: what it makes of the two kinds of problem, text that comes back
// whole, and saving.
#include "tests/random_text.h"
#include "tests/tokenizer_fixture.h"

#include "base/team.h"

#define QUICKSTART TEST_GOLDEN "/../../configs/data/quickstart.tokenizer.json"

struct shared_work {
    const struct tokenizer *t;
    struct token_list ids[4]; // of each rank
};

static void encode_many(void *arg, int rank, int size)
{
    struct shared_work *work = arg;
    struct philox_stream random = philox_stream(12, 0);
    struct strbuf text = {0};
    (void)size;
    for (int i = 0; i < 2000; i++) {
        strbuf_clear(&text);
        for (int n = (int)philox_below(&random, 40); n > 0; n--)
            put_random_char(&text, &random);
        if (tokenizer_encode(&work->ids[rank], work->t, text.data, text.len, false) != 0)
            token_list_add(&work->ids[rank], -1 - rank); // seen as a difference
    }
    strbuf_free(&text);
}

static void threads_may_share_a_tokenizer(void **state)
{
    (void)state;
    struct tokenizer *t = open_or_skip(QUICKSTART);
    struct shared_work work = {.t = t};
    struct team *team = NULL;
    assert_int_equal(team_open(&team, 4), 0);
    team_run(team, encode_many, &work);
    team_close(&team);
    assert_true(work.ids[0].count > 2000);
    for (int i = 0; i < 4; i++)
        expect_ids(&work.ids[i], work.ids[0].ids, work.ids[0].count, "random text");
    for (int i = 0; i < 4; i++)
        token_list_free(&work.ids[i]);
    tokenizer_free(&t);
}

static void quickstart_writes_numbers_and_lines_in_few_tokens(void **state)
{
    (void)state;
    static const char *const words[] = {" +", " -", " *", " /", " =",  " (left:", ")\n",     "make",
                                        ":",  "\n", "[",  "]",  " ->", " [",      "program", "x ="};
    static const char *const programs[] = {"sorted(x)",
                                           "x[::-1]",
                                           "x[1:]",
                                           "x[:-1]",
                                           "[i + 1 for i in x]",
                                           "[i * 2 for i in x]",
                                           "[i for i in x if i % 2 == 0]",
                                           "[i for i in x if i % 2]",
                                           "[i for i in x if i > 4]",
                                           "[sum(x)]",
                                           "x[:1]",
                                           "x[-1:]",
                                           "[len(x)]",
                                           "sorted(set(x))",
                                           "x + x",
                                           "[max(x, default=0)]",
                                           "[min(x, default=0)]",
                                           "[i * i for i in x]"};
    static const struct {
        const char *text;
        int tokens;
    } lines[] = {{"make 24: 3 8 11\n", 7},
                 {"3 + 8 = 11 (left: 11 5)\n", 9},
                 {"8 * 3 = 24 (left: 24)\n<eos>", 9},
                 {"[3 1 2] -> [1 2 3]\n", 12},
                 {"[] -> []\n", 6},
                 {"program:\n", 3},
                 {"x = sorted(x)\nx = x[1:]\n<eos>", 5}};
    struct tokenizer *t = open_or_skip(QUICKSTART);
    assert_int_equal(tokenizer_vocab_size(t), 1078);
    assert_int_equal(tokenizer_pad(t), 0);
    assert_int_equal(tokenizer_eos(t), 1);
    assert_true(tokenizer_is_special(t, 0) && tokenizer_is_special(t, 1) &&
                !tokenizer_is_special(t, 2));
    char text[64];
    for (int n = 0; n < 800; n++) {
        snprintf(text, sizeof(text), n < 400 ? "%d" : " %d", n % 400);
        int id = tokenizer_find(t, text);
        assert_true(id > 1);
        expect_encoding(t, text, &id, 1);
    }
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
        assert_true(tokenizer_find(t, words[i]) > 1);
    for (size_t i = 0; i < 18; i++) {
        snprintf(text, sizeof(text), "x = %s\n", programs[i]);
        expect_encoding(t, text,
                        (const int[]){tokenizer_find(t, "x ="), tokenizer_find(t, text + 3)}, 2);
    }
    for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
        struct token_list ids = {0};
        assert_int_equal(tokenizer_encode(&ids, t, lines[i].text, strlen(lines[i].text), true), 0);
        assert_int_equal(ids.count, lines[i].tokens);
        token_list_free(&ids);
    }
    tokenizer_free(&t);
}

static void expect_file(const char *dir, const char *name, const char *want)
{
    char *path = path_join(dir, name);
    struct strbuf text = {0};
    assert_int_equal(file_read(&text, path, 0, ERR_DATA), 0);
    assert_string_equal(text.data, want);
    strbuf_free(&text);
    free(path);
}

static void saving_writes_the_very_bytes_and_reopens(void **state)
{
    (void)state;
    struct tokenizer *t = open_or_skip(QUICKSTART), *again = NULL;
    char dir[] = "/tmp/test_tokenizer.XXXXXX";
    assert_non_null(mkdtemp(dir));
    assert_int_equal(tokenizer_save(t, dir), 0);
    char *path = path_join(dir, "tokenizer.json"),
         *config = path_join(dir, "tokenizer_config.json");
    struct strbuf wrote = {0}, source = {0};
    assert_int_equal(file_read(&wrote, path, 0, ERR_DATA), 0);
    assert_int_equal(file_read(&source, QUICKSTART, 0, ERR_DATA), 0);
    assert_int_equal(wrote.len, source.len);
    assert_memory_equal(wrote.data, source.data, wrote.len);
    strbuf_clear(&wrote);
    assert_int_equal(file_read(&wrote, config, 0, ERR_DATA), 0);
    assert_non_null(strstr(wrote.data, "\"eos_token\":\"<eos>\",\"pad_token\":\"<pad>\""));
    assert_int_equal(tokenizer_open(&again, dir), 0);
    assert_int_equal(tokenizer_eos(again), 1);
    tokenizer_free(&again);

    // A config of one's own and a chat template are kept as they are, and the roles of that config
    // win.
    const char *mine = "{ \"eos_token\": {\"content\": \"<pad>\"},  \"pad_token\": \"[PAD]\" }";
    char *chat = path_join(dir, "chat_template.jinja"), *copy = path_join(dir, "copy");
    assert_int_equal(file_write_atomic(config, mine, strlen(mine)), 0);
    assert_int_equal(file_write_atomic(chat, "{{ x }}", 7), 0);
    assert_int_equal(tokenizer_open(&again, dir), 0);
    assert_int_equal(tokenizer_eos(again), 0);
    assert_int_equal(tokenizer_pad(again), -1);
    assert_int_equal(dir_make_all(copy), 0);
    assert_int_equal(tokenizer_save(again, copy), 0);
    expect_file(copy, "tokenizer_config.json", mine);
    expect_file(copy, "chat_template.jinja", "{{ x }}");
    tokenizer_free(&again);
    free(chat);
    free(copy);
    const char *wrong = "{\"eos_token\": \"<nowhere>\"}";
    assert_int_equal(file_write_atomic(config, wrong, strlen(wrong)), 0);
    assert_int_equal(tokenizer_open(&again, dir), ERR_MODEL);
    assert_non_null(strstr(err_message(), "<nowhere>"));
    assert_int_equal(dir_remove_all(dir), 0);
    assert_int_equal(tokenizer_open(&again, dir), ERR_MODEL);
    free(path);
    free(config);
    strbuf_free(&wrote);
    strbuf_free(&source);
    tokenizer_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_may_share_a_tokenizer),
        cmocka_unit_test(quickstart_writes_numbers_and_lines_in_few_tokens),
        cmocka_unit_test(saving_writes_the_very_bytes_and_reopens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
