// SPDX-License-Identifier: Apache-2.0
// The tokenizer against the `tokenizers` library's own encodings, and its properties. Expected ids
// written out below are those of tokenizers 0.23.3 for the same file and text.
#include "tests/tokenizer_fixture.h"

#include "base/json.h"

#define BYTE_LEVEL                                                                                 \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":"      \
    "false}"

static struct token_list json_ids(const struct json_doc *doc, const struct json *list)
{
    struct token_list ids = {0};
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        int64_t id = -1;
        assert_true(json_int(doc, v, 0, INT32_MAX, &id));
        token_list_add(&ids, (int)id);
    }
    return ids;
}

// Pushing token by token gives the same text, whole characters at every step.
static void expect_stream(const struct tokenizer *t, const struct token_list *l,
                          const struct strbuf *whole)
{
    struct tokenizer_stream stream = {0};
    struct strbuf s = {0};
    strbuf_puts(&s, "");
    for (int i = 0; i < l->count; i++) {
        tokenizer_stream_push(&s, &stream, t, l->ids[i], false);
        assert_int_equal(utf8_valid_prefix(s.data, s.len), s.len);
    }
    tokenizer_stream_flush(&s, &stream);
    assert_int_equal(s.len, whole->len);
    assert_memory_equal(s.data, whole->data, s.len);
    strbuf_free(&s);
}

// The cases hold U+0000 in a few texts, which strict JSON refuses: it travels as U+E000.
static void hide_nul(struct strbuf *json)
{
    for (char *at = json->data; (at = strstr(at, "\\u0000")); at += 6)
        memcpy(at, "\\ue000", 6);
}

static struct strbuf show_nul(const char *text)
{
    struct strbuf s = {0};
    strbuf_puts(&s, "");
    for (const char *at; (at = strstr(text, "\uE000")); text = at + strlen("\uE000")) {
        strbuf_append(&s, text, (size_t)(at - text));
        strbuf_putc(&s, '\0');
    }
    strbuf_puts(&s, text);
    return s;
}

static void expect_text(const struct tokenizer *t, const struct token_list *l, bool skip_special,
                        const struct json *want)
{
    struct strbuf text = decode(t, l, skip_special);
    if (want) {
        struct strbuf shown = show_nul(json_string(want));
        assert_int_equal(text.len, shown.len);
        assert_memory_equal(text.data, shown.data, text.len);
        strbuf_free(&shown);
    }
    if (!skip_special)
        expect_stream(t, l, &text);
    strbuf_free(&text);
}

static void check_case(const struct tokenizer *t, const struct json_doc *doc, const struct json *c)
{
    struct strbuf text = show_nul(json_string(json_get(c, "text")));
    for (int special = 0; special < 2; special++) {
        const struct json *list = json_get(c, special ? "ids_with_special" : "ids");
        if (!list)
            continue;
        struct token_list want = json_ids(doc, list), got = {0};
        assert_int_equal(tokenizer_encode(&got, t, text.data, text.len, special), 0);
        expect_ids(&got, want.ids, want.count, text.data);
        if (!special) {
            expect_text(t, &got, false, json_get(c, "decoded"));
            expect_text(t, &got, true, json_get(c, "decoded_skip_special"));
        }
        token_list_free(&want);
        token_list_free(&got);
    }
    strbuf_free(&text);
}

static void five_families_encode_and_decode_as_the_library_does(void **state)
{
    (void)state;
    static const char *const families[] = {"gpt2", "llama3", "qwen2", "deepseek_v3", "smollm"};
    for (int i = 0; i < 5; i++) {
        char path[1024];
        snprintf(path, sizeof(path), TEST_DATA "/fixtures/tokenizer/%s.json", families[i]);
        struct tokenizer *t = open_or_skip(path);
        snprintf(path, sizeof(path), TEST_DATA "/fixtures/tokenizer/%s.cases.json", families[i]);
        struct strbuf text = {0};
        struct json_doc *doc = NULL;
        assert_int_equal(file_read(&text, path, 0, ERR_DATA), 0);
        hide_nul(&text);
        if (json_parse(&doc, text.data, text.len, 0, path, 1, ERR_DATA) != 0)
            fail_msg("%s", err_message());
        const struct json *cases = json_get(json_root(doc), "cases");
        assert_true(json_count(cases) >= 213);
        for (const struct json *c = json_first(cases); c; c = json_next(c))
            check_case(t, doc, c);
        json_free(&doc);
        strbuf_free(&text);
        tokenizer_free(&t);
    }
}

