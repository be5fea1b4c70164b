// SPDX-License-Identifier: Apache-2.0
// Generation: continuous batching over a paged latent cache. Requests name a prompt, how many
// samples of it are wanted and how they are drawn; the samples of a prompt share its cache pages. A
// sample's tokens and log-probabilities are a function of the weights, the prompt, the sampling
// parameters and the key alone: not of the batch, the order or the number of threads; the
// log-probabilities have the bits of policy_forward. An engine borrows its policy and is used by
// one thread at a time. It knows nothing of rewards.
#ifndef ROLLOUT_ROLLOUT_H
#define ROLLOUT_ROLLOUT_H

#include "policy/policy.h"
#include <stdbool.h>
#include <stdint.h>

struct rollout_sampling {
    double temperature;     // 0: greedy
    int top_k;              // 0: off
    double top_p;           // 1: off
    double min_p;           // 0: off
    int max_tokens;         // of the completion, > 0
    const int *stop_tokens; // a completion ends with the first of these, which it keeps
    int num_stop_tokens;
};

struct rollout_request {
    const int *prompt; // prompt_len >= 1 tokens, borrowed until rollout_run returns
    int prompt_len;
    int n;       // samples wanted
    uint64_t id; // prompt id: randomness is a function of (seed, step, id, sample, position)
    struct rollout_sampling sampling;
};

enum rollout_finish { ROLLOUT_STOP, ROLLOUT_LENGTH };

struct rollout_sample {
    int request, index; // which request, which of its n samples
    int len;
    const int *tokens;     // [len]
    const float *logprob;  // [len] at the request's temperature, of the untruncated distribution
    const float *entropy;  // [len]
    const bool *truncated; // [len] top-k, top-p or min-p removed something at this token
    enum rollout_finish finish;
};

struct rollout_stats {
    int64_t prompt_tokens, completion_tokens; // computed prompt tokens count once per request
    double prefill_seconds, decode_seconds;
    int peak_pages, num_pages; // most pages held at once (a sample holds those of its max_tokens),
                               // and in the cache
    int held_pages;            // after the run, also when it was cancelled or met an error: 0
    double mean_batch;         // rows per decode step
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
    int prefill_tokens;   // prompt tokens computed in one forward call; 0: 4096
};

// What a run of num_requests requests like q (its prompt_len, n and max_tokens) takes of dev
// besides the model, when none was before it.
int rollout_plan(struct rollout_memory *out, struct device *dev, const struct arch *arch,
                 enum dtype dtype, const struct rollout_options *o, const struct rollout_request *q,
                 int num_requests);

int rollout_open(struct rollout_engine **out, struct policy *p, const struct rollout_options *o);
void rollout_free(struct rollout_engine **e);

// Called once for each sample as it finishes, in no promised order, from the calling thread. A
// return other than 0 (ERR_*, with the message set) cancels the run: rollout_run gives the pages
// back and returns it.
typedef int rollout_callback(void *arg, const struct rollout_sample *s);

// Generates all samples of all requests. The results, ordered by request and index, stay valid
// until the next rollout_run or rollout_free. Errors: a request longer than the model's positions
// or the cache (ERR_CONFIG, with the numbers), sampling parameters out of range (ERR_CONFIG), empty
// prompts and token ids out of range (ERR_DATA), non-finite logits (ERR_NUMERIC), no memory for the
// cache (ERR_ENV). `step` enters the randomness (rollout/batcher.h says how).
int rollout_run(const struct rollout_sample **out, int *count, struct rollout_engine *e,
                uint64_t step, const struct rollout_request *requests, int num_requests,
                rollout_callback *on_sample, void *arg);
void rollout_get_stats(const struct rollout_engine *e,
                       struct rollout_stats *out); // of the last run

#endif
