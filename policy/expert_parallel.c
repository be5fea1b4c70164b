// SPDX-License-Identifier: Apache-2.0
// Expert parallel passes (policy/parallel.h).
#include "policy/forward.h"
#include "policy/parallel_state.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

// Theory of operation. The slots of a layer are sorted by expert, and a rank of the group owns
// neighbouring experts, so what goes to it is one stretch of rows. It receives a stretch from every
// rank of the group, each sorted by expert, and gathers them into the order (expert, rank), in
// which a product needs one segment an expert, and a weight gradient one segment a pair: the
// gradient of pair (e, r) goes to place e * group + r of the stack of all experts' gradients, of
// which there are as many as pairs. Results go back the same way.
struct plan { // of a layer, on this rank
    struct expert_rows *x;
    int group, own; // ranks of the group, experts of a rank
    int first_rank; // of the group
    int first;      // own expert
    int *sent;      // [group + 1] slots of this rank that go to each rank begin here
    int *come;      // [group + 1] rows that come from each rank begin here
    // On the device.
    const int *segments; // [E + 1] by expert, of all; those of others have no rows here
    const int *pairs;    // [own * group + 1] by expert and rank
    const int *order;    // [M] which row, as they come, stands at a place by expert
    const int *back;     // [M] its inverse
};

bool experts_are_spread(const struct policy *p) { return p->ranks && p->ranks->group > 1; }

void experts_free(struct policy_ranks *r)
{
    for (int l = 0; l < r->layers; l++) {
        free(r->layer[l].count);
        device_block_free(&r->layer[l].rows);
        device_block_free(&r->layer[l].gate_up);
    }
    free(r->layer);
    device_block_free(&r->in);
    device_block_free(&r->out);
    device_block_free(&r->hidden);
    device_block_free(&r->index);
}

static int rows_of(const struct plan *plan, int rank, int expert)
{
    return plan->x->count[rank * plan->own + expert];
}

// ---- exchange within the group

// Parts for all ranks, those outside the group empty.
static struct comm_part *parts_of(const struct policy *p)
{
    return mem_array0((size_t)p->ranks->comm->size, sizeof(struct comm_part));
}

// Each rank of the group learns how many rows come for each of its experts. segments: [E+1] on the
// host, of this rank's slots.
static int exchange_counts(struct policy *p, struct plan *plan, const int *segments)
{
    const int E = p->arch.E;
    int *counts = mem_array0((size_t)E, sizeof *counts);
    for (int e = 0; e < E; e++) {
        counts[e] = segments[e + 1] - segments[e];
    }
    struct comm_part *parts = parts_of(p);
    const size_t bytes = (size_t)plan->own * sizeof *counts;
    for (int q = 0; q < plan->group; q++) {
        parts[plan->first_rank + q] = (struct comm_part){
            counts + q * plan->own, plan->x->count + q * plan->own, bytes, bytes};
    }
    const int rc = comm_exchange(p->ranks->comm, NULL, COMM_CONTROL, parts);
    free(parts);
    free(counts);
    return rc;
}

// Rows [.,C] from slots, in `slots`, to experts, in `come`, or back.
static int exchange_rows(struct policy *p, const struct plan *plan, void *slots, void *come,
                         enum dtype type, bool back)
{
    const size_t row = (size_t)p->arch.C * dtype_size(type); // bytes
    struct comm_part *parts = parts_of(p);
    for (int q = 0; q < plan->group; q++) {
        char *at_slots = slots ? (char *)slots + (size_t)plan->sent[q] * row : NULL;
        char *at_come = come ? (char *)come + (size_t)plan->come[q] * row : NULL;
        const size_t of_slots = (size_t)(plan->sent[q + 1] - plan->sent[q]) * row;
        const size_t of_come = (size_t)(plan->come[q + 1] - plan->come[q]) * row;
        parts[plan->first_rank + q] =
            back ? (struct comm_part){at_come, at_slots, of_come, of_slots}
                 : (struct comm_part){at_slots, at_come, of_slots, of_come};
    }
    const int rc = comm_exchange(p->ranks->comm, p->dev, COMM_EXPERTS, parts);
    free(parts);
    return rc;
}

// ---- the plan of a layer

// Where rows begin, and the orders, on the device; x->count is known.
static int make_orders(struct policy *p, struct plan *plan)
{
    const int own = plan->own, group = plan->group;
    plan->come[0] = 0;
    for (int r = 0; r < group; r++) {
        plan->come[r + 1] = plan->come[r];
        for (int e = 0; e < own; e++) {
            plan->come[r + 1] += rows_of(plan, r, e);
        }
    }
    const int M = plan->come[group];
    plan->x->M = M;
    const int E = own * group;
    const size_t n = (size_t)(E + 1 + E + 1 + 2 * M);
    int *host = mem_array0(n, sizeof *host);
    int *segments = host, *pairs = segments + E + 1, *order = pairs + E + 1;
    int *back = order + M, at = 0;
    for (int e = 0; e < own; e++) {
        for (int r = 0; r < group; r++) {
            int row = plan->come[r];
            for (int before = 0; before < e; before++) {
                row += rows_of(plan, r, before);
            }
            for (int i = 0; i < rows_of(plan, r, e); i++, at++) {
                order[at] = row + i;
                back[row + i] = at;
            }
            pairs[e * group + r + 1] = at;
        }
        segments[plan->first + e + 1] = at;
    }
    for (int e = plan->first + own; e < E; e++) {
        segments[e + 1] = at;
    }
    struct device_block *index = &p->ranks->index;
    int rc = device_block_reserve(index, p->dev, n * sizeof *host);
    rc = rc ? rc : p->dev->memory->upload(p->dev, index->data, host, n * sizeof *host);
    const int *on_device = index->data;
    plan->segments = on_device;
    plan->pairs = on_device + (pairs - host);
    plan->order = on_device + (order - host);
    plan->back = on_device + (back - host);
    free(host);
    return rc;
}

