// SPDX-License-Identifier: Apache-2.0
// gradus sample: completions of prompts, one JSON line a sample.
#include "base/error.h"
#include "base/log.h"
#include "rl/session.h"
#include "rl/stops.h"
#include "rl/texts.h"
#include "rl/verb.h"
#include "rollout/rollout.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sample_options {
    struct session_options model;
    const char *prompt, *data, *out, *chat_args;
    struct option_list stop;
    bool chat;
    int n, max_tokens, top_k, seed;
    double temperature, top_p, min_p, repetition_penalty;
};

static int parse(struct sample_options *o, int argc, char **argv, bool *done)
{
    const struct option options[] = {
        SESSION_ROWS(&o->model),
        {"--prompt", "TEXT", OPTION_STRING, &o->prompt, 0, 0, false,
         "one prompt; - reads standard input"},
        {"--data", "FILE", OPTION_STRING, &o->data, 0, 0, false,
         "or JSON Lines of prompts; - reads standard input"},
        {"--chat", NULL, OPTION_FLAG, &o->chat, 0, 0, false,
         "prompts are messages of the user, put into the model's chat template (rows with messages "
         "always are)"},
        {"--chat-args", "JSON", OPTION_STRING, &o->chat_args, 0, 0, false,
         "an object of variables for the chat template, such as {\"enable_thinking\": false}"},
        {"-n", "N", OPTION_INT, &o->n, 1, 1000000, false, "samples of each prompt (1)"},
        {"--temperature", "T", OPTION_REAL, &o->temperature, 0, 100, false,
         "0 takes the likeliest token (the model's, else 1)"},
        {"--top-p", "P", OPTION_REAL, &o->top_p, 1e-9, 1, false,
         "only the likeliest tokens that reach P together (the model's, else 1: off)"},
        {"--top-k", "K", OPTION_INT, &o->top_k, 0, INT_MAX, false,
         "only the K likeliest tokens (the model's, else 0: off)"},
        {"--min-p", "P", OPTION_REAL, &o->min_p, 0, 1, false,
         "only tokens at least P times as likely as the likeliest (the model's, else 0: off)"},
        {"--repetition-penalty", "R", OPTION_REAL, &o->repetition_penalty, 1e-3, 1e3, false,
         "logits of tokens that the text has are divided by R when positive, else multiplied (the "
         "model's, else 1: off)"},
        {"--stop", "TEXT", OPTION_LIST, &o->stop, 0, 0, false,
         "end a completion where it has this text (repeatable)"},
        {"--max-tokens", "M", OPTION_INT, &o->max_tokens, 1, INT_MAX, false,
         "end a completion after M tokens (the model's, else 256)"},
        {"--seed", "S", OPTION_INT, &o->seed, 0, INT_MAX, false, "of the randomness (0)"},
        {"--threads", "N", OPTION_INT, &o->model.threads, 0, 4096, false, "0: every CPU (0)"},
        {"--out", "FILE", OPTION_STRING, &o->out, 0, 0, false, "write there, not to the terminal"},
        {0}};
    return options_parse(options, argc, argv,
                         "Completions of prompts, JSON lines {\"id\",\"prompt\",\"completion\","
                         "\"tokens\",\"logprobs\",\"finish\"}. Defaults are those of the model's "
                         "generation_config.json.",
                         done);
}

// ---- what the model's generation_config.json says, where no option does

static void set_default(double *option, double of_model, double otherwise)
{
    if (isnan(*option))
        *option = isnan(of_model) ? otherwise : of_model;
}

static void set_defaults(struct sample_options *o, const struct generation_config *g)
{
    const bool said = g->greedy || !isnan(g->temperature) || !isnan(g->top_p) || !isnan(g->min_p) ||
                      !isnan(g->repetition_penalty) || g->top_k >= 0 || g->max_new_tokens > 0;
    set_default(&o->temperature, g->greedy ? 0 : g->temperature, 1);
    set_default(&o->top_p, g->top_p, 1);
    set_default(&o->min_p, g->min_p, 0);
    set_default(&o->repetition_penalty, g->repetition_penalty, 1);
    if (o->top_k < 0)
        o->top_k = g->top_k >= 0 ? g->top_k : 0;
    if (o->max_tokens < 0)
        o->max_tokens = g->max_new_tokens > 0 ? g->max_new_tokens : 256;
    if (said)
        log_line(LOG_INFO,
                 "with generation_config.json: temperature %g, top-p %g, top-k %d, min-p %g, "
                 "repetition-penalty %g, max-tokens %d",
                 o->temperature, o->top_p, o->top_k, o->min_p, o->repetition_penalty,
                 o->max_tokens);
    if (*g->ignored)
        log_line(LOG_WARN, "%s of generation_config.json is not applied", g->ignored);
}

