// SPDX-License-Identifier: Apache-2.0
// The layers of the model, once for both uses: packed sequences, whose latent rows stay in the
// activations, and chunks over a cache, whose latent rows go to its pages. Internal to policy/.
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

// eps of the norms over latents (kv_a_layernorm, q_a_layernorm), whatever rms_norm_eps is.
#define LATENT_NORM_EPS 1e-6f

enum way { TO_OUT, TO_IN }; // x W^T, or y W

// The product with a matrix. args gives a, c and m; lda and ldc (0: dense), strides or segments
// where there are several matrices, accumulate, c_type; the rest is filled in.
int product(const struct policy *p, const struct matrix *m, enum way way, struct matmul_args args);

// grad of m += dy^T x. args gives dy, x and m; lddy and ldx (0: dense), strides or segments where
// there are several matrices, overwrite.
int weight_grad(const struct policy *p, const struct matrix *m, struct matmul_grad_args args);

// Element i of an array of the policy's type.
void *element(const struct policy *p, void *array, size_t i);

// Attention of all heads over the latent rows.
struct attention_shape latent_attention(const struct arch *a);

// n = norm of x [T,C] or, exact, n_f32.
int hidden_norm(const struct policy *p, size_t weight, const float *x, float *rstd, bool exact);
// n from n_f32, unless they are one.
int round_norm(const struct policy *p);
// q_n = norm of q_a.
int query_norm(const struct policy *p, const struct layer_weights *w, const struct layer_acts *l);
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
