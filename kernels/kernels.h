// SPDX-License-Identifier: Apache-2.0
// The operations of the model on a device's memory: one argument struct and one table slot per
// operation. cpu/ref_*.c hold the plain definition of each; the fast variants are reachable only
// through the table that device_open fills. Callers never name a variant.
//
// Conventions. Matrices are row-major float32; `ld*` is the distance between rows in floats; shapes
// are in comments, in the letters of kernels/letters.h (T tokens, C hidden, H heads, R
// kv_lora_rank, Dn, Dr, Dv head parts, E experts, K per token, F expert width, V vocabulary).
// Inputs are never written. Outputs are overwritten unless a field says "+=". Pointers must not
// overlap unless said. Sizes may be 0. Every operation returns 0 or ERR_* (a CPU operation cannot
// fail and returns 0; a launch may).
//
// Two rules hold for every variant, and tests/kernelcheck.c tests them:
// - Row independence: a row of an output has the same bits whatever other rows are in the call, at
//   whatever index it stands, and for any number of threads. The order of a reduction depends on
//   the shape of one row alone.
// - Gradient sums over tokens have a fixed order as well: the same bits for any number of threads.
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct team;
struct device;

// Of functions that kernels of a GPU call as well.
#ifdef __CUDACC__
#define KERNELS_ANYWHERE __host__ __device__
#else
#define KERNELS_ANYWHERE
#endif

enum dtype { DTYPE_F32, DTYPE_BF16 };

static inline size_t dtype_size(enum dtype type) { return type == DTYPE_BF16 ? 2 : 4; }

// ---- matrix products. B is packed once (weights) by matmul_pack into panels whose layout belongs
// to the device. Sums are float32 (or wider) whatever the types; `ld*` and strides count elements.

// B [k,n] of `count` matrices, stride_b apart, given as [k,n] or, transposed, as [n,k] (the layout
// of weights on disk); out: count packed matrices, each matmul_packed_size(k, n) elements.
struct pack_args {
    const void *b;
    size_t ldb, stride_b;
    int k, n, count;
    bool transposed;
    void *out; // 16-byte aligned
    enum dtype b_type, out_type;
};

// C[g] = A[g] B[g], or += when accumulate; g < batch. Either a batch of m-row matrices (strides),
// or, with segments, one tall A and C of m rows, of which [segments[g], segments[g+1]) belong to
// B[g] (experts); stride_a and stride_c are then unused. Sum over k ascending. a_type and b_type
// are the same; c_type is float32 where they are. A device that reads plain matrices takes B as it
// lies in float32 too, rounded to b_type, with the bits of its packed form: for products of many
// rows, which then need no packed form of their own.
struct matmul_args {
    const void *a; // [m,k] each
    size_t lda, stride_a;
    const void *b;        // packed, batch of [k,n]
    const float *plain;   // [k,n] each, instead of b
    size_t ldb, stride_b; // of plain
    void *c;              // [m,n] each
    size_t ldc, stride_c;
    int m, n, k, batch;
    const int *segments; // [batch+1] or NULL
    bool accumulate;
    enum dtype a_type, b_type, c_type;
};

// dW[g] [n,k] += sum_t dY[g][t,n]^T X[g][t,k], or = when overwrite, tokens ascending in a fixed
// blocking; batches and segments as above. dy_type and x_type are the same.
struct matmul_grad_args {
    const void *dy; // [m,n] each
    size_t lddy, stride_dy;
    const void *x; // [m,k] each
    size_t ldx, stride_x;
    float *dw; // [n,k] each, dense
    size_t stride_dw;
    int m, n, k, batch;
    const int *segments;
    bool overwrite; // dW need not hold anything; a group without tokens gets zeros
    enum dtype dy_type, x_type;
};

// ---- token-wise operations

// Rows of a table, and sums of rows; ids repeat and come in any order.
struct embed_args {
    const void *table; // [V,C]
    const int *ids;    // [T]
    void *out;         // [T,C]
    int T, C;
    enum dtype table_type, out_type;
};
struct embed_grad_args {
    const float *dout; // [T,C]
    const int *ids;    // [T]
    float *dtable;     // [V,C] +=, tokens ascending
    int T, C;
};

