// SPDX-License-Identifier: Apache-2.0
// gradus logprobs: log-probability and entropy of every given token, one JSON line a text.
#include "base/error.h"
#include "base/log.h"
#include "policy/pack.h"
#include "rl/session.h"
#include "rl/texts.h"
#include "rl/verb.h"

#include <stdlib.h>

enum { CALL_TOKENS = 8192 }; // of one forward pass, unless a single text is longer

struct logprobs {
    struct session session;
    struct texts texts;
    struct token_list tokens; // of all rows, one after the other
    int *ends;                // [texts.count]: where each row's tokens end
    float temperature;
};

static int begin_of(const struct logprobs *l, int row) { return row > 0 ? l->ends[row - 1] : 0; }

static int encode_rows(struct logprobs *l)
{
    const struct arch *a = &l->session.policy->arch;
    l->ends = mem_array0((size_t)l->texts.count, sizeof *l->ends);
    for (int i = 0; i < l->texts.count; i++) {
        const struct text_row *row = &l->texts.rows[i];
        const int rc = texts_encode(&l->tokens, row, l->session.tokenizer, a->V, true, true);
        if (rc != 0)
            return rc;
        l->ends[i] = l->tokens.count;
        const int len = l->ends[i] - begin_of(l, i);
        if (len == 0)
            return err_set(ERR_DATA, "%s: no tokens", row->where);
        if (len > a->max_positions)
            return err_set(ERR_DATA, "%s: %d tokens, and the model has %d positions", row->where,
                           len, a->max_positions);
    }
    return 0;
}

static void put_row(struct strbuf *out, const struct logprobs *l, int row, const float *logprob,
                    const float *entropy)
{
    const int begin = begin_of(l, row), len = l->ends[row] - begin;
    struct json_writer w = {.out = out};
    json_begin_object(&w);
    texts_put_id(&w, &l->texts.rows[row]);
    texts_put_ids(&w, "tokens", &l->tokens.ids[begin], len);
    texts_put_floats(&w, "logprobs", logprob, len - 1);
    texts_put_floats(&w, "entropy", entropy, len - 1);
    json_end_object(&w);
    strbuf_putc(out, '\n');
}

// One forward pass over rows [first, end); every token but a row's first is a target.
static int put_rows(struct strbuf *out, const struct logprobs *l, int first, int end)
{
    struct pack pack = {0};
    for (int i = first; i < end; i++) {
        const int *ids = &l->tokens.ids[begin_of(l, i)];
        const int len = l->ends[i] - begin_of(l, i);
        pack_completion(&pack, ids, 1, ids + 1, len - 1, l->temperature);
    }
    const struct policy_batch batch = pack_batch(&pack);
    float *logprob = mem_floats((size_t)batch.num_targets + 1);
    float *entropy = mem_floats((size_t)batch.num_targets + 1);
    const int rc = policy_forward(l->session.policy, &batch, false, logprob, entropy);
    for (int i = first, at = 0; rc == 0 && i < end; i++) {
        put_row(out, l, i, logprob + at, entropy + at);
        at += l->ends[i] - begin_of(l, i) - 1;
    }
    free(logprob);
    free(entropy);
    pack_free(&pack);
    return rc;
}

static int put_all(struct strbuf *out, const struct logprobs *l)
{
    int rc = 0;
    for (int first = 0, end = 0; rc == 0 && first < l->texts.count; first = end) {
        const int begin = begin_of(l, first);
        for (end = first + 1; end < l->texts.count && l->ends[end] - begin <= CALL_TOKENS;)
            end++;
        rc = put_rows(out, l, first, end);
        log_progress(end, l->texts.count, "texts");
    }
    log_progress_end();
    return rc;
}

int verb_logprobs(int argc, char **argv)
{
    struct session_options model = {0};
    const char *data = NULL, *text = NULL, *out_path = NULL;
    double temperature = 1;
    bool done = false;
    const struct option options[] = {
        SESSION_ROWS(&model),
        {"--data", "FILE", OPTION_STRING, &data, 0, 0, false, "JSON Lines; - reads standard input"},
        {"--text", "TEXT", OPTION_STRING, &text, 0, 0, false,
         "or one text; - reads standard input"},
        {"--temperature", "T", OPTION_REAL, &temperature, 0, 100, false,
         "divides the logits; 0 counts as 1 (1)"},
        {"--threads", "N", OPTION_INT, &model.threads, 0, 4096, false, "0: every CPU (0)"},
        {"--out", "FILE", OPTION_STRING, &out_path, 0, 0, false,
         "write there, not to the terminal"},
        {0}};
    int rc = options_parse(options, argc, argv,
                           "Log-probability and entropy (nats) of every given token, JSON lines "
                           "{\"id\",\"tokens\",\"logprobs\",\"entropy\"}; logprobs[i] is of "
                           "tokens[i+1].",
                           &done);
    if (rc != 0 || done)
        return rc;
    struct logprobs l = {.temperature = (float)temperature};
    struct strbuf out = {0};
    rc = texts_open(&l.texts, "logprobs", "--text", text, data);
    if (rc == 0)
        rc = session_open(&l.session, &model);
    if (rc == 0)
        rc = texts_render(&l.texts, l.session.tokenizer, false, NULL);
    if (rc == 0)
        rc = encode_rows(&l);
    if (rc == 0)
        rc = put_all(&out, &l);
    if (rc == 0)
        rc = texts_write(out_path, &out);
    strbuf_free(&out);
    free(l.ends);
    token_list_free(&l.tokens);
    texts_close(&l.texts);
    session_close(&l.session);
    return rc;
}
