// SPDX-License-Identifier: Apache-2.0
// Generation: continuous batching over a paged latent cache. Requests name a prompt, how many
// samples of it are wanted and how they are drawn; the samples of a prompt, and prompts of one run
// with a common beginning, share its cache pages. A sample's tokens and log-probabilities are a
// function of the weights, the prompt, the sampling parameters and the key alone: not of the batch,
// the order or the number of threads; the log-probabilities have the bits of policy_forward. An
// engine borrows its policy and is used by one thread at a time. It knows nothing of rewards.
#ifndef ROLLOUT_ROLLOUT_H
#define ROLLOUT_ROLLOUT_H

#include "policy/policy.h"
#include "policy/tokenizer.h"
#include <stdbool.h>
#include <stdint.h>

struct rollout_sampling {
    double temperature;        // 0: greedy
    int top_k;                 // 0: off
    double top_p;              // 1: off
    double min_p;              // 0: off
    double repetition_penalty; // 0 or 1: off. Logits of tokens of the prompt and the completion so
                               // far are divided by it when positive, else multiplied (eq. 2,
                               // arXiv:1909.05858, as transformers applies it)
    int max_tokens;            // of the completion, > 0
    const int *stop_tokens;    // a completion ends with the first of these, which it keeps
    int num_stop_tokens;
    const char *const *stop_strings; // or with the token that completes one of these in its text
    int num_stop_strings;
};

struct rollout_request {
    const int *prompt; // prompt_len >= 1 tokens, borrowed until rollout_run returns
    int prompt_len;
    int n;       // samples wanted
    uint64_t id; // prompt id: randomness is a function of (seed, step, id, sample, position)
    struct rollout_sampling sampling;
};

enum rollout_finish { ROLLOUT_STOP, ROLLOUT_STOP_STRING, ROLLOUT_LENGTH, ROLLOUT_CANCELLED };

struct rollout_sample {
    int request, index; // which request, which of its n samples
    int len;
    const int *tokens;     // [len]
    const float *logprob;  // [len] at the request's temperature, of the untruncated distribution
    const float *entropy;  // [len]
    const bool *truncated; // [len] the token was drawn from another distribution than logprob is
                           // of: top-k, top-p or min-p removed something, or there is a penalty
    enum rollout_finish finish;
    int stop_string; // which one ended it; -1: none
};

struct rollout_stats {
    int64_t prompt_tokens, completion_tokens; // computed prompt tokens count once per request
    int64_t shared_tokens; // prompt tokens not computed, because an earlier prompt begins with them
    double prefill_seconds, decode_seconds; // a step that does both counts by its rows
    double first_token_seconds;             // from the beginning of the run
    int peak_pages, num_pages; // most pages held at once (a sample holds those of its max_tokens),
                               // and in the cache
    int held_pages;            // after the run, also when it was cancelled or met an error: 0
    int max_batch;             // most samples at once that the run allowed
    double mean_batch;         // rows per decode step
    double max_violation;      // of the experts' load over all tokens computed (policy/policy.h)
};

struct rollout_engine;

struct rollout_memory {
    size_t cache, sampling;  // bytes of the paged cache, and of logits and draws
    struct policy_pass pass; // as large as any of the model's
    int positions;           // of the longest request
};

struct rollout_options {
    uint64_t seed;
    int max_batch;        // samples decoded at once; 0: 512
    int64_t cache_tokens; // size of the cache; 0: as much as max_batch samples of the longest
                          // request need, within memory
    int prefill_tokens;   // tokens of a forward call that computes prompts; 0: 4096
    const struct tokenizer *tokenizer; // borrowed; gives the text of tokens: for stop strings
};

// What a run of num_requests requests like q (its prompt_len, n and max_tokens) takes of dev
// besides the model, when none was before it.
int rollout_plan(struct rollout_memory *out, struct device *dev, const struct arch *arch,
                 enum dtype dtype, const struct rollout_options *o, const struct rollout_request *q,
                 int num_requests);

int rollout_open(struct rollout_engine **out, struct policy *p, const struct rollout_options *o);
void rollout_free(struct rollout_engine **e);

// Called once for each sample as it finishes, in no promised order, from the calling thread. A
// return other than 0 (ERR_*, with the message set) ends the run: rollout_run gives the pages
// back and returns it.
typedef int rollout_callback(void *arg, const struct rollout_sample *s);

// Generates all samples of all requests. The results, ordered by request and index, stay valid
// until the next rollout_run or rollout_free. Errors: a request longer than the model's positions
// or the cache (ERR_CONFIG, with the numbers), sampling parameters out of range, stop strings
// without a tokenizer (ERR_CONFIG), empty prompts and token ids out of range (ERR_DATA), non-finite
// logits (ERR_NUMERIC), no memory for the cache (ERR_ENV). `step` enters the randomness
// (rollout/batcher.h says how).
int rollout_run(const struct rollout_sample **out, int *count, struct rollout_engine *e,
                uint64_t step, const struct rollout_request *requests, int num_requests,
                rollout_callback *on_sample, void *arg);
// From the callback: samples of the request that are not finished end where they are, perhaps
// without a token, as ROLLOUT_CANCELLED.
void rollout_cancel(struct rollout_engine *e, int request);
void rollout_get_stats(const struct rollout_engine *e,
                       struct rollout_stats *out); // of the last run

#endif
