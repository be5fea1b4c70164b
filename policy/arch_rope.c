// SPDX-License-Identifier: Apache-2.0
// The base and the scaling of rotary positions in a config.json.
#include "policy/arch_reader.h"

#include <math.h>
#include <string.h>

static void read_yarn(struct reader *r, struct arch *a, const struct json *v)
{
    struct arch_yarn *y = &a->yarn;
    y->factor = reader_real(r, v, "factor", 1, 1e6, (double)NAN);
    y->original_positions =
        reader_int(r, v, "original_max_position_embeddings", 1, 1 << 24, a->max_positions);
    y->beta_fast = reader_real(r, v, "beta_fast", 1e-6, 1e6, 32);
    y->beta_slow = reader_real(r, v, "beta_slow", 1e-6, 1e6, 1);
    y->mscale = reader_real(r, v, "mscale", 0, 1e3, 0);
    y->mscale_all_dim = reader_real(r, v, "mscale_all_dim", 0, 1e3, 0);
    y->attention_factor = reader_real(r, v, "attention_factor", 1e-6, 1e3, 0);
    y->truncate = reader_bool(r, v, "truncate", true);
}

static void read_llama3(struct reader *r, struct arch *a, const struct json *v)
{
    struct arch_llama3 *s = &a->llama3;
    s->factor = reader_real(r, v, "factor", 1, 1e6, (double)NAN);
    s->low_freq_factor = reader_real(r, v, "low_freq_factor", 1e-6, 1e6, (double)NAN);
    s->high_freq_factor = reader_real(r, v, "high_freq_factor", 1e-6, 1e6, (double)NAN);
    s->original_positions =
        reader_int(r, v, "original_max_position_embeddings", 1, 1 << 24, a->max_positions);
    if (r->num_faults == 0 && s->high_freq_factor <= s->low_freq_factor) {
        reader_fault(r, v, "\"high_freq_factor\" %g is not above \"low_freq_factor\" %g",
                     s->high_freq_factor, s->low_freq_factor);
    }
}

static void read_scaling(struct reader *r, struct arch *a, const struct json *v, const char *key,
                         bool typeless)
{
    const struct json *type = reader_member(v, "rope_type");
    if (!type) {
        type = reader_member(v, "type");
    }
    const char *s = json_string(type);
    if (s && !strcmp(s, "yarn")) {
        read_yarn(r, a, v);
    } else if (s && !strcmp(s, "llama3")) {
        read_llama3(r, a, v);
    } else if (type ? !s || strcmp(s, "default") : !typeless) {
        reader_fault_value(r, v, key, "a scaling of type \"yarn\", \"llama3\" or \"default\"");
    }
}

// rope_parameters (transformers 5) holds both the base and the scaling; published files have
// rope_theta beside rope_scaling.
void reader_rope(struct reader *r, struct arch *a)
{
    const struct json *both = reader_member(r->v, "rope_parameters");
    const struct json *scaling = both ? both : reader_member(r->v, "rope_scaling");
    const char *key = both ? "rope_parameters" : "rope_scaling";
    const struct json *base = reader_member(both, "rope_theta") ? both : r->v;
    a->rope_theta = reader_real(r, base, "rope_theta", 1 + 1e-6, 1e12, 10000);
    a->rope_halves = arch_family_of(a->kind)->rope_halves;
    if (arch_family_of(a->kind)->rope_interleave_key) {
        a->rope_halves = !reader_bool(r, r->v, "rope_interleave", true);
    }
    const struct json *part = reader_member(both, "partial_rotary_factor");
    part = part ? part : reader_member(r->v, "partial_rotary_factor");
    double share = 1;
    if (part && (!json_double(part, &share) || share != 1)) {
        reader_fault_value(r, part, "partial_rotary_factor", "1 (no other is supported)");
    }
    if (scaling && json_type(scaling) != JSON_OBJECT) {
        reader_fault_value(r, scaling, key, "an object");
    } else if (scaling) {
        read_scaling(r, a, scaling, key, both != NULL);
    }
}
