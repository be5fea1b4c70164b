// SPDX-License-Identifier: Apache-2.0
#include "policy/memory.h"

#include "policy/activations.h"
#include "policy/optimizer.h"
#include "policy/parallel_state.h"
#include "policy/rope.h"
#include "policy/weights.h"

// The blocks hold the largest pass.
static void pass_bytes(size_t *block, size_t *inputs, const struct policy *p,
                       const struct policy_pass *passes, int count)
{
    *block = *inputs = 0;
    for (int i = 0; i < count; i++) {
        size_t of_block, of_inputs;
        activations_bytes(&of_block, &of_inputs, p, &passes[i]);
        *block = of_block > *block ? of_block : *block;
        *inputs = of_inputs > *inputs ? of_inputs : *inputs;
    }
}

int policy_reserve(struct policy *p, const struct policy_use *use)
{
    size_t block, inputs;
    p->recompute = use->recompute;
    pass_bytes(&block, &inputs, p, use->passes, use->num_passes);
    const int rc = activations_reserve(p, block, inputs);
    return rc ? rc : rope_table_grow(&p->acts->rope, p->dev, &p->arch, use->positions);
}

// Tokens of the largest training pass.
static int training_tokens(const struct policy_use *use)
{
    int most = 0;
    for (int i = 0; i < use->num_passes; i++) {
        const struct policy_pass *x = &use->passes[i];
        most = x->train && x->T > most ? x->T : most;
    }
    return most;
}

// Of a policy that has its parameters' layout and no parameters.
static void train_bytes(struct policy_memory *m, struct policy *p, const struct policy_use *use)
{
    const struct parallel_settings *s = use->several;
    struct policy_ranks ranks;
    m->bytes[PART_GRADIENTS] =
        p->params.size * sizeof *p->grad + PARALLEL_BLOCKS * sizeof *p->grad_squares;
    if (s && s->shards > 1) {
        ranks = (struct policy_ranks){
            .comm = s->comm, .shards = s->shards, .group = p->arch.E > 0 ? s->expert_group : 1};
        p->ranks = &ranks;
        m->bytes[PART_RANKS] = parallel_bytes(p, training_tokens(use));
    }
    m->bytes[PART_MOMENTS] = optimizer_bytes(p);
    if (p->ranks && s->comm->size > 1 && s->comm->rank == 0) { // all moments, while it saves
        m->bytes[PART_RANKS] += 2 * p->params.size * sizeof(float);
    }
    p->ranks = NULL;
}

void policy_memory(struct policy_memory *out, struct device *dev, const struct arch *arch,
                   const struct policy_use *use)
{
    struct policy p = {.arch = *arch, .dtype = use->dtype, .dev = dev, .recompute = use->recompute};
    params_layout(&p.params, arch, use->read_only);
    *out = (struct policy_memory){0};
    out->bytes[PART_WEIGHTS] = p.params.size * sizeof(float);
    out->bytes[PART_PACKED] = weights_bytes(&p, use->train);
    if (use->train) {
        train_bytes(out, &p, use);
    }
    pass_bytes(&out->bytes[PART_ACTIVATIONS], &out->bytes[PART_INPUTS], &p, use->passes,
               use->num_passes);
    out->bytes[PART_INPUTS] += rope_table_bytes(arch, use->positions);
    params_free(&p.params);
}

size_t policy_memory_total(const struct policy_memory *m)
{
    size_t sum = 0;
    for (int i = 0; i < POLICY_PARTS; i++) {
        sum += m->bytes[i];
    }
    return sum;
}
