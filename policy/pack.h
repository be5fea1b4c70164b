// SPDX-License-Identifier: Apache-2.0
// Builds the packed batches that policy_forward takes, from sequences given one after the other. A
// zeroed struct is an empty pack; its memory grows and is reused. Not for several threads at once.
#ifndef POLICY_PACK_H
#define POLICY_PACK_H

#include "policy/policy.h"

struct pack {
    int *tokens, *seq_offsets, *seq_prefix, *target_row, *target_token;
    float *target_tau;
    int T, num_seqs, num_targets;
    int cap_tokens, cap_seqs, cap_targets;
};

void pack_clear(struct pack *p); // keeps the memory
void pack_free(struct pack *p);  // leaves an empty pack

// Appends a sequence made of two parts, a prompt and what follows it; either may be empty. Returns
// the row of its first token.
int pack_sequence(struct pack *p, const int *head, int head_len, const int *tail, int tail_len);

// Whether a sequence of len tokens may join a pack of at most `limit`: the first always may.
bool pack_has_room(const struct pack *p, int len, int limit);

// Asks for the row: the log-probability of `token` after it at temperature tau, or a value.
void pack_target(struct pack *p, int row, int token, float tau);

// A sequence of prompt and completion, every completion token of which is a target at tau. The
// prompt has at least one token.
void pack_completion(struct pack *p, const int *prompt, int prompt_len, const int *completion,
                     int len, float tau);

// Appends a completion of the prompt that is the last sequence, or that the last sequence is a
// completion of: the prompt, of at least one token, is computed once for all. Every completion
// token is a target at tau.
void pack_shared(struct pack *p, const int *completion, int len, float tau);

// The batch, borrowing the pack's arrays until it changes.
struct policy_batch pack_batch(const struct pack *p);

#endif