static void deepseek_v3_encodes_as_published(void **state)
{
    (void)state;
    struct tokenizer *t = open_or_skip(TEST_DATA "/data/tokenizer/deepseek_v3_tokenizer.json.gz");
    assert_int_equal(tokenizer_vocab_size(t), 128815);
    assert_int_equal(tokenizer_bos(t), 0);
    assert_int_equal(tokenizer_eos(t), 1);
    assert_int_equal(tokenizer_pad(t), 2);
    struct strbuf text = {0};
    assert_int_equal(
        file_read(&text, TEST_DATA "/data/tokenizer/deepseek_v3_cases.jsonl", 0, ERR_DATA), 0);
    int lines = 0;
    for (char *line = text.data, *end; (end = strchr(line, '\n')); line = end + 1, lines++) {
        struct json_doc *doc = NULL;
        if (json_parse(&doc, line, (size_t)(end - line), 0, "cases", lines + 1, ERR_DATA) != 0)
            fail_msg("%s", err_message());
        check_case(t, doc, json_root(doc));
        json_free(&doc);
    }
    assert_int_equal(lines, 141);
    strbuf_free(&text);
    tokenizer_free(&t);
}

// The sections of a file over the 256 bytes (ids 0 to 255) and some more tokens (ids 256 and on);
// NULL: the plain choice.
struct sections {
    const char *added, *normalizer, *pre, *post, *decoder, *model, *vocab, *merges;
};

static void spell_byte(struct strbuf *s, int byte)
{
    static const int moved[] = {33, 127,
                                173}; // see tokenizer_vocab.c: 0..32, 127..160 and 173 are moved up
    int n = byte < moved[0]                   ? byte
            : byte >= moved[1] && byte <= 160 ? byte - 94
            : byte == moved[2]                ? 67
                                              : -1;
    int c = n < 0 ? byte : 256 + n;
    if (c == '"' || c == '\\')
        strbuf_putc(s, '\\');
    if (c < 0x80)
        strbuf_putc(s, (char)c);
    else
        strbuf_printf(s, "%c%c", 0xC0 | c >> 6, 0x80 | (c & 0x3F));
}