// sum = x + add (when add is given; sum may be x or add), y = w sum / sqrt(mean(sum^2) + eps). rstd
// [T] may be NULL.
struct rmsnorm_args {
    const float *x, *add; // [T,C], rows ldx apart; add dense or NULL
    float *sum;           // [T,C] dense, NULL when add is NULL
    const float *w;       // [C]
    void *y;              // [T,C], rows ldy apart
    float *rstd;          // [T] or NULL
    size_t ldx, ldy;
    float eps;
    int T, C;
    enum dtype y_type;
};
// dx = d(y)/d(x)^T dy, or += when accumulate; dw += .  dx may be dy.
struct rmsnorm_grad_args {
    const float *x, *w, *rstd, *dy;
    float *dx, *dw;
    size_t ldx, lddy, lddx;
    int T, C;
    bool accumulate;
};

// Rotates pairs of D values per head: y = RoPE(x) with cos/sin rows of position[t]; inverse: the
// transpose (backward). y may be x, of the same type. halves: pairs are (i, i + D/2), else (2i,
// 2i+1).
struct rope_args {
    const void *x; // [T,heads,D]; token rows ldx, heads stride_x apart
    void *y;
    size_t ldx, stride_x, ldy, stride_y;
    const float *cos, *sin; // [positions, D/2], YaRN's attention factor included
    const int *position;    // [T]
    int T, heads, D;
    bool halves, inverse;
    enum dtype x_type, y_type;
};

// h = SiLU(gate) * up, gate and up being the halves of a row of 2F; backward to both halves.
struct swiglu_args {
    const void *gate_up; // [T,2F]
    void *h;             // [T,F]
    int T, F;
    enum dtype gate_up_type, h_type;
};
struct swiglu_grad_args {
    const void *gate_up; // [T,2F]
    const float *dh;     // [T,F]
    void *dgate_up;      // [T,2F]; may be gate_up, of the same type
    int T, F;
    enum dtype gate_up_type, dgate_up_type;
};

struct add_args {
    const float *x;
    float *y; // y += x
    size_t n;
};

// y = x in the other type: to the nearest, ties to even. y is not x.
struct convert_args {
    const void *x;
    void *y;
    size_t n;
    enum dtype x_type, y_type;
};

// ---- attention. A row of keys and values, of one token, has kv_heads parts, one after the other:
// part g serves the query heads [g H / kv_heads, (g + 1) H / kv_heads). The key is the first Dk
// elements of a part, the value Dv elements from value_at on.
// - Latent (arXiv:2405.04434, section 2.1, absorbed form): one part of R + Dr elements is the key
// of
//   all heads, and its first R are the value: Dk = R + Dr, Dv = R, value_at = 0.
// - Grouped-query (arXiv:2305.13245): each part is a key and then its value: value_at = Dk.

#define ATTENTION_BLOCK                                                                            \
    64 // rows of keys per block; softmax runs over blocks counted from position 0

struct attention_shape {
    int H, kv_heads; // heads of queries and of keys; H is a multiple of kv_heads
    int Dk, Dv;      // elements of a query and a key, of a value and an output
    int value_at;    // 0, and Dv <= Dk; or Dk
    float scale;     // of scores
};

// Elements of a part of a row, and of a row.
KERNELS_ANYWHERE static inline int attention_part(const struct attention_shape *s)
{
    return s->value_at == 0 ? s->Dk : s->Dk + s->Dv;
}
KERNELS_ANYWHERE static inline int attention_row(const struct attention_shape *s)
{
    return s->kv_heads * attention_part(s);
}

