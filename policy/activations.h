// SPDX-License-Identifier: Apache-2.0
// The buffers of a pass: activations of each layer, what a pass needs besides, and the gradients
// that flow back. All but pass_inputs' host side lies in the memory of the policy's device: blocks
// of floats, of integers and of inputs that grow on demand and are reused. A pass that is not for
// training keeps one layer's worth. Internal to policy/; tests read hidden states and routing from
// here.
#ifndef POLICY_ACTIVATIONS_H
#define POLICY_ACTIVATIONS_H

#include "kernels/block.h"
#include "policy/policy.h"
#include "policy/rope.h"

struct layer_acts {
    float *x;            // [T,C] residual stream before the layer
    float *rstd1;        // [T]
    float *q_a, *rstd_q; // [T,Rq], [T]
    float *q;            // [T,H,Dn+Dr]; the rope part is not rotated
    float *q_lat;        // [T,H,R+Dr] absorbed and rotated
    float *kv_a;         // [T,R+Dr] before norm and rotation
    float *rstd_kv;      // [T]
    float *kv;           // [T,R+Dr] the latent rows
    float *o_lat, *lse;  // [T,H,R], [T,H]
    float *o;            // [T,H,Dv]
    float *h;            // [T,C] residual stream between attention and FFN
    float *rstd2;        // [T]
    float *gate_up;      // [T,2 width] of the dense FFN or the shared experts
    float *scores;       // [T,E]
    float *weights;      // [T,K]
    float *exp_gate_up;  // [T*K,2F] by slot
    float *ys;           // [T*K,C] by slot
    int *experts;        // [T,K]
    int *segments;       // [E+1]
    int *slot, *pair;    // [T*K]
};

// What the host tells the kernels of a pass: one block on the host, filled there, and one on the
// device, to which it is copied whole.
struct pass_inputs {
    int *tokens;                // [T]
    int *position;              // [T]
    size_t *place;              // [T] rows of the cache, for passes over one
    int *target_row;            // [num_targets]
    int *target_token;          // [num_targets]; not of values and chunks
    float *target_tau;          // [num_targets]; likewise
    struct attention_seq *seqs; // [num_seqs]
    const void **kv_blocks;     // [L,num_blocks]
};

struct policy_activations {
    struct layer_acts *layer; // [L]; all the same when not for training
    // Of the pass.
    float *n;                  // [T,C] output of a norm
    float *q_n;                // [T,Rq] the same, of q_a
    float *y;                  // [T,C] output of attention or FFN
    float *ffn;                // [T,width] SwiGLU
    float *logits;             // [T,E] of the gate
    float *xs, *hs;            // [T*K,C], [T*K,F] experts' input and SwiGLU, by slot
    float *x_last, *rstd_last; // [T,C], [T]: after the last layer, before the final norm
    float *hidden;             // [num_targets,C] rows that the head reads
    float *logprob, *entropy;  // [num_targets] results; values stand in logprob
    int *segments;             // [mixture layers, E+1] those of layer, for training only
    // Gradients, for training only.
    float *dx, *dn;             // [T,C] of the residual stream; of a norm's output
    float *dq_n;                // [T,Rq]
    float *do_, *do_lat;        // [T,H,Dv], [T,H,R]
    float *dq_lat, *dq;         // [T,H,R+Dr], [T,H,Dn+Dr]
    float *dkv;                 // [T,R+Dr]
    float *dffn;                // [T,width]
    float *dlogits, *dweights;  // [T,E], [T,K]
    float *dxs, *dhs;           // [T*K,C], [T*K,F]
    float *dhidden;             // [num_targets,C]
    float *dlogprob, *dentropy; // [num_targets]; of values: in dlogprob
    float *dbias;               // [1] of the value head's bias
    // Where things are.
    struct pass_inputs host, in; // the same, on the host and on the device
    int T, num_targets, num_seqs, num_blocks;
    int max_keys; // of a sequence
    bool train;   // a backward pass may follow
    struct rope_table rope;
    struct device_block floats, ints, inputs;
    size_t inputs_bytes;
    void *host_inputs; // [cap_host] bytes
    size_t cap_host;
};

struct pass_shape {
    int T, num_targets, num_seqs, num_blocks;
    bool train;
};

// Makes room for a pass; contents are lost. Pointers of parts that the model or the pass lacks are
// NULL.
int activations_begin(struct policy *p, const struct pass_shape *shape);
// Copies the inputs, which the caller has filled on the host, to the device.
int activations_upload(struct policy *p);
void activations_free(struct policy_activations **a);

#endif
