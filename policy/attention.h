// SPDX-License-Identifier: Apache-2.0
// The attention of a layer. What stands before and after the rows of keys and values differs:
// latent attention (attention_latent.c) and grouped-query attention (attention_grouped.c); the rows
// go through the same cache and the same kernels (attention.c). Internal to policy/.
#ifndef POLICY_ATTENTION_H
#define POLICY_ATTENTION_H

#include "policy/forward.h"
#include "policy/kvcache.h"

struct attention_shape attention_shape_of(const struct arch *a);

// y = the attention of n. cache: where new rows go; NULL: packed sequences.
int attention_forward(const struct policy *p, const struct layer_weights *w,
                      const struct layer_acts *l, const struct kv_cache *cache, int layer);
// From dx, the gradient of its output, to dn; n is made again.
int attention_backward(const struct policy *p, const struct layer_weights *w,
                       const struct layer_acts *l);

// ---- the two kinds: from n to the queries q_lat and the rows kv, and from o_lat to y

int latent_inputs(const struct policy *p, const struct layer_weights *w,
                  const struct layer_acts *l);
int latent_output(const struct policy *p, const struct layer_weights *w,
                  const struct layer_acts *l);
int grouped_inputs(const struct policy *p, const struct layer_weights *w,
                   const struct layer_acts *l);
int grouped_output(const struct policy *p, const struct layer_weights *w,
                   const struct layer_acts *l);

// Back: from dx to do_lat, and from dq_lat and dkv to dn (overwritten).
int latent_output_grad(const struct policy *p, const struct layer_weights *w,
                       const struct layer_acts *l);
int latent_inputs_grad(const struct policy *p, const struct layer_weights *w,
                       const struct layer_acts *l);
int grouped_output_grad(const struct policy *p, const struct layer_weights *w,
                        const struct layer_acts *l);
int grouped_inputs_grad(const struct policy *p, const struct layer_weights *w,
                        const struct layer_acts *l);

#endif