struct attention_seq {
    int query; // row in q of its first query
    int len;   // queries, at positions pos .. pos + len - 1; query i sees keys 0 .. pos + i
    int pos;
    int block; // index into kv_blocks of its block 0
};
struct attention_args {
    const void *q; // [T,H,Dk]
    const void *const
        *kv_blocks; // each ATTENTION_BLOCK rows; those past the last visible key are not read
    const struct attention_seq *seqs;
    struct attention_shape shape;
    int num_seqs;
    int T;           // rows of q and out
    int max_keys;    // no sequence has more: an upper bound of pos + len. A CPU uses neither of the
                     // two
    enum dtype type; // of q, the rows of kv_blocks and out
    void *out;       // [T,H,Dv]
    float *lse;      // [T,H], or NULL
};

// A packed sequence. One that continues another, its prefix, sees the keys of that before its own.
// Its own begin with the block that holds position pos, so the blocks of its softmax are those of
// the whole sequence; of that block, the rows before pos are copies of the prefix's, and the
// gradients of the copies are given like those of any row.
struct attention_grad_seq {
    int query;  // row in q of its first query
    int len;    // queries, at positions pos .. pos + len - 1; query i sees keys 0 .. pos + i
    int pos;    // the length of the prefix, or 0
    int key;    // row in kv of its own first key, of position pos / ATTENTION_BLOCK ATTENTION_BLOCK
    int prefix; // -1, or the sequence that has the keys before: it has no prefix itself, and those
                // that share it follow it in seqs
};
// Rows of kv that no sequence owns are not read, and their gradients not written. The sum of a row
// of dkv goes over the queries of the sequence that owns it, then over those of the sequences whose
// prefix that is, in the order of seqs.
struct attention_grad_args {
    const void *q;    // [T,H,Dk]
    const void *kv;   // [N,row]
    const void *out;  // [T,H,Dv]
    const float *lse; // [T,H]
    const void *dout; // [T,H,Dv]
    void *dq;         // [T,H,Dk]
    void *dkv;        // [N,row]
    const struct attention_grad_seq *seqs;
    struct attention_shape shape;
    int num_seqs, T, N;
    bool prefixes;   // some sequence may have one
    enum dtype type; // of q, kv, out and dout
    enum dtype dq_type, dkv_type;
};

// Rows of new tokens to their places in the pages of a cache: the row of token t goes to row
// place[t]. Places differ.
struct kv_store_args {
    const void *rows;    // [T,D]
    const size_t *place; // [T]
    void *pages;         // rows of D
    int T, D;
    enum dtype type; // of rows and pages
};

// ---- grouped-query attention (arXiv:2305.13245): between the product with the query, key and
// value weights and the rows that attention reads

// A row of x holds H query heads, then Hkv key heads, then Hkv value heads. Queries and keys become
// RoPE(N(x)), N being the RMSNorm over a head's D where norms are given, pairs (i, i + D/2); values
// are copied.
struct heads_args {
    const float *x;               // [T,(H+2Hkv) D]
    const float *q_norm, *k_norm; // [D], or both NULL
    const float *cos, *sin;       // [positions,D/2], as for RoPE
    const int *position;          // [T]
    void *q;                      // [T,H,D]
    void *kv;                     // [T,Hkv,2D]: key, then value
    int T, H, Hkv, D;
    float eps;
    enum dtype type; // of q and kv
};
// dx from the gradients of q and kv.
struct heads_grad_args {
    const float *x;               // as above; NULL without norms
    const float *q_norm, *k_norm; // as above
    const float *cos, *sin;
    const int *position;
    const void *dq;           // [T,H,D]
    const float *dkv;         // [T,Hkv,2D]
    void *dx;                 // [T,(H+2Hkv) D]
    float *dq_norm, *dk_norm; // [D] +=, or both NULL
    int T, H, Hkv, D;
    float eps;
    enum dtype type; // of dq and dx
};

// ---- mixture of experts (arXiv:2405.04434, 2.2; arXiv:2412.19437, 2.1.2)

enum moe_scoring { MOE_SOFTMAX, MOE_SIGMOID };
enum moe_group_rank {
    MOE_GROUP_MAX,
    MOE_GROUP_TOP2
}; // a group's rank: its largest score, or the sum of its two largest

