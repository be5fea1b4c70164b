// SPDX-License-Identifier: Apache-2.0
// A model of random weights for the benches of whole passes, and what its passes have to compute
// and move.
#ifndef RL_BENCH_MODEL_H
#define RL_BENCH_MODEL_H

#include "policy/arch.h"

// "PRESET" or "PRESET:LAYERS", presets being tiny, small, medium and v2-lite (DeepSeek-V2-Lite);
// or the path of a config.json. Errors: ERR_CONFIG for an unknown preset, ERR_MODEL.
int bench_model_arch(struct arch *out, const char *name);

// Operations of the forward pass over `tokens` tokens whose queries meet `pairs` keys, logits
// being wanted of `targets` of them. Attention counts in its cheaper form, with keys and values of
// each head; what an implementation computes beyond that is no useful work.
double bench_model_flops(const struct arch *a, double tokens, double pairs, double targets);

// Bytes that a decoding step of B tokens has to read: the weights of everything but the embedding
// and of the experts that B tokens meet when they choose evenly, and B sequences of `keys` cached
// rows; elements of `size` bytes.
double bench_model_step_bytes(const struct arch *a, int B, int keys, int size);

#endif
