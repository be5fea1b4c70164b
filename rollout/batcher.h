// SPDX-License-Identifier: Apache-2.0
// One run of an engine: which samples are in the batch, which pages they hold, and the two calls of
// the model that move them on.
//
// Theory of operation. Samples are admitted in the order of the requests, each when there is a
// place in the batch and its worst case (max_tokens) fits the free pages, which it takes at once:
// nothing that was admitted ever waits for memory. With the first sample of a request come the
// pages of its prompt. Prompts are computed in calls of up to prefill_tokens, long ones in pieces,
// until every admitted sample has its first token; then all samples take one token a step, and
// those that finish leave the batch and give their pages back.
//
// Sharing. A request's samples hold the prompt's full pages together. The partly filled last page
// is written by every sample, so each gets a copy; the last sample takes the original over, and
// with it the request's own hold on the prompt's pages. Because admission is in order, at most one
// request has samples that are not admitted yet while its prompt is computed: its logits are
// carried.
#ifndef ROLLOUT_BATCHER_H
#define ROLLOUT_BATCHER_H

#include "base/mem.h"
#include "kernels/block.h"
#include "rollout/pages.h"
#include "rollout/rollout.h"

struct batcher_slot { // a sample in the batch
    int request, index;
    int len; // tokens drawn
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

struct batcher_memory {         // of the model's device; kept by the owner from run to run
    struct device_block logits; // [batch+1,V]; the last row is carried
    struct device_block draws;  // [batch] of struct sample_row
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
    rollout_callback *on_sample;
    void *arg;
    struct rollout_stats *stats;

    // Where the run stands.
    int next, next_index;               // the next sample to be admitted
    int prefilled, prompt_done;         // prompts computed, and tokens of the one after them
    int num_live, num_started;          // samples in the batch; the first num_started have a token
    int64_t steps, rows;                // decode steps, and the rows of all of them
    struct batcher_slot **live, **idle; // [batch]; idle holds batch - num_live slots
    size_t *first_page;                 // [num_requests]: where its prompt's pages start in:
    int *prompt_pages;

    // Memory of a call.
    int *tokens, *rows_asked;
    struct policy_chunk *chunks;
    struct sample_row *draws; // [batch]
    struct batcher_drawn drawn, drawn_on_device;
    float *logits, *carried; // [batch,V], [V], on the device
};

// Bytes of a batch's memory, for a vocabulary of V.
size_t batcher_memory_bytes(int batch, int V);
void batcher_memory_free(struct batcher_memory *m);

// Pages of that many tokens; the most pages that one sample of a request needs at once with the
// request alone in the cache; and those of all its samples together.
int batcher_pages(int64_t tokens);
int batcher_pages_one(const struct rollout_request *q);
int64_t batcher_pages_all(const struct rollout_request *q);

// The uniform number of one token: Philox4x32-10 with key philox_mix(seed, step), the prompt id as
// the low and (sample << 32) + position as the high half of the counter; position counts from the
// completion's first token. The first of the four words is used.
double batcher_uniform(uint64_t key, uint64_t id, int sample, int position);

// Runs all requests, which the owner has checked. Holds no pages when it returns, in error or not.
int batcher_run(struct batcher *s);

#endif
