// SPDX-License-Identifier: Apache-2.0
// The buffers of a pass: activations of each layer, what a pass needs besides, and the gradients
// that flow back. All but pass_inputs' host side lies in the memory of the policy's device: a block
// of activations and one of inputs, which grow on demand and are reused. A pass that is not for
// training keeps one layer's worth; so does one that recomputes, but for the layers' inputs. Arrays
// of void are of the policy's type: products read them.
// Internal to policy/; tests read hidden states and routing from here.
#ifndef POLICY_ACTIVATIONS_H
#define POLICY_ACTIVATIONS_H

#include "kernels/block.h"
#include "kernels/replay.h"
#include "policy/policy.h"
#include "policy/rope.h"

struct layer_acts {
    float *x;          // [T,C] residual stream before the layer
    float *rstd1;      // [T]
    float *q_a;        // [T,Rq]
    float *rstd_q;     // [T]
    void *q;           // [T,H,Dn+Dr] of latent attention; the rope part is not rotated
    void *q_lat;       // [T,H,Dk] what attention reads: rotated, and absorbed when latent
    float *kv_a;       // [T,R+Dr] before norm and rotation, of latent attention
    float *rstd_kv;    // [T] likewise
    float *qkv;        // [T,H Dr + row] before norm and rotation, of grouped-query attention
    void *kv;          // [T,row] rows of keys and values (arch_row_width) by token
    void *keys;        // [N,row] those that attention reads: kv, or a gather of it
    void *o_lat;       // [T,H,Dv] output of attention; of latent attention [T,H,R]
    float *lse;        // [T,H]
    void *o;           // [T,H,Dv] of latent attention
    float *h;          // [T,C] residual stream between attention and FFN
    float *rstd2;      // [T]
    void *gate_up;     // [T,2 width] of the dense FFN or the shared experts
    float *scores;     // [T,E]
    float *weights;    // [T,K]
    void *exp_gate_up; // [T*K,2F] by slot
    void *ys;          // [T*K,C] by slot
    int *experts;      // [T,K]
    int *segments;     // [E+1]
    int *slot, *pair;  // [T*K]
};

// What the host tells the kernels of a pass: one block on the host, filled there, and one on the
// device, to which it is copied whole.
struct pass_inputs {
    int *tokens;                          // [T]
    int *position;                        // [T]
    size_t *place;                        // [T] rows of the cache, for passes over one
    int *target_row;                      // [num_targets]
    int *target_token;                    // [num_targets]; not of values and chunks
    float *target_tau;                    // [num_targets]; likewise
    int *key_token;                       // [N] whose row a row of keys is; where N > T
    struct attention_seq *seqs;           // [num_seqs]
    struct attention_grad_seq *grad_seqs; // [num_seqs], for training only
    const void **kv_blocks;               // [L,num_blocks]
    void *ones; // [T] of the policy's type: the input of biases, where there are
};

struct policy_activations {
    struct layer_acts *layer; // [L]; all the same, but segments, and x of a training pass, where
                              // one layer's worth is kept
    // Of the pass.
    void *n;                   // [T,C] output of a norm
    float *n_f32;              // [T,C] the same for gate and head; n itself in a float32 policy
    void *q_n;                 // [T,Rq] output of the norm of q_a
    float *y;                  // [T,C] output of attention or FFN
    void *ffn;                 // [T,width] SwiGLU
    float *logits;             // [T,E] of the gate
    void *xs, *hs;             // [T*K,C], [T*K,F] experts' input and SwiGLU, by slot
    float *qkv;                // that of all layers, where the backward pass needs none of them
    void *kv;                  // likewise, where keys are gathered from it; else NULL
    float *x_last, *rstd_last; // [T,C], [T]: after the last layer, before the final norm
    void *hidden;              // [num_targets,C] rows that the head reads; float32 for values
    float *logprob, *entropy;  // [num_targets] results; values stand in logprob
    int *segments;             // [mixture layers, E+1] those of layer
    // Gradients, for training only.
    float *dx, *dn;             // [T,C] of the residual stream; of a norm's output
    float *dq_n;                // [T,Rq]
    void *do_, *do_lat;         // of o, o_lat
    void *dq_lat, *dq;          // of q_lat, q
    void *dqkv;                 // of qkv
    float *dkv, *dkeys;         // [T,row], [N,row] of kv and keys: the same where N is T
    float *dffn;                // [T,width]
    float *dlogits, *dweights;  // [T,E], [T,K]
    float *balance;             // [mixture layers, num_seqs] balance losses
    float *dxs, *dhs;           // [T*K,C], [T*K,F]
    void *rounded;              // [T, C, Rq or R+Dr] one of the above where a product reads it
    float *dhidden;             // [num_targets,C]
    float *dlogprob, *dentropy; // [num_targets]; of values: in dlogprob
    float *dbias;               // [1] of the value head's bias
    // Where things are.
    struct pass_inputs host, in; // the same, on the host and on the device
    int T, num_targets, num_seqs, num_blocks;
    int N;         // rows of keys: T, and copies that sequences have of their prefix's last rows
    int max_keys;  // of a sequence
    bool prefixes; // some sequence has one
    bool train;    // a backward pass may follow
    bool values;   // the value head reads the hidden rows
    bool first;    // of the backward pass: gradients of matrices were zero before it
    struct rope_table rope;
    struct device_block block, inputs;
    size_t inputs_bytes;
    void *host_inputs; // [cap_host] bytes
    size_t cap_host;
    struct replay *steps; // of policy_decode; NULL before the first
};

// Bytes of the two blocks that a pass of that shape takes; p need not have parameters.
void activations_bytes(size_t *block, size_t *inputs, const struct policy *p,
                       const struct policy_pass *shape);
// Makes the blocks at least that large, so that smaller passes allocate nothing.
int activations_reserve(struct policy *p, size_t block, size_t inputs);

// Makes room for a pass; contents are lost. Pointers of parts that the model or the pass lacks are
// NULL.
int activations_begin(struct policy *p, const struct policy_pass *shape);
// Copies the inputs, which the caller has filled on the host, to the device.
int activations_upload(struct policy *p);
void activations_free(struct policy_activations **a);

#endif
