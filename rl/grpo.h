// SPDX-License-Identifier: Apache-2.0
// Group-relative policy optimisation, as arithmetic: rewards in, an advantage per token out;
// log-probabilities in, the loss and d(loss)/d(log-probability) out. Everything is double, nothing
// is allocated, and nothing here knows models, text or devices. Sources: DeepSeekMath
// (arXiv:2402.03300) section 4.1, DAPO (arXiv:2503.14476), Dr. GRPO (arXiv:2503.20783), PURE
// (arXiv:2504.15275); where they leave a choice, TRL's is taken. Functions may be called at once on
// different outputs.
//
// Letters: G samples of one prompt are a group; t counts the tokens of all completions, one sample
// after the other.
#ifndef RL_GRPO_H
#define RL_GRPO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Completions with their judgements; borrowed. Samples of a group are neighbours. Offsets have one
// entry more than there are things: the last is where the last thing ends.
struct grpo_batch {
    int num_groups;
    const int *group_begin;    // [num_groups + 1] first sample of each group
    const size_t *token_begin; // [samples + 1] first token of each sample
    const uint8_t *mask;       // [tokens] 1: learned from, 0: not (a tool wrote it)
    const double *reward;      // [samples] outcome; read only where valid
    const bool *right;         // [samples] the outcome is right; read only with an outcome gate
    const bool *valid;         // [samples] false: unscorable, has advantage 0 and counts nowhere
    // Steps, for process supervision; step_begin may be NULL without it.
    const int *step_begin;     // [samples + 1] first step of each sample
    const int *step_token;     // [steps] token of its sample (from 0) that ends the step; rising
    const double *step_reward; // [steps] read only where step_valid
    const bool *step_valid;    // [steps] false: counts nowhere
};

enum grpo_scale {
    GRPO_SCALE_GROUP, // by the standard deviation (n - 1) of the group
    GRPO_SCALE_BATCH, // by that of all groups together
    GRPO_SCALE_NONE
};

enum grpo_credit {
    // DeepSeekMath 4.1.3: the sum of the normalised rewards of the steps that end at the token or
    // after
    GRPO_CREDIT_SUM,
    // PURE: the soft minimum of the raw step rewards; not scaled
    GRPO_CREDIT_MIN
};

struct grpo_advantage_config {
    double outcome, process; // weights w_o, w_p: A = w_o A_outcome + w_p A_process
    enum grpo_scale scale;
    double eps; // added to the standard deviation: 1e-4 in TRL, 1e-6 in verl
    enum grpo_credit credit;
    double min_temperature; // T of the soft minimum; 0.1 in PURE
    bool min_baseline;      // subtract the group's mean return of the first token
    bool outcome_gate; // credit sum: what a step is worth above 0 counts only in samples that are
                       // right
};

// Over scorable samples; a group with none counts in no mean. In quotes: names in metrics.jsonl.
struct grpo_reward_stats {
    int num_samples, num_unscorable;
    // "reward": mean over samples. "reward_std": mean over groups of two or more of their standard
    // deviations; under GRPO_SCALE_BATCH that of the batch. "frac_reward_zero_std": share of groups
    // whose rewards are all equal.
    double reward, reward_std, frac_reward_zero_std;
    // "process/reward" and so on: the same of steps.
    double step_reward, step_reward_std, frac_step_reward_zero_std;
};

// advantage [tokens]: A_t, and 0 where mask is 0. stats may be NULL. NaN is not accepted in valid
// rewards.
void grpo_advantages(double *advantage, struct grpo_reward_stats *stats, const struct grpo_batch *b,
                     const struct grpo_advantage_config *c);

enum grpo_loss_type {
    GRPO_LOSS_GRPO,    // mean over samples of the mean over a sample's tokens
    GRPO_LOSS_BNPO,    // mean over all tokens; TRL: of a micro-batch; here the same as DAPO
    GRPO_LOSS_DAPO,    // mean over all tokens
    GRPO_LOSS_DR_GRPO, // sum over tokens / (samples * max_completion_length)
    GRPO_LOSS_SEQ_SUM  // mean over samples of the sum over a sample's tokens (verl)
};

enum grpo_level {
    GRPO_LEVEL_TOKEN,   // ratio of each token
    GRPO_LEVEL_SEQUENCE // GSPO (arXiv:2507.18071): the geometric mean over a sample's tokens
};

// Estimators of KL(policy || reference) of one token, with d = logp - ref: k1 = d, k2 = d^2 / 2,
// k3 = e^-d + d - 1.
enum grpo_kl { GRPO_KL_K1, GRPO_KL_K2, GRPO_KL_K3 };

struct grpo_loss_config {
    enum grpo_loss_type type;
    enum grpo_level level;
    double eps_low, eps_high; // the ratio is clipped to [1 - eps_low, 1 + eps_high]
    double delta;             // bound of the unclipped ratio (verl's clip_ratio_c); 0: none
    double beta;              // weight of the KL term; 0: none, and `ref` is not read
    enum grpo_kl kl;
    int max_completion_length; // of GRPO_LOSS_DR_GRPO
};

// What a whole optimiser batch is divided by; its micro-batches share it, so that they add up to
// the loss of the whole.
struct grpo_norm {
    size_t tokens; // N: unmasked tokens of scorable samples
    int samples;   // B: scorable samples with an unmasked token
};
struct grpo_norm grpo_norm(const struct grpo_batch *b, int first_sample, int end_sample);

// Sums of a loss over the micro-batches of one optimiser batch. Zeroed before the first; read by
// grpo_loss_stats after the last.
struct grpo_loss_sum {
    double loss, kl;
    size_t low, high; // tokens (GRPO_LEVEL_SEQUENCE: samples) clipped below and above
    size_t tokens;
    int samples;
    double low_min, high_max; // of the samples' shares of clipped tokens
};

// Adds the sum of samples that come after those of *sum.
void grpo_loss_add(struct grpo_loss_sum *sum, const struct grpo_loss_sum *x);

// What a loss is made of, [tokens] of the whole batch each; borrowed.
struct grpo_tokens {
    const double *logp; // of the policy being trained
    const double *old;  // of the policy that wrote the token
    const double *ref;  // of the reference; may be NULL when beta is 0
    const double *advantage;
};

// Adds the loss of samples [first, end) to sum and writes its gradient to their part of dlogp
// [tokens] (0 where masked or unscorable).
void grpo_loss(double *dlogp, struct grpo_loss_sum *sum, const struct grpo_batch *b,
               int first_sample, int end_sample, const struct grpo_tokens *x,
               const struct grpo_norm *norm, const struct grpo_loss_config *c);

struct grpo_loss_stats {
    double loss;
    double kl;               // kl: mean over tokens; 0 when beta is 0
    double clip_low_mean;    // clip_ratio/low_mean
    double clip_high_mean;   // clip_ratio/high_mean
    double clip_region_mean; // clip_ratio/region_mean
    double clip_low_min;     // clip_ratio/low_min
    double clip_high_max;    // clip_ratio/high_max
};
struct grpo_loss_stats grpo_loss_stats(const struct grpo_loss_sum *sum,
                                       const struct grpo_loss_config *c);

// Value of an estimator and, into *grad, its derivative by logp.
double grpo_kl_value(enum grpo_kl kind, double logp, double ref, double *grad);

#endif
