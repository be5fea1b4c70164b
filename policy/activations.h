// SPDX-License-Identifier: Apache-2.0
// The buffers of a pass: activations of each layer, what a pass needs besides, and the gradients
// that flow back. One block of floats and one of integers that grow on demand and are reused; a
// pass that is not for training keeps one layer's worth. Internal to policy/; tests read hidden
// states and routing from here.
#ifndef POLICY_ACTIVATIONS_H
#define POLICY_ACTIVATIONS_H

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
    // Gradients, for training only.
    float *dx, *dn;            // [T,C] of the residual stream; of a norm's output
    float *dq_n;               // [T,Rq]
    float *do_, *do_lat;       // [T,H,Dv], [T,H,R]
    float *dq_lat, *dq;        // [T,H,R+Dr], [T,H,Dn+Dr]
    float *dkv;                // [T,R+Dr]
    float *dffn;               // [T,width]
    float *dlogits, *dweights; // [T,E], [T,K]
    float *dxs, *dhs;          // [T*K,C], [T*K,F]
    float *dhidden;            // [num_targets,C]
    // Where things are.
    int *position;              // [T]
    struct attention_seq *seqs; // [num_seqs]
    const void **kv_blocks;     // [num_blocks]
    int T, num_targets, num_seqs, num_blocks;
    int max_keys; // of a sequence
    bool train;   // a backward pass may follow
    struct rope_table rope;
    float *floats;
    int *ints;
    size_t cap_floats, cap_ints, cap_seqs, cap_blocks;
};

// Makes room for a pass over T tokens; contents are lost. Pointers of parts that the model or the
// pass lacks are NULL.
void activations_begin(struct policy *p, int T, int num_targets, int num_seqs, int num_blocks,
                       bool train);
void activations_free(struct policy_activations **a);

#endif