// ---- requests

// The requests of all rows; tokens receives all prompts, one after the other. With a prompt too
// long to leave max_tokens, the completion may fill the model's positions.
static int make_requests(struct rollout_request *requests, struct token_list *tokens,
                         const struct texts *texts, const struct session *s,
                         const struct sample_options *o, const struct stops *stops)
{
    const int V = s->policy->arch.V, positions = s->policy->arch.max_positions;
    for (int i = 0; i < texts->count; i++) {
        const int begin = tokens->count;
        const int rc = texts_encode(tokens, &texts->rows[i], s->tokenizer, V, true, false);
        if (rc != 0)
            return rc;
        const int len = tokens->count - begin, room = positions - len;
        if (len == 0)
            return err_set(ERR_DATA, "%s: the prompt has no tokens", texts->rows[i].where);
        if (room < 1)
            return err_set(ERR_DATA,
                           "%s: %d prompt tokens leave no room in the model's %d "
                           "positions",
                           texts->rows[i].where, len, positions);
        requests[i] = (struct rollout_request){
            .prompt_len = len,
            .n = o->n,
            .id = (uint64_t)i,
            .sampling = {.temperature = o->temperature,
                         .top_k = o->top_k,
                         .top_p = o->top_p,
                         .min_p = o->min_p,
                         .repetition_penalty = o->repetition_penalty,
                         .max_tokens = o->max_tokens < room ? o->max_tokens : room,
                         .stop_tokens = stops->ids,
                         .num_stop_tokens = stops->count,
                         .stop_strings = o->stop.items,
                         .num_stop_strings = o->stop.count},
        };
    }
    for (int i = 0, at = 0; i < texts->count; at += requests[i++].prompt_len)
        requests[i].prompt = &tokens->ids[at];
    return 0;
}

// ---- progress and output

struct progress {
    int64_t samples, done, tokens;
    double start;
};

static int show_progress(void *arg, const struct rollout_sample *s)
{
    struct progress *p = arg;
    char text[64];
    p->done++;
    p->tokens += s->len;
    snprintf(text, sizeof text, "%.0f tokens/s", (double)p->tokens / (log_clock() - p->start));
    log_progress((double)p->done, (double)p->samples, text);
    return 0;
}

// The text of a completion without its stop token or what begins with its stop string; tokens and
// logprobs have them.
static int decode(struct strbuf *text, const struct rollout_sample *s,
                  const struct sample_options *o, const struct tokenizer *t)
{
    const int len = s->len - (s->finish == ROLLOUT_STOP);
    const int rc = tokenizer_decode(text, t, s->tokens, len, false);
    if (rc != 0 || s->stop_string < 0)
        return rc;
    const char *stop = o->stop.items[s->stop_string];
    const char *at = memmem(text->data, text->len, stop, strlen(stop));
    if (at != NULL)
        text->len = (size_t)(at - text->data);
    return 0;
}

static const char *finish_name(enum rollout_finish finish)
{
    return finish == ROLLOUT_LENGTH ? "length" : finish == ROLLOUT_CANCELLED ? "cancelled" : "stop";
}

static int put_sample(struct strbuf *out, const struct rollout_sample *s,
                      const struct text_row *row, const struct sample_options *o,
                      const struct tokenizer *t)
{
    struct strbuf text = {0};
    const int rc = t ? decode(&text, s, o, t) : 0;
    if (rc != 0)
        return rc;
    struct json_writer w = {.out = out};
    json_begin_object(&w);
    texts_put_id(&w, row);
    if (row->prompt) {
        json_put_key(&w, "prompt");
        json_put_string(&w, row->prompt);
    } else {
        texts_put_ids(&w, "prompt_tokens", row->tokens, row->num_tokens);
    }
    if (t) {
        json_put_key(&w, "completion");
        json_put_text(&w, text.len ? text.data : "", text.len);
    }
    texts_put_ids(&w, "tokens", s->tokens, s->len);
    texts_put_floats(&w, "logprobs", s->logprob, s->len);
    json_put_key(&w, "finish");
    json_put_string(&w, finish_name(s->finish));
    json_end_object(&w);
    strbuf_putc(out, '\n');
    strbuf_free(&text);
    return 0;
}

