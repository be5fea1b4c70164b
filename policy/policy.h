// SPDX-License-Identifier: Apache-2.0
// The model: weights, the packed forward pass with its backward, and the forward pass over a paged
// cache. Both are the same kernels on the same weights, so a token's log-probability has the same
// bits from either (promise 1 of the architecture). The policy knows tokens and
// d(loss)/d(log-probability); it does not know what a reward, a group or a loss is. A policy is
// used by one thread at a time; its own threads are the device's team.
//
// Weights, gradients, activations and logits lie in the memory of the device; what the functions
// here take and give is host memory unless they say otherwise. A pass takes its inputs up in one
// transfer and waits for the device only where the host needs results.
#ifndef POLICY_POLICY_H
#define POLICY_POLICY_H

#include "kernels/device.h"
#include "policy/arch.h"
#include "policy/generation_config.h"
#include "policy/kvcache.h"
#include "policy/params.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct policy_activations; // of the last policy_forward, for the backward pass
                           // (policy/activations.h)

struct policy_ranks; // of training by several ranks (policy/parallel.h)

struct policy {
    struct arch arch;
    enum dtype dtype;     // of what the products read: see policy_open
    struct device *dev;   // borrowed
    struct params params; // names, shapes and the one block of weights, float32. params.read_only:
                          // without what is only packed; never trained, saved or cloned
    float *grad;          // mirrors params.data; NULL until policy_train_begin
    bool grad_is_zero;    // since nothing was added to it: a backward pass need not read it
    bool recompute;       // training passes keep each layer's input alone, and the backward pass
                          // computes the layer again: the same bits (arXiv:1604.06174). The
                          // caller's to set, between passes
    double *grad_squares; // on the device: sums of squares of blocks of grad, for its norm
    struct policy_activations *acts;
    struct policy_packed
        *packed;                // weights in the device's layout; remade by policy_weights_changed
    struct policy_ranks *ranks; // NULL: one rank, one shard
    int64_t *expert_load;  // [L,E] tokens routed since the last policy_load_reset, training forward
                           // passes only
    double balance_weight; // of each sequence's balance loss in backward passes; 0: there is none
    // Since the last policy_load_reset, of these passes: the losses of all mixture layers and
    // sequences, without the weight, as a sum of multiples of 2^-24 that no order changes, and
    // their number.
    int64_t balance_sum, balance_terms;

    struct generation_config generation; // of the files it was opened from, or of its original's
    int adapted;       // matrices that an adapter was merged into when it was opened
    int64_t nonfinite; // weights of its files that are NaN or Inf, where that was allowed
};

// Opens a Hugging Face directory: config.json and model.safetensors (or shards with an index).
// dtype DTYPE_BF16: products read weights, activations and cached rows rounded to bfloat16 and sum
// in float32; weights themselves, gradients, the residual stream, gates, norms and softmax are
// float32, and the value head is. DTYPE_F32: everything is float32.
// value_head: adds score.weight and score.bias, zero when the files lack them (a head that the
// files have is kept either way). Refuses missing, misshapen or unexpected tensors in one list, and
// weights that hold NaN or Inf. Layers for multi-token prediction are passed over:
// arch.num_mtp_layers says how many there were. Weights in blocks of float8 are dequantised:
// arch.fp8_rows says.
int policy_open(struct policy **out, struct device *dev, const char *dir, enum dtype dtype,
                bool value_head);
// The same with what is rarer. adapter: directory of a LoRA adapter in PEFT's files, which is
// merged into the weights (policy/adapter.h says of which kinds); all that does not fit comes in
// one list.
struct policy_source {
    const char *dir, *adapter; // adapter NULL: none
    bool value_head;
    bool allow_nonfinite; // weights that are NaN or Inf are counted, not refused
    bool read_only;       // the same results of forward passes in less memory: a matrix is kept as
                          // products read it alone
};
int policy_open_source(struct policy **out, struct device *dev, const struct policy_source *source,
                       enum dtype dtype);
// The architecture of a directory's config.json.
int policy_read_arch(struct arch *out, const char *dir);
// New weights: normal with init_range for matrices (norms 1, biases 0), a function of (seed, tensor
// name, index) alone.
int policy_create(struct policy **out, struct device *dev, const struct arch *arch,
                  enum dtype dtype, uint64_t seed);
// A copy with the same weights and type; value_head and read_only as above. Gradients are not
// copied.
int policy_clone(struct policy **out, const struct policy *p, bool value_head, bool read_only);
void policy_free(struct policy **p);

// Writes config.json, generation_config.json (as it was, where there was one) and
// model.safetensors, so that transformers opens dir (which exists). The tokenizer is saved by its
// own module.
int policy_save(const struct policy *p, const char *dir);

