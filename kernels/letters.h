// SPDX-License-Identifier: Apache-2.0
// The letters that the code uses for dimensions; the equations that use them are in the papers
// named at each operation.
// - T tokens of a packed batch, B rows of a batch, C hidden_size, L layers, V vocabulary
// - H heads, Dn qk_nope_head_dim, Dr qk_rope_head_dim, Dv v_head_dim
// - Rq q_lora_rank, R kv_lora_rank; Hkv num_key_value_heads, D head_dim
// - E routed experts, K experts per token, S shared experts, F moe_intermediate_size, G group size
// Sequences of a packed batch stand one after the other; positions count from 0 in each.
#ifndef KERNELS_LETTERS_H
#define KERNELS_LETTERS_H
#endif
