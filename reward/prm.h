// SPDX-License-Identifier: Apache-2.0
// The process reward model: a policy with a value head (score.weight, score.bias), read at the
// token that ends each step's separator. The sigmoid of that value is the probability that the step
// is right, that is, whatever its labels said (Lightman et al., arXiv:2305.20050; Wang et al.,
// arXiv:2312.08935). Here are its use as a scorer and its loss; the training stage is rl's.
#ifndef REWARD_PRM_H
#define REWARD_PRM_H

#include "policy/pack.h"
#include "policy/policy.h"
#include "reward/reward.h"

// How the values of a completion's steps become one: the scorer's `value`.
enum prm_aggregate { PRM_MIN, PRM_PRODUCT, PRM_LAST, PRM_MEAN };

struct prm_scorer_options {
    enum prm_aggregate aggregate;
    const char *separator;  // NULL: "\n"
    int micro_batch_tokens; // tokens of one forward pass, at most; a longer item goes alone
};

// A scorer named "prm" on a policy that has a value head; the policy is borrowed. Items need
// tokens, token_ends and prompt_tokens. A completion without steps has the value 0.
int prm_scorer_open(struct reward_scorer *out, struct policy *p,
                    const struct prm_scorer_options *options);

// ---- training

// A completion with labels at some of its tokens: in [0,1], or negative: masked. The ends of steps
// are where the model will be read; labels at the other tokens of a step, which say how the step
// will end, teach the same thing at more places (token-level verifiers: Cobbe et al.,
// arXiv:2110.14168, section 4.2).
struct prm_example {
    const int *prompt, *completion;
    int prompt_len, len;
    int num_labels;
    const int *token;     // [num_labels] index in completion, rising
    const float *label;   // [num_labels]
    const bool *step_end; // [num_labels]
    float *value;         // [num_labels], out: logits before the update, of labels not masked
};

struct prm_loss {
    double loss;            // sum of the binary cross-entropies / the labels of the batch
    int64_t num_labels;     // that are not masked
    int64_t num_steps;      // of them, ends of steps; those below count these alone
    int64_t num_right;      // on the right side of 1/2, before the update
    int64_t num_positive;   // label > 1/2
    int64_t right_positive; // of those, found
};

// Labels that are not masked.
int64_t prm_num_labels(const struct prm_example *examples, int n);

// Forward and backward over the examples, a batch or a part of one: p->grad += gradient of the sum
// of cross-entropies / batch_labels, those of the whole batch. Before: policy_train_begin and
// policy_grad_zero. No label at all gives zeros.
int prm_train_batch(struct prm_loss *out, struct policy *p, const struct prm_example *examples,
                    int n, int64_t batch_labels, int micro_batch_tokens);

#endif