static void put_file(struct strbuf *s, const struct sections *p)
{
    strbuf_puts(s, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
    strbuf_printf(s, "%s],\"normalizer\":%s,", p->added ? p->added : "",
                  p->normalizer ? p->normalizer : "null");
    strbuf_printf(s, "\"pre_tokenizer\":%s,", p->pre ? p->pre : BYTE_LEVEL);
    strbuf_printf(s, "\"post_processor\":%s,", p->post ? p->post : "null");
    strbuf_printf(s, "\"decoder\":%s,", p->decoder ? p->decoder : BYTE_LEVEL);
    strbuf_printf(s, "\"model\":{\"type\":\"BPE\",%s\"vocab\":{", p->model ? p->model : "");
    for (int b = 0; b < 256; b++) {
        strbuf_puts(s, b ? ",\"" : "\"");
        spell_byte(s, b);
        strbuf_printf(s, "\":%d", b);
    }
    strbuf_printf(s, "%s%s},\"merges\":[%s]}}", p->vocab ? "," : "", p->vocab ? p->vocab : "",
                  p->merges ? p->merges : "");
}

static struct tokenizer *make(const struct sections *p)
{
    struct strbuf s = {0};
    struct tokenizer *t = NULL;
    put_file(&s, p);
    if (tokenizer_parse(&t, s.data, s.len, "made") != 0)
        fail_msg("%s", err_message());
    strbuf_free(&s);
    return t;
}

#define ADDED(id, text, flags) "{\"id\":" #id ",\"content\":\"" text "\"" flags "}"
#define RAW                    ",\"normalized\":false"

static void added_tokens_take_the_blanks_their_flags_say(void **state)
{
    (void)state;
    struct tokenizer *t = make(&(struct sections){
        .added = ADDED(256, "<L>", RAW ",\"lstrip\":true") "," ADDED(
            257, "<R>", RAW ",\"rstrip\":true") "," ADDED(258, "<B>",
                                                          RAW ",\"lstrip\":true,\"rstrip\":true")});
    expect_encoding(t, "a \t<L> b", IDS(97, 256, 32, 98));
    expect_encoding(t, "a <R>\u3000\n b", IDS(97, 32, 257, 98));
    expect_encoding(t, "a  <B>  <B> c", IDS(97, 258, 258, 99));
    expect_encoding(t, "<L> <L>", IDS(256, 256));
    expect_encoding(t, "a \u00A0<L>", IDS(97, 256));
    expect_encoding(t, "<R>  <L>x", IDS(257, 256, 120));
    expect_encoding(t, "a\u200B<L>", IDS(97, 226, 128, 139, 256));
    tokenizer_free(&t);
}

static void single_word_tokens_match_between_word_boundaries_only(void **state)
{
    (void)state;
    struct tokenizer *t =
        make(&(struct sections){.added = ADDED(256, "foo", RAW ",\"single_word\":true")});
    expect_encoding(t, "foo", IDS(256));
    expect_encoding(t, "a foo b", IDS(97, 32, 256, 32, 98));
    expect_encoding(t, "foo-foo.", IDS(256, 45, 256, 46));
    expect_encoding(t, "afoo", IDS(97, 102, 111, 111));
    expect_encoding(t, "foob", IDS(102, 111, 111, 98));
    expect_encoding(t, "_foo", IDS(95, 102, 111, 111));
    expect_encoding(t, "\u0301foo", IDS(204, 129, 102, 111, 111));
    expect_encoding(t, "foo\u24B6", IDS(102, 111, 111, 226, 146, 182));
    expect_encoding(t, "foo\u200D", IDS(102, 111, 111, 226, 128, 141));
    expect_encoding(t, "foo\u00B2", IDS(256, 194, 178));
    expect_encoding(t, "foo\u2160", IDS(102, 111, 111, 226, 133, 160));
    tokenizer_free(&t);
}

static void the_longest_added_token_wins(void **state)
{
    (void)state;
    struct tokenizer *t =
        make(&(struct sections){.added = ADDED(256, "<a", RAW) "," ADDED(257, "<a>", RAW) "," ADDED(
                                    258, "<a><b>", RAW) "," ADDED(259, "a>", RAW)});
    expect_encoding(t, "<a><b>", IDS(258));
    expect_encoding(t, "<a><b", IDS(257, 60, 98));
    expect_encoding(t, "<a", IDS(256));
    expect_encoding(t, "xa><a<a>", IDS(120, 259, 256, 257));
    expect_encoding(t, "<a><a><b>>", IDS(257, 258, 62));
    tokenizer_free(&t);
}

static void normalized_added_tokens_match_after_the_normalizer(void **state)
{
    (void)state;
    struct tokenizer *t = make(&(struct sections){
        .normalizer = "{\"type\":\"NFC\"}",
        .added = ADDED(256, "e\\u0301", ",\"normalized\":true") "," ADDED(257, "e\\u0301x", RAW)});
    expect_encoding(t, "\u00E9", IDS(256));
    expect_encoding(t, "e\u0301", IDS(256));
    expect_encoding(t, "e\u0301x", IDS(257));
    expect_encoding(t, "\u00E9x", IDS(256, 120));
    assert_int_equal(tokenizer_find(t, "e\u0301"), 256);
    tokenizer_free(&t);
    t = make(&(struct sections){
        .added = ADDED(256, "ab", ",\"normalized\":true") "," ADDED(257, "bc", RAW)});
    expect_encoding(t, "abc", IDS(97, 257));
    expect_encoding(t, "abab bc", IDS(256, 256, 32, 257));
    tokenizer_free(&t);
}

static void a_prefix_blank_goes_before_every_piece(void **state)
{
    (void)state;
    struct tokenizer *t = make(
        &(struct sections){.added = ADDED(256, "<s>", RAW), .pre = "{\"type\":\"ByteLevel\"}"});
    expect_encoding(t, "a b", IDS(32, 97, 32, 98));
    expect_encoding(t, "<s>a<s> b", IDS(256, 32, 97, 256, 32, 98));
    expect_encoding(t, " ", IDS(32));
    expect_encoding(t, "", NULL, 0);
    tokenizer_free(&t);
    t = make(&(struct sections){
        .pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\","
               "\"individual_digits\":false},{\"type\":\"ByteLevel\",\"use_regex\":false}]}"});
    expect_encoding(t, "a12b", IDS(32, 97, 32, 49, 50, 32, 98));
    expect_encoding(t, " 1 2", IDS(32, 32, 49, 32, 32, 50));
    tokenizer_free(&t);
}

static void merges_apply_by_rank_and_the_later_of_two_equal_pairs_counts(void **state)
{
    (void)state;
    const char *vocab = "\"ab\":256,\"bc\":257,\"abc\":258";
    struct tokenizer *t =
        make(&(struct sections){.vocab = vocab, .merges = "[\"a\",\"b\"],\"b c\",[\"ab\",\"c\"]"});
    expect_encoding(t, "abc", IDS(258));
    expect_encoding(t, "abcbc", IDS(258, 257));
    expect_encoding(t, "aabc", IDS(97, 258));
    tokenizer_free(&t);
    t = make(&(struct sections){.vocab = vocab, .merges = "\"b c\",\"a b\",\"b c\""});
    expect_encoding(t, "abc", IDS(256, 99));
    tokenizer_free(&t);
}

static void ignore_merges_takes_a_piece_of_the_vocabulary_whole(void **state)
{
    (void)state;
    struct sections p = {
        .vocab = "\"abc\":256,\"ab\":257", .merges = "\"a b\"", .model = "\"ignore_merges\":true,"};
    struct tokenizer *t = make(&p);
    expect_encoding(t, "abc", IDS(256));
    expect_encoding(t, "abcd", IDS(257, 99, 100));
    tokenizer_free(&t);
    p.model = "\"ignore_merges\":false,";
    t = make(&p);
    expect_encoding(t, "abc", IDS(257, 99));
    tokenizer_free(&t);
}

static void empty_matches_cut_too(void **state)
{
    (void)state;
    struct tokenizer *t = make(
        &(struct sections){.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
                                  "\"pattern\":{\"Regex\":\"x*\"},"
                                  "\"behavior\":\"Isolated\",\"invert\":false}," BYTE_LEVEL "]}",
                           .vocab = "\"ab\":256,\"xx\":257,\"xxa\":258",
                           .merges = "\"a b\",\"x x\",\"xx a\""});
    expect_encoding(t, "abxxab", IDS(97, 98, 257, 97, 98));
    expect_encoding(t, "xxa", IDS(257, 97));
    expect_encoding(t, "xx", IDS(257));
    tokenizer_free(&t);
}

static void templates_put_their_tokens_around_the_text(void **state)
{
    (void)state;
    struct tokenizer *t = make(&(struct sections){
        .added = ADDED(256, "<s>", ",\"special\":true") "," ADDED(257, "</s>", ",\"special\":true"),
        .post =
            "{\"type\":\"Sequence\",\"processors\":[" BYTE_LEVEL
            ",{\"type\":\"TemplateProcessing\",\"single\":["
            "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_"
            "id\":0}},"
            "{\"SpecialToken\":{\"id\":\"</s>\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{"
            "\"<s>\":{\"id\":\"<s>\",\"ids\":[256],\"tokens\":[\"<s>\"]},"
            "\"</s>\":{\"id\":\"</s>\",\"ids\":[257],\"tokens\":[\"</s>\"]}}}]}"});
    expect_encoding(t, "a", IDS(256, 97, 257));
    expect_encoding(t, "", IDS(256, 257));
    struct token_list plain = {0};
    assert_int_equal(tokenizer_encode(&plain, t, "a", 1, false), 0);
    expect_ids(&plain, IDS(97), "a");
    token_list_free(&plain);
    assert_int_equal(tokenizer_bos(t), 256);
    assert_int_equal(tokenizer_eos(t), 257);
    assert_int_equal(tokenizer_pad(t), -1);
    tokenizer_free(&t);
}

static void ill_formed_bytes_decode_to_one_replacement_a_maximal_part(void **state)
{
    (void)state;
    struct tokenizer *t = make(&(struct sections){.added = ADDED(256, "\\u4e2d", RAW)});
    static const struct {
        int ids[4], count;
        const char *text;
    } cases[] = {
        {{0xE4, 0xB8}, 2, "\uFFFD"},
        {{0xE4, 0xB8, 0x41}, 3, "\uFFFDA"},
        {{0xF0, 0x9F, 0x98, 0x80}, 4, "\U0001F600"},
        {{0xF0, 0x9F, 0xE4}, 3, "\uFFFD\uFFFD"},
        {{0xED, 0xA0, 0x80}, 3, "\uFFFD\uFFFD\uFFFD"},
        {{0xC0, 0x80}, 2, "\uFFFD\uFFFD"},
        {{0xE0, 0x80}, 2, "\uFFFD\uFFFD"},
        {{0xF4, 0x90, 0x80, 0x80}, 4, "\uFFFD\uFFFD\uFFFD\uFFFD"},
        {{0x80}, 1, "\uFFFD"},
        {{0xE4, 256}, 2, "\uFFFD\u4E2D"},
        {{256, 0xA9}, 2, "\u4E2D\uFFFD"},
        {{300, 65}, 2, "A"}, // an id without a token
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct token_list l = {(int *)cases[i].ids, cases[i].count, cases[i].count};
        struct strbuf s = decode(t, &l, false);
        assert_string_equal(s.data, cases[i].text);
        expect_stream(t, &l, &s);
        strbuf_free(&s);
    }
    struct strbuf s = {0};
    assert_int_equal(tokenizer_decode(&s, t, (const int[]){65, -1}, 2, false), ERR_DATA);
    assert_int_equal(s.len, 0);
    tokenizer_free(&t);
}

static void a_stream_gives_a_character_with_its_last_byte(void **state)
{
    (void)state;
    struct tokenizer *t = make(&(struct sections){0});
    struct tokenizer_stream stream = {0};
    struct strbuf s = {0};
    strbuf_puts(&s, "");
    const int ids[] = {0xF0, 0x9F, 0x98, 0x80, 'a', 0xC3, 0xA9, 0xE4};
    const char *after[] = {"",
                           "",
                           "",
                           "\U0001F600",
                           "\U0001F600a",
                           "\U0001F600a",
                           "\U0001F600a\u00E9",
                           "\U0001F600a\u00E9"};
    for (int i = 0; i < 8; i++) {
        tokenizer_stream_push(&s, &stream, t, ids[i], false);
        assert_string_equal(s.data, after[i]);
    }
    tokenizer_stream_flush(&s, &stream);
    assert_string_equal(s.data, "\U0001F600a\u00E9\uFFFD");
    tokenizer_stream_push(&s, &stream, t, 'b', false);
    assert_string_equal(s.data, "\U0001F600a\u00E9\uFFFDb");
    strbuf_free(&s);
    tokenizer_free(&t);
}

static void what_is_not_supported_is_refused_by_its_path(void **state)
{
    (void)state;
#define SPLIT(rest)                                                                                \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\"," rest "}," BYTE_LEVEL "]}"
#define REGEX(r)                                                                                   \
    SPLIT("\"pattern\":{\"Regex\":\"" r "\"},\"behavior\":\"Isolated\",\"invert\":false")
    static const struct {
        struct sections p;
        const char *message;
    } cases[] = {
        {{.normalizer = "{\"type\":\"NFKC\"}"}, "normalizer: the normalizer \"NFKC\""},
        {{.normalizer = "{\"type\":\"NFC\",\"x\":1}"}, "normalizer: \"x\" is not a known member"},
        {{.normalizer = "3"}, "normalizer:"},
        {{.pre = "null"}, "pre_tokenizer:"},
        {{.pre = "{\"type\":\"Whitespace\"}"}, "pre_tokenizer: is \"Whitespace\""},
        {{.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[]}"}, "pre_tokenizer:"},
        {{.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Punctuation\"}," BYTE_LEVEL
                 "]}"},
         "pre_tokenizer.pretokenizers[0]: the pre-tokenizer \"Punctuation\""},
        {{.pre = SPLIT("\"pattern\":{\"String\":\" \"},\"behavior\":\"Isolated\"")},
         "pretokenizers[0]: \"pattern\""},
        {{.pre = SPLIT("\"pattern\":{\"Regex\":\" \"},\"behavior\":\"Removed\"")}, "\"behavior\""},
        {{.pre = SPLIT("\"pattern\":{\"Regex\":\" \"},\"behavior\":\"Isolated\",\"invert\":true")},
         "\"invert\""},
        {{.pre = REGEX("a\\\\h")}, "this escape at byte 1"},
        {{.pre = REGEX("(?<n>a)")}, "this kind of group"},
        {{.pre = REGEX("(*UTF)a")}, "this kind of group"},
        {{.pre = REGEX("a{2}+")}, "this brace"},
        {{.pre = REGEX("[a&&b]")}, "a class within a class"},
        {{.pre = REGEX("(a")}, "in the regex \"(a\""},
        {{.post = "{\"type\":\"BertProcessing\"}"},
         "post_processor: the post-processor \"BertProcessing\""},
        {{.post = "{\"type\":\"TemplateProcessing\",\"single\":[],\"special_tokens\":{}}"},
         "the text once"},
        {{.post =
              "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"q\"}}]}"},
         "has no ids"},
        {{.decoder = "null"}, "decoder:"},
        {{.decoder = "{\"type\":\"Metaspace\"}"}, "decoder: \"Metaspace\""},
        {{.model = "\"dropout\":0.1,"}, "model.dropout"},
        {{.model = "\"continuing_subword_prefix\":\"##\","}, "continuing_subword_prefix"},
        {{.model = "\"byte_fallback\":true,"}, "model.byte_fallback"},
        {{.model = "\"ignore_merges\":1,"}, "ignore_merges"},
        {{.model = "\"surprise\":1,"}, "model: \"surprise\" is not a known member"},
        {{.vocab = "\"ab\":255"}, "model.vocab: \"ab\" has the id of another token"},
        {{.vocab = "\"ab\":-1"}, "model.vocab: the id of \"ab\""},
        {{.vocab = "\"ab\":4000000000"}, "model.vocab: the id of \"ab\""},
        {{.merges = "\"a b\""}, "model.merges: element 0"},
        {{.merges = "\"ab\""}, "model.merges: element 0"},
        {{.merges = "[\"a\"]"}, "model.merges: element 0"},
        {{.added = ADDED(65, "zz", "")}, "added_tokens: \"zz\" has the id of another token"},
        {{.added = ADDED(256, "a", "")}, "added_tokens: \"a\" has the id 256, but 97"},
        {{.added = ADDED(256, "", "")}, "added_tokens[0]: \"content\""},
        {{.added = ADDED(256, "q", ",\"lstrip\":2")}, "added_tokens[0]: \"lstrip\""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct strbuf s = {0};
        struct tokenizer *t = NULL;
        put_file(&s, &cases[i].p);
        assert_int_equal(tokenizer_parse(&t, s.data, s.len, "made"), ERR_MODEL);
        assert_null(t);
        if (!strstr(err_message(), cases[i].message) || !strstr(err_message(), "made"))
            fail_msg("case %zu says: %s", i, err_message());
        strbuf_free(&s);
    }
}

static void text_that_is_not_utf8_is_refused_and_the_output_kept(void **state)
{
    (void)state;
    struct tokenizer *t = make(&(struct sections){0});
    struct token_list l = {0};
    token_list_add(&l, 7);
    assert_int_equal(tokenizer_encode(&l, t, "ab\xC3", 3, false), ERR_DATA);
    assert_non_null(strstr(err_message(), "byte 2"));
    expect_ids(&l, IDS(7), "kept");
    token_list_free(&l);
    tokenizer_free(&t);
}

static void token_bytes_are_the_parts_of_the_text(void **state)
{
    (void)state;
    struct tokenizer *t =
        make(&(struct sections){.vocab = "\"\u0120\u00c3\":256", .merges = "\"\u0120 \u00c3\""});
    size_t len = 9;
    const char *bytes = tokenizer_token_bytes(t, 256, &len);
    assert_int_equal(len, 2);
    assert_memory_equal(bytes, " \xC3", 2);
    assert_int_equal(tokenizer_find(t, " \xC3"), 256);
    expect_encoding(t, " \u00E9", IDS(256, 0xA9));
    assert_null(tokenizer_token_bytes(t, 257, &len));
    assert_int_equal(len, 0);
    assert_null(tokenizer_token_bytes(t, -1, &len));
    assert_int_equal(tokenizer_find(t, "absent"), -1);
    assert_int_equal(tokenizer_find(t, ""), -1);
    tokenizer_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(five_families_encode_and_decode_as_the_library_does),
        cmocka_unit_test(deepseek_v3_encodes_as_published),
        cmocka_unit_test(added_tokens_take_the_blanks_their_flags_say),
        cmocka_unit_test(single_word_tokens_match_between_word_boundaries_only),
        cmocka_unit_test(the_longest_added_token_wins),
        cmocka_unit_test(normalized_added_tokens_match_after_the_normalizer),
        cmocka_unit_test(a_prefix_blank_goes_before_every_piece),
        cmocka_unit_test(merges_apply_by_rank_and_the_later_of_two_equal_pairs_counts),
        cmocka_unit_test(ignore_merges_takes_a_piece_of_the_vocabulary_whole),
        cmocka_unit_test(empty_matches_cut_too),
        cmocka_unit_test(templates_put_their_tokens_around_the_text),
        cmocka_unit_test(ill_formed_bytes_decode_to_one_replacement_a_maximal_part),
        cmocka_unit_test(a_stream_gives_a_character_with_its_last_byte),
        cmocka_unit_test(what_is_not_supported_is_refused_by_its_path),
        cmocka_unit_test(text_that_is_not_utf8_is_refused_and_the_output_kept),
        cmocka_unit_test(token_bytes_are_the_parts_of_the_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
