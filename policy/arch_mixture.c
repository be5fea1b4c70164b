// SPDX-License-Identifier: Apache-2.0
// The FFNs of a config.json: dense layers, and DeepSeek's and Qwen's mixtures of experts.
#include "policy/arch_reader.h"

#include <string.h>

static void read_gate(struct reader *r, struct arch *a)
{
    const bool sigmoid = arch_family_of(a->kind)->mixture == ARCH_MIXTURE_DEEPSEEK_V3;
    a->scoring = sigmoid ? MOE_SIGMOID : MOE_SOFTMAX;
    a->group_rank = sigmoid ? MOE_GROUP_TOP2 : MOE_GROUP_MAX;
    a->route_bias = sigmoid;
    reader_expect_string(r, "scoring_func", sigmoid ? "sigmoid" : "softmax");
    a->route_normalise = reader_bool(r, r->v, "norm_topk_prob", sigmoid);
    if (!sigmoid && a->route_normalise) {
        reader_fault(r, json_get(r->v, "norm_topk_prob"),
                     "\"norm_topk_prob\" is true: for deepseek_v2 implementations disagree about "
                     "what it means, so it is refused");
    }
    const struct json *method = reader_member(r->v, "topk_method");
    const char *s = json_string(method);
    if (sigmoid) {
        reader_expect_string(r, "topk_method", "noaux_tc");
    } else if (!method || (s && !strcmp(s, "greedy"))) {
        a->n_group = a->topk_group = 1;
    } else if (!s || strcmp(s, "group_limited_greedy")) {
        reader_fault_value(r, method, "topk_method", "\"greedy\" or \"group_limited_greedy\"");
    }
}

static void check_groups(struct reader *r, const struct arch *a)
{
    int per_group = a->E / a->n_group;
    if (a->E % a->n_group) {
        reader_fault(r, NULL, "\"n_routed_experts\" %d is not a multiple of \"n_group\" %d", a->E,
                     a->n_group);
    } else if (a->topk_group > a->n_group) {
        reader_fault(r, NULL, "\"topk_group\" %d is more than \"n_group\" %d", a->topk_group,
                     a->n_group);
    } else if (a->K > a->topk_group * per_group) {
        reader_fault(
            r, NULL,
            "\"num_experts_per_tok\" %d is more than the %d experts that routing can choose from "
            "(\"topk_group\" %d of groups of %d)",
            a->K, a->topk_group * per_group, a->topk_group, per_group);
    } else if (a->group_rank == MOE_GROUP_TOP2 && a->n_group > 1 && per_group < 2) {
        reader_fault(r, NULL,
                     "groups of one expert (\"n_group\" %d) have no two best scores to rank by",
                     a->n_group);
    }
}

static void read_experts(struct reader *r, struct arch *a)
{
    a->K = reader_int(r, r->v, "num_experts_per_tok", 1, 1024, READER_REQUIRED);
    a->F = reader_int(r, r->v, "moe_intermediate_size", 1, READER_WIDE, READER_REQUIRED);
}

static void read_deepseek(struct reader *r, struct arch *a)
{
    a->E = reader_int(r, r->v, "n_routed_experts", 0, 1024, 0);
    if (a->E == 0) {
        return;
    }
    a->dense_layers = reader_int(r, r->v, "first_k_dense_replace", 0, a->L, 0);
    read_experts(r, a);
    a->S = reader_int(r, r->v, "n_shared_experts", 0, 1024, 0);
    a->n_group = reader_int(r, r->v, "n_group", 1, 1024, 1);
    a->topk_group = reader_int(r, r->v, "topk_group", 1, 1024, 1);
    a->route_scale = reader_real(r, r->v, "routed_scaling_factor", 1e-6, 1e6, 1);
    if (reader_int(r, r->v, "moe_layer_freq", 1, 512, 1) != 1) {
        reader_fault_value(r, json_get(r->v, "moe_layer_freq"), "moe_layer_freq",
                           "1 (every layer after the dense ones is a mixture)");
    }
    read_gate(r, a);
    check_groups(r, a);
}

// mlp_only_layers must list the first layers, in any order: what dense_layers can say.
static int read_dense_layers(struct reader *r, const struct arch *a)
{
    const char *key = "mlp_only_layers";
    const struct json *list = reader_member(r->v, key);
    bool dense[512] = {false};
    int count = 0, first = 0;
    if (list && json_type(list) != JSON_ARRAY) {
        reader_fault_value(r, list, key, "a list of layers");
        return 0;
    }
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        int64_t layer;
        if (!json_int(r->doc, v, 0, a->L - 1, &layer)) {
            reader_fault_value(r, list, key, "a list of layers below \"num_hidden_layers\"");
            return 0;
        }
        count += !dense[layer];
        dense[layer] = true;
    }
    while (first < a->L && dense[first]) {
        first++;
    }
    if (first != count) {
        reader_fault_value(r, list, key,
                           "the first layers (a dense layer after a mixture is not supported)");
    }
    return first;
}

static void read_qwen(struct reader *r, struct arch *a)
{
    const bool v5 = reader_member(r->v, "num_local_experts") != NULL; // its name in transformers 5
    const char *key = v5 ? "num_local_experts" : "num_experts";
    a->E = reader_int(r, r->v, key, 1, 1024, READER_REQUIRED);
    read_experts(r, a);
    a->n_group = a->topk_group = 1;
    a->route_scale = 1;
    a->scoring = MOE_SOFTMAX;
    a->route_normalise = reader_bool(r, r->v, "norm_topk_prob", false);
    a->dense_layers = read_dense_layers(r, a);
    if (reader_int(r, r->v, "decoder_sparse_step", 1, 512, 1) != 1) {
        reader_fault_value(r, json_get(r->v, "decoder_sparse_step"), "decoder_sparse_step",
                           "1 (every layer after the dense ones is a mixture)");
    }
    if (a->K > a->E) {
        reader_fault(r, NULL, "\"num_experts_per_tok\" %d is more than \"%s\" %d", a->K, key, a->E);
    }
}

void reader_mixture(struct reader *r, struct arch *a)
{
    a->dense_layers = a->L;
    switch (arch_family_of(a->kind)->mixture) {
    case ARCH_MIXTURE_NONE:
        break;
    case ARCH_MIXTURE_DEEPSEEK_V2:
    case ARCH_MIXTURE_DEEPSEEK_V3:
        read_deepseek(r, a);
        break;
    case ARCH_MIXTURE_QWEN:
        read_qwen(r, a);
        break;
    }
    a->dense_width = reader_int(r, r->v, "intermediate_size", 1, READER_WIDE,
                                a->dense_layers > 0 ? (int)READER_REQUIRED : 1);
}
