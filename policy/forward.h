// SPDX-License-Identifier: Apache-2.0
// The layers of the model, once for both uses: packed sequences, whose rows of keys and values stay
// in the activations, and chunks over a cache, whose rows go to its pages. Internal to policy/.
#ifndef POLICY_FORWARD_H
#define POLICY_FORWARD_H

#include "policy/activations.h"
#include "policy/weights.h"

// Returns what fails at once: kernels can.
#define TRY(call)                                                                                  \
    do {                                                                                           \
        int rc_ = (call);                                                                          \
        if (rc_) {                                                                                 \
            return rc_;                                                                            \
        }                                                                                          \
    } while (0)

enum way { TO_OUT, TO_IN }; // x W^T, or y W

// The product with a matrix. args gives a, c and m; lda and ldc (0: dense), strides or segments
// where there are several matrices, accumulate, c_type; the rest is filled in.
int product(const struct policy *p, const struct matrix *m, enum way way, struct matmul_args args);

// grad of m += dy^T x. args gives dy, x and m; lddy and ldx (0: dense), strides or segments where
// there are several matrices, overwrite.
int weight_grad(const struct policy *p, const struct matrix *m, struct matmul_grad_args args);

// The same of what this pass alone adds to, once: the first pass need not read the gradient.
int own_grad(const struct policy *p, const struct matrix *m, struct matmul_grad_args args);

// x [T,width] as products read it: itself, or rounded into acts->rounded.
int operand(const struct policy *p, const float *x, int width, const void **out);

// Element i of an array of the policy's type.
void *element(const struct policy *p, void *array, size_t i);

// n = norm of x [T,C] or, exact, n_f32.
int hidden_norm(const struct policy *p, size_t weight, const float *x, float *rstd, bool exact);
// n from n_f32, unless they are one.
int round_norm(const struct policy *p);
// h [rows,width] = SwiGLU of gate_up [rows,2 width].
int gated_linear(const struct policy *p, const void *gate_up, void *h, int rows, int width);
// gate_up becomes its gradient, from that of h.
int gated_linear_grad(const struct policy *p, void *gate_up, const float *dh, int rows, int width);
// Copies the input of the experts into their slots: n_f32 to xs.
int gather_experts(const struct policy *p, const struct layer_acts *l);

// One layer, from n, the norm of its input x, to y, what it adds to h. cache: as below.
int forward_layer(struct policy *p, const struct kv_cache *cache, int layer);
// Whether a backward pass computes the layer again. The last one's activations are still there.
bool is_recomputed(const struct policy *p, int layer);
// dlogits += the gradient of the layer's balance losses, which go to balance.
int balance_grad(const struct policy *p, const struct layer_acts *l, int layer);
// Adds the balance losses of all layers to p's.
int balance_count(struct policy *p);

// Layers over the T tokens of the activations, whose inputs are uploaded, from the tokens up to
// x_last and its norm in n_f32; then hidden = n_f32[target_row]. cache: where new rows go; NULL:
// packed sequences.
int forward_layers(struct policy *p, const struct kv_cache *cache);

// ERR_DATA unless all n ids lie in the vocabulary.
int check_tokens(const struct policy *p, const int *tokens, int n);
// ERR_DATA when a sequence of that many positions is longer than the model's.
int check_positions(const struct policy *p, int positions);
// ERR_NUMERIC when one of n results, in host memory, is not finite; what names them.
int check_finite(const float *x, size_t n, const char *what);

#endif