// l NULL: this rank has no rows of its own. In the backward pass (known) the counts are those of
// the forward pass.
static int plan_open(struct plan *plan, struct policy *p, int layer, const struct layer_acts *l,
                     bool known)
{
    const struct policy_ranks *k = p->ranks;
    const int E = p->arch.E, group = k->group, own = E / group;
    *plan = (struct plan){.x = &k->layer[p->recompute ? 0 : layer], // which come again
                          .group = group,
                          .own = own,
                          .first_rank = k->comm->rank / group * group,
                          .first = k->comm->rank % group * own};
    plan->sent = mem_array0(2 * (size_t)group + 2, sizeof *plan->sent);
    plan->come = plan->sent + group + 1;
    if (!plan->x->count) {
        plan->x->count = mem_array0((size_t)E, sizeof *plan->x->count);
    }
    int *segments = mem_array0((size_t)E + 1, sizeof *segments);
    int rc = 0;
    if (l) {
        rc = p->dev->memory->download(p->dev, segments, l->segments,
                                      ((size_t)E + 1) * sizeof *segments);
    }
    for (int q = 0; q <= group; q++) {
        plan->sent[q] = segments[q * own];
    }
    if (rc == 0 && !known) {
        rc = exchange_counts(p, plan, segments);
    }
    free(segments);
    return rc ? rc : make_orders(p, plan);
}

static void plan_close(struct plan *plan) { free(plan->sent); }

// to[i] = from[order[i]], rows of C.
static int reorder(const struct policy *p, const struct plan *plan, void *to, const void *from,
                   const int *order, enum dtype type)
{
    return p->dev->k->moe_gather(p->dev, &(struct moe_gather_args){.x = from,
                                                                   .x_type = type,
                                                                   .pair = order,
                                                                   .xs = to,
                                                                   .xs_type = type,
                                                                   .T = plan->x->M,
                                                                   .K = 1,
                                                                   .C = p->arch.C});
}

// Room for M rows of any type.
static int reserve_rows(const struct policy *p, struct device_block *b, int M, int width)
{
    return device_block_reserve(b, p->dev, (size_t)M * (size_t)width * sizeof(float));
}

size_t experts_bytes(const struct policy *p, int T)
{
    const struct arch *a = &p->arch;
    const int kept = p->recompute ? 1 : a->L - a->dense_layers;
    const size_t row = (size_t)(2 * a->C + a->F + kept * (a->C + 2 * a->F)) * sizeof(float);
    return experts_are_spread(p) ? (size_t)T * (size_t)a->K * row : 0;
}

// ---- passes

// A product with each of this rank's experts.
static int expert_product(const struct policy *p, const struct plan *plan, int which, int layer,
                          enum way way, const void *a, void *c, enum dtype c_type)
{
    return product(
        p, &p->packed->layers[layer].m[which], way,
        (struct matmul_args){
            .a = a, .c = c, .c_type = c_type, .segments = plan->segments, .m = plan->x->M});
}

static int expert_weight_grad(const struct policy *p, const struct plan *plan, int which, int layer,
                              const void *dy, const void *x)
{
    return weight_grad(
        p, &p->packed->layers[layer].m[which],
        (struct matmul_grad_args){.dy = dy, .x = x, .segments = plan->pairs, .m = plan->x->M});
}

static int forward_plan(struct policy *p, const struct plan *plan, int layer, void *xs, void *ys)
{
    struct policy_ranks *k = p->ranks;
    struct expert_rows *x = plan->x;
    const enum dtype type = p->dtype;
    TRY(reserve_rows(p, &k->in, x->M, p->arch.C));
    TRY(reserve_rows(p, &k->out, x->M, p->arch.C));
    TRY(reserve_rows(p, &k->hidden, x->M, p->arch.F));
    TRY(reserve_rows(p, &x->rows, x->M, p->arch.C));
    TRY(reserve_rows(p, &x->gate_up, x->M, 2 * p->arch.F));
    void *in = k->in.data, *out = k->out.data, *h = k->hidden.data, *gate_up = x->gate_up.data;
    TRY(exchange_rows(p, plan, xs, in, type, false));
    TRY(reorder(p, plan, x->rows.data, in, plan->order, type));
    TRY(expert_product(p, plan, W_EXP_GATE_UP, layer, TO_OUT, x->rows.data, gate_up, type));
    TRY(gated_linear(p, gate_up, h, x->M, p->arch.F));
    TRY(expert_product(p, plan, W_EXP_DOWN, layer, TO_OUT, h, out, type));
    TRY(reorder(p, plan, in, out, plan->back, type));
    return exchange_rows(p, plan, ys, in, type, true);
}