// To be called after params.data, which is the device's memory, was written from outside.
int policy_weights_changed(struct policy *p);

struct policy_pass { // the shape of a pass
    int T;           // tokens
    int N;           // rows of keys, more than T where sequences share a prefix; 0: T
    int num_targets;
    int num_seqs;   // or chunks
    int num_blocks; // of ATTENTION_BLOCK keys, all sequences' together
    bool prefixes;  // some sequence continues another
    bool train;     // a backward pass may follow
    bool values;    // by policy_forward_values
};

// ---- packed sequences

struct policy_batch {
    int T, num_seqs;
    const int *tokens;      // [T], sequences one after the other
    const int *seq_offsets; // [num_seqs+1]
    // [num_seqs] the sequence that this one continues, or -1; NULL: none does. Its tokens stand
    // before this one's and are computed once, with the bits that they have in a sequence of their
    // own. The sequences that continue one follow it; it continues none.
    const int *seq_prefix;
    // What is asked of it: rows whose next token is scored, or (value head) rows where a value is
    // read. In any order; a row may be asked for several next tokens.
    int num_targets;
    const int *target_row;   // [num_targets] in [0,T)
    const int *target_token; // [num_targets]; unused for values
    const float *target_tau; // [num_targets] temperature, 0 counts as 1; unused for values
};

// Allocates gradients (zeroed), so that forward keeps what backward needs. Whoever writes to grad
// from outside clears grad_is_zero.
int policy_train_begin(struct policy *p);
// Gives back what training alone needs: gradients, activations, the packed weights of backward
// passes, what several ranks share (policy/parallel.h).
int policy_train_end(struct policy *p);
int policy_grad_zero(struct policy *p);

// Log-probability and entropy (nats; entropy may be NULL) of the targets, [num_targets].
// ERR_NUMERIC when a result is not finite. When train is set, activations are kept for one
// policy_backward of the same batch and expert_load counts the tokens that are computed: those of a
// prefix once.
int policy_forward(struct policy *p, const struct policy_batch *b, bool train, float *logprob,
                   float *entropy);
// grad += d(loss)/d(weights), from d(loss)/d(logprob) and d(loss)/d(entropy) (NULL: zero),
// [num_targets], and that of balance_weight times the sum of the sequences' balance losses (a
// prefix being a part of each sequence that continues it).
int policy_backward(struct policy *p, const struct policy_batch *b, const float *dlogprob,
                    const float *dentropy);

// The value head at the target rows: score[i] = h_row · score.weight + score.bias (a logit), and
// its backward.
int policy_forward_values(struct policy *p, const struct policy_batch *b, bool train, float *score);
int policy_backward_values(struct policy *p, const struct policy_batch *b, const float *dscore);

// Logits of the target rows, [num_targets,V]: for tests and tools.
int policy_forward_logits(struct policy *p, const struct policy_batch *b, float *logits);

// ---- over the cache

struct policy_chunk {
    int start, len;   // tokens [start, start+len) of the call are this sequence's next ones
    int pos;          // position of the first of them; what is before is in the cache
    const int *pages; // page of each KV_PAGE positions from 0, enough for pos + len; those written
                      // here belong to this sequence alone
};

// Blocks of a pass over num_chunks sequences that hold num_pages pages together, at most: passes of
// like sizes are one sequence of kernels (kernels/replay.h).
int policy_decode_blocks(int num_pages, int num_chunks);

// Runs T new tokens of num_chunks sequences, writes their cache rows, and computes logits
// [num_rows,V], in the memory of the device, after the tokens `rows` (ascending). They are not
// looked at: what is not finite shows in the log-probability and entropy of a token drawn from it.
int policy_decode(struct policy *p, struct kv_cache *cache, int T, const int *tokens,
                  int num_chunks, const struct policy_chunk *chunks, int num_rows, const int *rows,
                  float *logits);

// ---- expert balance

// Adds the tokens that the last pass routed to each expert to load [L,E].
int policy_add_load(int64_t *load, const struct policy *p);

// b_i += u sign(mean load - load_i) in every layer with a routing bias, over expert_load
// (arXiv:2412.19437, 2.1.2).
int policy_balance_bias(struct policy *p, double u);
// MaxVio = max_i load_i / mean load - 1, the mean over mixture layers; 0 when nothing was routed.
// Of expert_load, and of any load [L,E].
double policy_max_violation(const struct policy *p);
double policy_load_violation(const struct arch *a, const int64_t *load);
// The sequence-wise balance loss (arXiv:2405.04434, 2.2.3; arXiv:2412.19437, eq. 17-20) of the
// backward passes with a balance_weight, the mean over mixture layers and sequences: 1 when all
// experts are alike; 0 without such a pass.
double policy_balance_loss(const struct policy *p);
void policy_load_reset(struct policy *p); // and the balance losses

#endif