// opened: seconds that everything before the generation took.
static void report(const struct rollout_engine *e, int samples, double opened, double seconds)
{
    struct rollout_stats st;
    rollout_get_stats(e, &st);
    log_line(LOG_INFO,
             "%d samples, %lld tokens in %.2f s: %.0f tokens/s (prompts %.0f tokens/s, then %.0f)",
             samples, (long long)st.completion_tokens, seconds,
             (double)st.completion_tokens / fmax(seconds, 1e-9),
             (double)st.prompt_tokens / fmax(st.prefill_seconds, 1e-9),
             (double)(st.completion_tokens - samples) / fmax(st.decode_seconds, 1e-9));
    log_line(
        LOG_INFO,
        "first token %.0f ms after the start, %.0f ms of them in opening the model; %.1f of %d "
        "places filled, at most %d of %d cache pages held, %lld prompt tokens shared; the "
        "busiest expert %.0f %% above the mean",
        1e3 * (opened + st.first_token_seconds), 1e3 * opened, st.mean_batch, st.max_batch,
        st.peak_pages, st.num_pages, (long long)st.shared_tokens, 100 * st.max_violation);
}

static int generate_lines(struct strbuf *out, const struct session *s, const struct texts *texts,
                          const struct rollout_request *requests, const struct sample_options *o,
                          double start)
{
    struct rollout_engine *engine = NULL;
    const struct rollout_sample *samples = NULL;
    struct progress progress = {.samples = (int64_t)texts->count * o->n, .start = log_clock()};
    int count = 0;
    const struct rollout_options options = {.seed = (uint64_t)o->seed, .tokenizer = s->tokenizer};
    int rc = rollout_open(&engine, s->policy, &options);
    if (rc == 0)
        rc = rollout_run(&samples, &count, engine, 0, requests, texts->count, show_progress,
                         &progress);
    log_progress_end();
    for (int i = 0; rc == 0 && i < count; i++)
        rc = put_sample(out, &samples[i], &texts->rows[samples[i].request], o, s->tokenizer);
    if (rc == 0)
        report(engine, count, progress.start - start, log_clock() - progress.start);
    rollout_free(&engine);
    return rc;
}

int verb_sample(int argc, char **argv)
{
    struct sample_options o = {.n = 1,
                               .max_tokens = -1,
                               .top_k = -1,
                               .temperature = (double)NAN,
                               .top_p = (double)NAN,
                               .min_p = (double)NAN,
                               .repetition_penalty = (double)NAN};
    const double start = log_clock();
    bool done = false;
    int rc = parse(&o, argc, argv, &done);
    if (rc != 0 || done) {
        free(o.stop.items);
        return rc;
    }
    struct texts texts = {0};
    struct session session = {0};
    struct stops stops = {0};
    struct token_list tokens = {0};
    struct strbuf out = {0};
    struct rollout_request *requests = NULL;
    rc = texts_open(&texts, "sample", "--prompt", o.prompt, o.data);
    if (rc == 0)
        rc = session_open(&session, &o.model);
    if (rc == 0)
        rc = texts_render(&texts, session.tokenizer, o.chat, o.chat_args);
    if (rc == 0)
        set_defaults(&o, &session.policy->generation);
    if (rc == 0) {
        stops = stops_of(session.policy, session.tokenizer);
        requests = mem_array0((size_t)texts.count, sizeof *requests);
        rc = make_requests(requests, &tokens, &texts, &session, &o, &stops);
    }
    if (rc == 0)
        rc = generate_lines(&out, &session, &texts, requests, &o, start);
    if (rc == 0)
        rc = texts_write(o.out, &out);
    free(o.stop.items);
    free(requests);
    strbuf_free(&out);
    token_list_free(&tokens);
    session_close(&session);
    texts_close(&texts);
    return rc;
}