// scores a = softmax or sigmoid of the logits; selection by a + bias inside the topk_group best of
// n_group groups (1: no groups), ties to the lower index; weights = a, normalised over the K chosen
// when asked (sum + 1e-20), times scale. Chosen experts are listed by ascending index.
struct moe_route_args {
    const float *logits; // [T,E]
    const float *bias;   // [E] or NULL
    int T, E, K, n_group, topk_group;
    enum moe_scoring scoring;
    enum moe_group_rank group_rank;
    bool normalise;
    float scale;
    float *scores;  // [T,E]
    int *experts;   // [T,K]
    float *weights; // [T,K]
};
struct moe_route_grad_args {
    const float *scores, *weights, *dweights; // [T,E], [T,K], [T,K]
    const int *experts;                       // [T,K]
    float *dlogits;                           // [T,E]
    int T, E, K;
    enum moe_scoring scoring;
    bool normalise;
    float scale;
};
// The balance loss of each sequence (arXiv:2405.04434, eq. 23-25; arXiv:2412.19437, eq. 17-20): of
// its n tokens, f_i = E / (K n) #{t: i is chosen} and P_i = the mean of a_ti, which are the scores
// or, of MOE_SIGMOID, the scores over their sum + 1e-20; loss = sum_i f_i P_i, which is 1 where all
// experts are alike. The gradient goes through P alone. The tokens of a sequence that continues
// another are those of both, and the one that is continued has no loss of its own.
#define MOE_NO_SEQUENCE (-1.0f) // instead of a loss: without tokens, or continued by others
struct moe_balance_args {
    const float *scores;                   // [T,E]
    const int *experts;                    // [T,K]
    const struct attention_grad_seq *seqs; // of each, query, len and prefix are read
    int num_seqs, T, E, K;
    enum moe_scoring scoring;
    float weight;   // of every sequence's loss
    float *loss;    // [num_seqs], without the weight
    float *dlogits; // [T,E] += weight d(loss)/d(logits)
};
// Sorts the T*K (token, choice) pairs by expert, stable. Pair p = t*K + j stands in slot[p];
// pair[slot] is its inverse.
struct moe_sort_args {
    const int *experts; // [T,K]
    int T, K, E;
    int *segments; // [E+1]: slots of expert e are [segments[e], segments[e+1])
    int *slot;     // [T*K]
    int *pair;     // [T*K]
};
struct moe_gather_args {
    const void *x;   // [T,C]
    const int *pair; // [T*K]
    void *xs;        // [T*K,C] by slot
    int T, K, C;
    enum dtype x_type, xs_type;
};
struct moe_gather_grad_args {
    const float *dxs; // [T*K,C] by slot
    const int *slot;
    float *dx; // [T,C] +=, choices ascending
    int T, K, C;
};
struct moe_combine_args {
    const void *ys;       // [T*K,C] by slot
    const float *weights; // [T,K]
    const int *slot;
    float *y; // [T,C] +=, choices ascending
    int T, K, C;
    enum dtype ys_type;
};
struct moe_combine_grad_args {
    const void *ys;            // [T*K,C] by slot
    const float *weights, *dy; // [T,K], [T,C]
    const int *slot;
    void *dys;       // [T*K,C] by slot; may be ys, of the same type
    float *dweights; // [T,K]
    int T, K, C;
    enum dtype ys_type, dys_type;
};

// ---- the last product, fused with log-probability and entropy: the logits of a batch are never
// stored

// z = hidden W / tau; logprob[t] = log softmax(z)[token[t]]; entropy[t] = -sum p log p (MATH.md).
// tau 0 counts as 1.
struct linear_logprob_args {
    const void *hidden;       // [T,C]
    const void *w;            // packed [C,V]
    const int *token;         // [T]
    const float *tau;         // [T]
    float *logprob, *entropy; // [T]; entropy may be NULL
    int T, C, V;
    enum dtype type; // of hidden and w; logits are float32
};
struct linear_logprob_grad_args {
    const void *hidden;    // [T,C]
    const void *w, *w_t;   // packed [C,V] and packed [V,C]
    const int *token;      // [T]
    const float *tau;      // [T]
    const float *dlogprob; // [T]
    const float *dentropy; // [T] or NULL
    float *dhidden;        // [T,C]
    float *dw;             // [V,C] +=
    int T, C, V;
    enum dtype type; // of hidden, w and w_t; the logits' gradient may be rounded to it
};

