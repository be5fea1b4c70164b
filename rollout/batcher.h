// SPDX-License-Identifier: Apache-2.0
// One run of an engine: which samples are in the batch, which pages they hold, and the two calls of
// the model that move them on.
//
// Theory of operation. Samples are admitted in the order of the requests, each when there is a
// place in the batch and its worst case (max_tokens) fits the free pages, which it takes at once:
// nothing that was admitted ever waits for memory. With the first sample of a request come the
// pages of its prompt. A step is one call of the model: the next token of every sample that has
// one and, where that leaves room among prefill_tokens, prompts that are not computed yet, in
// order, long ones in pieces. Samples that finish leave the batch and give their pages back.
//
// Sharing. A request's samples hold the prompt's full pages together. The partly filled last page
// is written by every sample, so each gets a copy; the last sample takes the original over, and
// with it the request's own hold on the prompt's pages. Because admission is in order, at most one
// request has samples that are not admitted yet while its prompt is computed: its logits are
// carried. Full pages are named by their tokens when they are taken, before they are computed: a
// later prompt with the same beginning holds them and starts behind them. Its turn comes no earlier
// than theirs, and within a call the rows of all tokens are stored before any are read. Its last
// token is always its own, for its logits are wanted.
//
// Cancelling. Samples that are admitted leave when they have a token, because other prompts may
// wait for the pages that theirs computes; others of the request are passed over.
#ifndef ROLLOUT_BATCHER_H
#define ROLLOUT_BATCHER_H

#include "base/mem.h"
#include "kernels/block.h"
#include "rollout/pages.h"
#include "rollout/rollout.h"
#include "rollout/stop_strings.h"

struct batcher_slot { // a sample in the batch
    int request, index;
    int len;   // tokens drawn
    bool done; // it leaves the batch, because of `why`
    enum rollout_finish why;
    int stop_string;
    int *matched; // [max over requests of num_stop_strings]
    int num_pages;
    int *pages;  // [max over requests of the pages of prompt and completion]
    int *tokens; // this and the next three: [max over requests of max_tokens]
    float *logprob, *entropy;
    bool *truncated;
};

// What a draw gives, arrays of one block [batch]; once on the device and once on the host.
struct batcher_drawn {
    int *token;
    float *logprob, *entropy;
    bool *truncated;
};

struct batcher_memory {            // of the model's device; kept by the owner from run to run
    struct device_block logits;    // [batch+1,V]; the last row is carried
    struct device_block penalised; // [batch,V]; only where there are penalties
    struct device_block draws;     // [batch] of struct sample_row
    struct device_block drawn;
};

struct batcher {
    // Set by the owner.
    struct policy *policy;
    struct kv_cache *cache;
    struct pages *pages;
    struct arena *work, *results;
    struct batcher_memory *memory;
    uint64_t key; // of the random numbers
    const struct rollout_request *requests;
    int num_requests;
    const int *first_sample; // [num_requests]: where a request's samples start in `samples`
    struct rollout_sample *samples;
    int batch, prefill_tokens; // limits
    const struct tokenizer *tokenizer;
    rollout_callback *on_sample;
    void *arg;
    struct rollout_stats *stats;
    int64_t *expert_load; // [L,E] +=
    bool *cancelled;      // [num_requests]; set while the run goes on

    // Where the run stands.
    int next, next_index;               // the next sample to be admitted
    int prefilled, prompt_done;         // prompts computed, and tokens of the one after them
    int num_live, num_started;          // samples in the batch; the first num_started have a token
    int64_t steps, rows;                // steps that decode, and the rows of all of them
    double start;                       // of the run, seconds
    struct batcher_slot **live, **idle; // [batch]; idle holds batch - num_live slots
    size_t *first_page;                 // [num_requests]: where its prompt's pages start in:
    int *prompt_pages;
    int *shared_pages; // [num_requests]: how many of them an earlier prompt computes; -1: passed
                       // over
    struct stop_strings *stop_strings; // [num_requests]

    // Memory of a call.
    int *tokens, *rows_asked;
    struct policy_chunk *chunks;
    struct sample_row *draws; // [batch]
    struct batcher_drawn drawn, drawn_on_device;
    float *logits, *carried; // [batch,V], [V], on the device
    float *row;              // [V], where there are penalties; and which tokens were seen:
    bool *seen;              // [V], all false between uses
};

// Pages of that many tokens; those of one sample's prompt and completion; the most pages that one
// sample of a request needs at once with the request alone in the cache; and those of all its
// samples together.
int batcher_pages(int64_t tokens);
int batcher_pages_to_end(const struct rollout_request *q);
int batcher_pages_one(const struct rollout_request *q);
int64_t batcher_pages_all(const struct rollout_request *q);

// Runs all requests, which the owner has checked. Holds no pages when it returns, in error or not.
int batcher_run(struct batcher *s);

#endif
