// SPDX-License-Identifier: Apache-2.0
// gradus tokenize: ids of texts, one JSON line each, and the text that they decode to.
#include "base/error.h"
#include "policy/tokenizer.h"
#include "rl/texts.h"
#include "rl/verb.h"

// A row's prompt and completion are encoded apart, as training does.
static int put_text(struct strbuf *out, const struct tokenizer *t, const struct text_row *row,
                    bool special)
{
    struct token_list ids = {0};
    struct strbuf decoded = {0};
    int rc = texts_encode(&ids, row, t, tokenizer_vocab_size(t), special, true);
    if (rc == 0)
        rc = tokenizer_decode(&decoded, t, ids.ids, ids.count, false);
    if (rc == 0) {
        struct json_writer w = {.out = out};
        json_begin_object(&w);
        texts_put_id(&w, row);
        texts_put_ids(&w, "tokens", ids.ids, ids.count);
        json_put_key(&w, "decoded");
        json_put_text(&w, decoded.len ? decoded.data : "", decoded.len);
        json_end_object(&w);
        strbuf_putc(out, '\n');
    }
    token_list_free(&ids);
    strbuf_free(&decoded);
    return rc;
}

int verb_tokenize(int argc, char **argv)
{
    const char *model = NULL, *file = NULL, *data = NULL, *text = NULL, *out_path = NULL;
    bool special = false, done = false;
    const struct option options[] = {
        {"--model", "DIR", OPTION_STRING, &model, 0, 0, false, "a model directory"},
        {"--tokenizer", "FILE", OPTION_STRING, &file, 0, 0, false, "or a tokenizer.json"},
        {"--data", "FILE", OPTION_STRING, &data, 0, 0, false, "JSON Lines; - reads standard input"},
        {"--text", "TEXT", OPTION_STRING, &text, 0, 0, false,
         "or one text; - reads standard input"},
        {"--special", NULL, OPTION_FLAG, &special, 0, 0, false,
         "add what the post-processor adds, such as a BOS"},
        {"--out", "FILE", OPTION_STRING, &out_path, 0, 0, false,
         "write there, not to the terminal"},
        {0}};
    int rc =
        options_parse(options, argc, argv,
                      "Token ids of texts, JSON lines {\"id\",\"tokens\",\"decoded\"}.", &done);
    if (rc != 0 || done)
        return rc;
    if ((model != NULL) == (file != NULL))
        return err_set(ERR_CONFIG, "tokenize: exactly one of --model and --tokenizer is needed");
    struct tokenizer *t = NULL;
    struct texts texts = {0};
    struct strbuf out = {0};
    rc = texts_open(&texts, "tokenize", "--text", text, data);
    if (rc == 0)
        rc = tokenizer_open(&t, model ? model : file);
    if (rc == 0)
        rc = texts_render(&texts, t, false, NULL);
    for (int i = 0; rc == 0 && i < texts.count; i++)
        rc = put_text(&out, t, &texts.rows[i], special);
    if (rc == 0)
        rc = texts_write(out_path, &out);
    strbuf_free(&out);
    tokenizer_free(&t);
    texts_close(&texts);
    return rc;
}