static int backward_plan(struct policy *p, const struct plan *plan, int layer, void *dys,
                         float *dxs)
{
    const struct policy_ranks *k = p->ranks;
    const struct expert_rows *x = plan->x;
    void *in = k->in.data, *out = k->out.data, *h = k->hidden.data, *gate_up = x->gate_up.data;
    TRY(exchange_rows(p, plan, dys, in, p->dtype, false));
    TRY(reorder(p, plan, out, in, plan->order, p->dtype));
    TRY(gated_linear(p, gate_up, h, x->M, p->arch.F));
    TRY(expert_weight_grad(p, plan, W_EXP_DOWN, layer, out, h));
    TRY(expert_product(p, plan, W_EXP_DOWN, layer, TO_IN, out, h, DTYPE_F32));
    TRY(gated_linear_grad(p, gate_up, h, x->M, p->arch.F));
    TRY(expert_weight_grad(p, plan, W_EXP_GATE_UP, layer, gate_up, x->rows.data));
    TRY(expert_product(p, plan, W_EXP_GATE_UP, layer, TO_IN, gate_up, out, DTYPE_F32));
    TRY(reorder(p, plan, in, out, plan->back, DTYPE_F32));
    return exchange_rows(p, plan, dxs, in, DTYPE_F32, true);
}

int experts_forward(struct policy *p, int layer, const struct layer_acts *l)
{
    struct plan plan;
    int rc = plan_open(&plan, p, layer, l, false);
    rc = rc ? rc : forward_plan(p, &plan, layer, l ? p->acts->xs : NULL, l ? l->ys : NULL);
    plan_close(&plan);
    return rc;
}

int experts_backward(struct policy *p, int layer, const struct layer_acts *l)
{
    struct plan plan;
    int rc = plan_open(&plan, p, layer, l, true);
    rc = rc ? rc : backward_plan(p, &plan, layer, l ? l->ys : NULL, l ? p->acts->dxs : NULL);
    plan_close(&plan);
    return rc;
}

int experts_begin(struct policy *p)
{
    bool active = true;
    return comm_any(p->ranks->comm, &active);
}

int experts_finish(struct policy *p)
{
    while (experts_are_spread(p)) {
        bool active = false;
        TRY(comm_any(p->ranks->comm, &active));
        if (!active) {
            break;
        }
        for (int l = p->arch.dense_layers; l < p->arch.L; l++) {
            TRY(experts_forward(p, l, NULL));
        }
        for (int l = p->arch.L - 1; l >= p->arch.dense_layers; l--) {
            TRY(is_recomputed(p, l) ? experts_forward(p, l, NULL) : 0);
            TRY(experts_backward(p, l, NULL));
        }
    }
    return 0;
}

// ---- the end of a batch

struct places { // of one expert's gradients, from each rank of the group
    struct policy *p;
    float *data;
    size_t stride;
    int rc;
};

static void add_places(void *arg, int i, int j)
{
    struct places *x = arg;
    if (x->rc == 0) {
        x->rc =
            x->p->dev->k->add(x->p->dev, &(struct add_args){.x = x->data + (size_t)j * x->stride,
                                                            .y = x->data + (size_t)i * x->stride,
                                                            .n = x->stride});
    }
}

// Of one stack: sums each own expert's places, and moves the sums to the places of these experts.
static int reduce_stack(struct policy *p, const struct matrix *m)
{
    struct policy_ranks *k = p->ranks;
    const struct device_memory *memory = p->dev->memory;
    const size_t bytes = m->stride * sizeof(float);
    const int own = m->count / k->group;
    float *grad = p->grad + m->offset;
    TRY(device_block_reserve(&k->out, p->dev, (size_t)own * bytes));
    float *sums = k->out.data;
    for (int e = 0; e < own; e++) {
        struct places x = {p, grad + (size_t)(e * k->group) * m->stride, m->stride, 0};
        comm_pairwise(k->group, add_places, &x);
        TRY(x.rc);
        TRY(memory->copy(p->dev, sums + (size_t)e * m->stride, x.data, bytes));
    }
    TRY(memory->zero(p->dev, grad, (size_t)m->count * bytes));
    const size_t first = (size_t)(k->comm->rank % k->group * own);
    return memory->copy(p->dev, grad + first * m->stride, sums, (size_t)own * bytes);
}

int experts_reduce(struct policy *p)
{
    for (int l = p->arch.dense_layers; l < p->arch.L; l++) {
        TRY(reduce_stack(p, &p->packed->layers[l].m[W_EXP_GATE_UP]));
        TRY(reduce_stack(p, &p->packed->layers[l].m[W_EXP_DOWN]));
    }
    return 0;
}
