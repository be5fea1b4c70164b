// SPDX-License-Identifier: Apache-2.0
// Balance of the experts' load: the routing bias of arXiv:2412.19437, section 2.1.2, and the
// auxiliary loss of each sequence of arXiv:2405.04434, section 2.2.3.
#include "policy/forward.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Of one layer, [E].
static int64_t load_sum(const int64_t *load, int E)
{
    int64_t sum = 0;
    for (int e = 0; e < E; e++) {
        sum += load[e];
    }
    return sum;
}

// The bias of layer l by way of x, host memory of E floats.
static int balance_layer(struct policy *p, int l, double u, float *x)
{
    const int E = p->arch.E;
    const int64_t *load = p->expert_load + (size_t)l * E, sum = load_sum(load, E);
    float *bias = p->params.data + p->packed->layers[l].route_bias;
    int rc = p->dev->memory->download(p->dev, x, bias, (size_t)E * sizeof *x);
    for (int e = 0; e < E && rc == 0; e++) {
        int64_t over = load[e] * E - sum; // the sign of load - mean, in integers
        x[e] += (float)(over < 0 ? u : over > 0 ? -u : 0);
    }
    return rc ? rc : p->dev->memory->upload(p->dev, bias, x, (size_t)E * sizeof *x);
}

int policy_balance_bias(struct policy *p, double u)
{
    const struct arch *a = &p->arch;
    float *x = mem_floats((size_t)a->E);
    int rc = 0;
    for (int l = a->dense_layers; l < a->L && a->route_bias && rc == 0; l++) {
        rc = balance_layer(p, l, u, x);
    }
    free(x);
    return rc;
}

double policy_load_violation(const struct arch *a, const int64_t *load)
{
    double total = 0;
    int layers = 0;
    for (int l = a->dense_layers; l < a->L; l++) {
        const int64_t *of = load + (size_t)l * a->E, sum = load_sum(of, a->E);
        int64_t max = 0;
        for (int e = 0; e < a->E; e++) {
            max = of[e] > max ? of[e] : max;
        }
        if (sum > 0) {
            total += (double)max * a->E / (double)sum - 1;
            layers++;
        }
    }
    return layers ? total / layers : 0;
}

double policy_max_violation(const struct policy *p)
{
    return policy_load_violation(&p->arch, p->expert_load);
}

// ---- the auxiliary loss

static size_t num_losses(const struct policy *p)
{
    return (size_t)(p->arch.L - p->arch.dense_layers) * (size_t)p->acts->num_seqs;
}

int balance_grad(const struct policy *p, const struct layer_acts *l, int layer)
{
    const struct arch *a = &p->arch;
    const struct policy_activations *s = p->acts;
    if (p->balance_weight == 0) {
        return 0;
    }
    float *loss = s->balance + (size_t)(layer - a->dense_layers) * (size_t)s->num_seqs;
    return p->dev->k->moe_balance(p->dev,
                                  &(struct moe_balance_args){.scores = l->scores,
                                                             .experts = l->experts,
                                                             .seqs = s->in.grad_seqs,
                                                             .num_seqs = s->num_seqs,
                                                             .T = s->T,
                                                             .E = a->E,
                                                             .K = a->K,
                                                             .scoring = a->scoring,
                                                             .weight = (float)p->balance_weight,
                                                             .loss = loss,
                                                             .dlogits = s->dlogits});
}

int balance_count(struct policy *p)
{
    const size_t n = num_losses(p);
    if (p->balance_weight == 0 || n == 0) {
        return 0;
    }
    float *loss = mem_floats(n);
    const int rc = p->dev->memory->download(p->dev, loss, p->acts->balance, n * sizeof *loss);
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (loss[i] != MOE_NO_SEQUENCE) {
            p->balance_sum += llrint(ldexp((double)loss[i], 24));
            p->balance_terms++;
        }
    }
    free(loss);
    return rc;
}

double policy_balance_loss(const struct policy *p)
{
    return p->balance_terms ? ldexp((double)p->balance_sum, -24) / (double)p->balance_terms : 0;
}

void policy_load_reset(struct policy *p)
{
    p->balance_sum = p->balance_terms = 0;
    if (p->expert_load) {
        memset(p->expert_load, 0, (size_t)p->arch.L * p->arch.E * sizeof *p->expert_load);
    }
}
