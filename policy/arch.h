// SPDX-License-Identifier: Apache-2.0
// The architecture of a model: what config.json says, checked and in the code's letters
// (kernels/letters.h). Both layouts are read: the published one (rope_theta, rope_scaling) and that
// of transformers 5 (rope_parameters). Families of models are settings of one table; code asks for
// the properties here, never for a family.
#ifndef POLICY_ARCH_H
#define POLICY_ARCH_H

#include "base/json.h"
#include "kernels/kernels.h"
#include <stdbool.h>
#include <stdint.h>

enum arch_kind {
    ARCH_DEEPSEEK_V2,
    ARCH_DEEPSEEK_V3, // Moonlight as well
    ARCH_LLAMA,
    ARCH_QWEN2,
    ARCH_QWEN3,
    ARCH_QWEN3_MOE,
    ARCH_KINDS
};

struct arch_yarn { // arXiv:2309.00071; factor 0: no scaling
    double factor, beta_fast, beta_slow, mscale, mscale_all_dim,
        attention_factor; // attention_factor 0: not given
    int original_positions;
    bool truncate;
};

struct arch_llama3 { // scaling of Llama 3.1; factor 0: none
    double factor, low_freq_factor, high_freq_factor;
    int original_positions;
};

enum { ARCH_EOS_MAX = 16 };

struct arch {
    enum arch_kind kind;
    int V, C, L, H;
    // Latent attention (R > 0), or grouped-query attention (R 0): Dn is 0, and Dr and Dv are
    // head_dim then. A head's query has Dn elements without positions and Dr with, its value Dv.
    int Rq, R, Dn, Dr, Dv; // Rq 0: no q-LoRA
    int Hkv;               // heads of keys and values, of grouped-query attention
    bool qkv_bias, o_bias; // of the projections, likewise
    bool qk_norm;          // RMSNorm over each head's query and key, likewise
    int dense_width;       // intermediate_size
    int dense_layers;      // first_k_dense_replace; L when there are no experts
    int E, K, S, F;        // E 0: no mixture
    int n_group, topk_group;
    enum moe_scoring scoring;
    enum moe_group_rank group_rank;
    bool route_bias, route_normalise;
    double route_scale;
    double norm_eps, rope_theta, init_range;
    struct arch_yarn yarn; // at most one of the two
    struct arch_llama3 llama3;
    bool rope_halves; // pairs are (i, i + D/2), else (2i, 2i+1)
    bool tied;
    bool value_head; // score.weight, score.bias stand beside the backbone (a process reward model)
    int max_positions;
    int bos_id, eos_id, pad_id; // -1: none
    int num_mtp_layers;         // extra layers of the files that are skipped

    int eos_ids[ARCH_EOS_MAX], num_eos_ids; // all of them, where config.json lists several
    int fp8_rows, fp8_columns; // of the files' blocks of F8_E4M3 with one scale each; 0: none
};

// What the models of a family have in common: how config.json names it, and which fields it has.
struct arch_family {
    const char *model_type, *class_name;
    bool latent;
    bool qkv_bias, qk_norm, rope_halves;
    bool bias_key;            // attention_bias says whether all four projections have one
    bool head_dim_key;        // head_dim must be given: its default is not C/H
    bool window_key;          // use_sliding_window, which must be false
    bool rope_interleave_key; // rope_interleave says how pairs stand
    enum {
        ARCH_MIXTURE_NONE,
        ARCH_MIXTURE_DEEPSEEK_V2,
        ARCH_MIXTURE_DEEPSEEK_V3,
        ARCH_MIXTURE_QWEN
    } mixture;
};

const struct arch_family *arch_family_of(enum arch_kind kind);

static inline bool arch_is_latent(const struct arch *a) { return a->R > 0; }

// Reads and checks the fields of a config.json object; every fault of the object is listed in the
// one message. `name` is what errors call it, code is what they return (ERR_MODEL for files,
// ERR_CONFIG for a run's config). Unknown architectures are refused by name.
int arch_from_json(struct arch *out, const struct json_doc *doc, const struct json *v,
                   const char *name, int code);

// Writes the config.json that transformers opens (published layout).
void arch_to_json(struct json_writer *w, const struct arch *a);

// Elements of a cached token, in a layer and over all, and parameters: total and active per token.
size_t arch_row_width(const struct arch *a);   // R + Dr, or Hkv (Dr + Dv)
size_t arch_cache_width(const struct arch *a); // L rows
int64_t arch_num_parameters(const struct arch *a, bool active);

#endif
