// SPDX-License-Identifier: Apache-2.0
#include "rl/bench_model.h"

#include "base/error.h"
#include "base/file.h"
#include "base/str.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

// The sizes in which presets differ; kernels/letters.h.
static const struct preset {
    const char *name;
    int V, C, L, H, Rq, R, Dn, Dr, Dv, dense_width, E, K, S, F;
} presets[] = {
    {"tiny", 512, 256, 4, 4, 0, 64, 32, 16, 32, 768, 8, 2, 1, 128},
    {"small", 2048, 512, 8, 8, 0, 128, 64, 32, 64, 1536, 16, 4, 1, 256},
    {"medium", 8192, 1024, 12, 8, 384, 512, 128, 64, 128, 2816, 32, 4, 1, 352},
    {"v2-lite", 102400, 2048, 27, 16, 0, 512, 128, 64, 128, 10944, 64, 6, 2, 1408},
};

static struct arch arch_of(const struct preset *p, int layers)
{
    const int first_is_dense = 1;
    return (struct arch){.kind = ARCH_DEEPSEEK_V2,
                         .V = p->V,
                         .C = p->C,
                         .L = layers,
                         .H = p->H,
                         .Rq = p->Rq,
                         .R = p->R,
                         .Dn = p->Dn,
                         .Dr = p->Dr,
                         .Dv = p->Dv,
                         .dense_width = p->dense_width,
                         .dense_layers = first_is_dense,
                         .E = p->E,
                         .K = p->K,
                         .S = p->S,
                         .F = p->F,
                         .n_group = 1,
                         .topk_group = 1,
                         .scoring = MOE_SOFTMAX,
                         .group_rank = MOE_GROUP_MAX,
                         .route_scale = 1,
                         .norm_eps = 1e-6,
                         .rope_theta = 10000,
                         .init_range = 0.02,
                         .max_positions = 4096,
                         .bos_id = -1,
                         .eos_id = -1,
                         .pad_id = -1};
}

static int read_config(struct arch *out, const char *path)
{
    const size_t largest = 1 << 20;
    struct strbuf text = {0};
    struct json_doc *doc = NULL;
    int rc = file_read(&text, path, largest, ERR_MODEL);
    if (rc == 0)
        rc = json_parse(&doc, text.data, text.len, 0, path, 1, ERR_MODEL);
    if (rc == 0)
        rc = arch_from_json(out, doc, json_root(doc), path, ERR_MODEL);
    json_free(&doc);
    strbuf_free(&text);
    return rc;
}

int bench_model_arch(struct arch *out, const char *name)
{
    const size_t len = strcspn(name, ":");
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        const struct preset *p = &presets[i];
        long long layers = p->L;
        if (strlen(p->name) != len || strncmp(p->name, name, len) != 0)
            continue;
        if (name[len] != 0 && !str_to_int(name + len + 1, 1, p->L, &layers))
            return err_set(ERR_CONFIG, "\"%s\": expected 1 to %d layers after the colon", name,
                           p->L);
        *out = arch_of(p, (int)layers);
        return 0;
    }
    if (file_exists(name))
        return read_config(out, name);
    return err_set(ERR_CONFIG,
                   "\"%s\" is neither a preset (tiny, small, medium, v2-lite) nor a config.json",
                   name);
}

// Weights that each token meets in a layer: without routed experts, and in one of those.
static double layer_weights(const struct arch *a, bool dense)
{
    const double C = a->C, H = a->H;
    const double in = a->Rq > 0 ? a->Rq : a->C, width = dense ? a->dense_width : a->S * a->F;
    const double queries = (a->Rq > 0 ? C * a->Rq : 0) + in * H * (a->Dn + a->Dr);
    const double rows = C * (double)arch_row_width(a) + H * (a->Dn + a->Dv) * a->R;
    return queries + rows + H * a->Dv * C + 3 * C * width + (dense ? 0 : C * a->E);
}

static double expert_weights(const struct arch *a) { return 3.0 * a->C * a->F; }

// Weights of all layers when each mixture uses so many experts.
static double all_weights(const struct arch *a, double experts)
{
    const int mixtures = a->L - a->dense_layers;
    return a->dense_layers * layer_weights(a, true) +
           mixtures * (layer_weights(a, false) + experts * expert_weights(a));
}

double bench_model_flops(const struct arch *a, double tokens, double pairs, double targets)
{
    const double attention = 2.0 * pairs * a->L * a->H * (a->Dn + a->Dr + a->Dv);
    return 2.0 * tokens * all_weights(a, a->K) + attention + 2.0 * targets * a->C * a->V;
}

double bench_model_step_bytes(const struct arch *a, int B, int keys, int size)
{
    const double met = a->E > 0 ? a->E * (1 - pow(1 - (double)a->K / a->E, B)) : 0;
    const double cache = (double)B * keys * (double)arch_cache_width(a);
    return size * (all_weights(a, met) + (double)a->C * a->V + cache);
}