// One token per row of logits, from softmax(logits / temperature) truncated by top_k, then top_p,
// then min_p, with u in (0,1); temperature 0 takes the largest (ties: lowest index); a given token
// is taken as it is. logprob and entropy are of the untruncated distribution at tau, with the bits
// of linear_logprob.
struct sample_row {
    float temperature;
    int top_k;   // 0: off
    float top_p; // 1: off
    float min_p; // 0: off
    bool given;  // `token` is taken; the rest but the temperature is not looked at
    int token;
    double u;
};
struct sample_args {
    const float *logits;           // [B,V]
    const struct sample_row *rows; // [B]
    int *token;                    // [B]
    float *logprob, *entropy;      // [B]
    bool *truncated;               // [B] or NULL: the truncation removed something
    int B, V;
};

// ---- optimiser

// out = sum of squares, in double, in a fixed blocking.
struct sum_squares_args {
    const float *x;
    size_t n;
    double *out;
};
// AdamW (arXiv:1711.05101): g' = g grad_scale; p -= lr wd p; p -= lr m^/(sqrt(v^) + eps), m^ and v^
// bias-corrected for `step` >= 1.
struct adamw_args {
    float *p, *m, *v;
    const float *g;
    size_t n;
    float lr, beta1, beta2, eps, weight_decay, grad_scale;
    int step;
};

struct kernels {
    // Elements of a packed [k,n] matrix; device.h has a call for it.
    size_t (*matmul_packed_size)(const struct device *, int k, int n);
    int (*matmul_pack)(struct device *, const struct pack_args *);
    int (*matmul)(struct device *, const struct matmul_args *);
    int (*matmul_grad)(struct device *, const struct matmul_grad_args *);
    int (*embed)(struct device *, const struct embed_args *);
    int (*embed_grad)(struct device *, const struct embed_grad_args *);
    int (*rmsnorm)(struct device *, const struct rmsnorm_args *);
    int (*rmsnorm_grad)(struct device *, const struct rmsnorm_grad_args *);
    int (*rope)(struct device *, const struct rope_args *);
    int (*swiglu)(struct device *, const struct swiglu_args *);
    int (*swiglu_grad)(struct device *, const struct swiglu_grad_args *);
    int (*add)(struct device *, const struct add_args *);
    int (*convert)(struct device *, const struct convert_args *);
    int (*attention)(struct device *, const struct attention_args *);
    int (*attention_grad)(struct device *, const struct attention_grad_args *);
    int (*kv_store)(struct device *, const struct kv_store_args *);
    int (*heads)(struct device *, const struct heads_args *);
    int (*heads_grad)(struct device *, const struct heads_grad_args *);
    int (*moe_route)(struct device *, const struct moe_route_args *);
    int (*moe_route_grad)(struct device *, const struct moe_route_grad_args *);
    int (*moe_balance)(struct device *, const struct moe_balance_args *);
    int (*moe_sort)(struct device *, const struct moe_sort_args *);
    int (*moe_gather)(struct device *, const struct moe_gather_args *);
    int (*moe_gather_grad)(struct device *, const struct moe_gather_grad_args *);
    int (*moe_combine)(struct device *, const struct moe_combine_args *);
    int (*moe_combine_grad)(struct device *, const struct moe_combine_grad_args *);
    int (*linear_logprob)(struct device *, const struct linear_logprob_args *);
    int (*linear_logprob_grad)(struct device *, const struct linear_logprob_grad_args *);
    int (*sample)(struct device *, const struct sample_args *);
    int (*sum_squares)(struct device *, const struct sum_squares_args *);
    int (*adamw)(struct device *, const struct adamw_args *);
};

#ifdef __cplusplus
}
#endif

#endif
