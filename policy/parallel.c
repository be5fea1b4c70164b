// SPDX-License-Identifier: Apache-2.0
#include "policy/parallel.h"

#include "base/error.h"
#include "base/mem.h"
#include "policy/forward.h"
#include "policy/parallel_state.h"

#include <assert.h>
#include <stdlib.h>

// What a rank sums at once: as many pieces as there are ranks, 16 MiB in all, but no piece so small
// that sending it is mostly overhead.
#define BUCKET_FLOATS ((size_t)1 << 22)
#define PIECE_FLOATS  ((size_t)1 << 16)

static int ranks_of(const struct policy *p) { return p->ranks ? p->ranks->comm->size : 1; }

int parallel_rank(const struct policy *p) { return p->ranks ? p->ranks->comm->rank : 0; }

// ---- opening

static int check_settings(const struct policy *p, const struct parallel_settings *s)
{
    const int size = s->comm->size;
    if (s->shards % size != 0) {
        return err_set(ERR_CONFIG, "a batch of %d shards cannot be divided among %d ranks",
                       s->shards, size);
    }
    if (size % s->expert_group != 0) {
        return err_set(ERR_CONFIG, "%d ranks cannot be divided into groups of %d", size,
                       s->expert_group);
    }
    if (p->arch.E % s->expert_group != 0) {
        return err_set(ERR_CONFIG, "the model's %d experts cannot be divided among %d ranks",
                       p->arch.E, s->expert_group);
    }
    return 0;
}

int parallel_open(struct policy *p, const struct parallel_settings *s)
{
    const int refused = check_settings(p, s);
    if (refused) {
        return comm_common(s->comm, refused);
    }
    if (p->ranks || s->shards == 1) {
        return 0;
    }
    p->ranks = mem_alloc0(sizeof *p->ranks);
    p->ranks->comm = s->comm;
    p->ranks->shards = s->shards;
    p->ranks->group = p->arch.E > 0 ? s->expert_group : 1;
    p->ranks->layers = p->arch.L;
    p->ranks->layer = mem_array0((size_t)p->arch.L, sizeof *p->ranks->layer);
    return 0;
}

void parallel_free(struct policy_ranks **r)
{
    if (*r) {
        device_block_free(&(*r)->stack);
        device_block_free(&(*r)->bucket);
        experts_free(*r);
        free(*r);
        *r = NULL;
    }
}

// ---- ranges

int parallel_blocks(const struct policy *p)
{
    const int ranks = ranks_of(p);
    return ranks > PARALLEL_BLOCKS ? ranks : PARALLEL_BLOCKS;
}

size_t parallel_block(const struct policy *p, int b)
{
    return p->params.size / 16 * (size_t)b / (size_t)parallel_blocks(p) * 16;
}

static int first_block(const struct policy *p, int rank)
{
    return (int)((int64_t)parallel_blocks(p) * rank / ranks_of(p));
}

int parallel_own_blocks(const struct policy *p, int *first)
{
    *first = first_block(p, parallel_rank(p));
    return first_block(p, parallel_rank(p) + 1) - *first;
}

void parallel_range(const struct policy *p, int rank, size_t *begin, size_t *end)
{
    *begin = parallel_block(p, first_block(p, rank));
    *end = parallel_block(p, first_block(p, rank + 1));
}

// ---- shards

int parallel_shards(const struct policy *p) { return p->ranks ? p->ranks->shards : 1; }

int parallel_own_shards(const struct policy *p, int *first)
{
    const int count = parallel_shards(p) / ranks_of(p);
    *first = count * parallel_rank(p);
    return count;
}

static int add(const struct policy *p, float *y, const float *x, size_t n)
{
    return p->dev->k->add(p->dev, &(struct add_args){.x = x, .y = y, .n = n});
}

// As many gradients as are put aside at once: one of each power of two below the rank's shards.
static size_t stack_bytes(const struct policy *p)
{
    int depth = 0, first;
    while (parallel_own_shards(p, &first) > 1 << depth) {
        depth++;
    }
    return (size_t)depth * p->params.size * sizeof *p->grad;
}

static float *top_of_stack(const struct policy *p)
{
    return (float *)p->ranks->stack.data + (size_t)p->ranks->stacked * p->params.size;
}

static int add_top(struct policy *p)
{
    p->ranks->stacked--;
    p->grad_is_zero = false;
    return add(p, p->grad, top_of_stack(p), p->params.size);
}

// The sums of 1, 2, 4, ... neighbours are kept like the digits of a binary counter, which is the
// order of comm_pairwise.
int parallel_shard_done(struct policy *p, int index)
{
    int first;
    const int count = parallel_own_shards(p, &first);
    if (!p->ranks) {
        return 0;
    }
    TRY(experts_finish(p));
    if (count == 1) {
        return 0;
    }
    if (index == 0) {
        TRY(device_block_reserve(&p->ranks->stack, p->dev, stack_bytes(p)));
        p->ranks->stacked = 0;
    }
    for (int digit = index; digit & 1; digit >>= 1) {
        TRY(add_top(p));
    }
    if (index == count - 1) {
        while (p->ranks->stacked > 0) {
            TRY(add_top(p));
        }
        return 0;
    }
    TRY(p->dev->memory->copy(p->dev, top_of_stack(p), p->grad, p->params.size * sizeof *p->grad));
    p->ranks->stacked++;
    return policy_grad_zero(p);
}

// ---- the reduction

// A part of the block, [begin, end), to whose gradient ranks first, first + step, ... contribute.
struct segment {
    size_t begin, end;
    int first, step;
};

// The part of [begin, end) that is in the range of a rank, and of it the piece of a round.
static void piece_of(const struct policy *p, const struct segment *s, int rank, size_t round,
                     size_t piece, size_t *begin, size_t *count)
{
    size_t from, to;
    parallel_range(p, rank, &from, &to);
    from = from > s->begin ? from : s->begin;
    to = to < s->end ? to : s->end;
    *begin = from + round * piece;
    *count = *begin < to ? to - *begin : 0;
    *count = *count < piece ? *count : piece;
}

static bool contributes(const struct segment *s, int rank)
{
    return rank >= s->first && (rank - s->first) % s->step == 0;
}

struct bucket {
    struct policy *p;
    float *data; // [contributors, piece]
    size_t piece, count;
    int rc;
};

static void add_pieces(void *arg, int i, int j)
{
    struct bucket *b = arg;
    if (b->rc == 0) {
        b->rc = add(b->p, b->data + (size_t)i * b->piece, b->data + (size_t)j * b->piece, b->count);
    }
}

// One piece of the segment for every rank: given to it, and summed by it.
static int reduce_round(struct policy *p, const struct segment *s, size_t round,
                        struct comm_part *parts, struct bucket *b)
{
    const struct comm *c = p->ranks->comm;
    size_t own_begin, own_count;
    piece_of(p, s, c->rank, round, b->piece, &own_begin, &own_count);
    for (int r = 0; r < c->size; r++) {
        size_t begin, count;
        piece_of(p, s, r, round, b->piece, &begin, &count);
        parts[r] = (struct comm_part){0};
        if (contributes(s, c->rank)) {
            parts[r].send = p->grad + begin;
            parts[r].send_bytes = count * sizeof *p->grad;
        }
        if (contributes(s, r)) {
            parts[r].recv = b->data + (size_t)((r - s->first) / s->step) * b->piece;
            parts[r].recv_bytes = own_count * sizeof *p->grad;
        }
    }
    TRY(comm_exchange(p->ranks->comm, p->dev, COMM_GRADIENTS, parts));
    b->count = own_count;
    comm_pairwise((c->size - s->first + s->step - 1) / s->step, add_pieces, b);
    TRY(b->rc);
    return p->dev->memory->copy(p->dev, p->grad + own_begin, b->data, own_count * sizeof *p->grad);
}

static size_t piece_floats(size_t ranks)
{
    const size_t share = BUCKET_FLOATS / ranks / 16 * 16;
    return share > PIECE_FLOATS ? share : PIECE_FLOATS;
}

static size_t bucket_bytes(const struct policy *p)
{
    const size_t size = (size_t)ranks_of(p);
    return size > 1 ? size * piece_floats(size) * sizeof *p->grad : 0;
}

static int reduce_segment(struct policy *p, const struct segment *s)
{
    const size_t piece = piece_floats((size_t)p->ranks->comm->size);
    TRY(device_block_reserve(&p->ranks->bucket, p->dev, bucket_bytes(p)));
    struct bucket b = {.p = p, .data = p->ranks->bucket.data, .piece = piece};
    struct comm_part *parts = mem_array0((size_t)p->ranks->comm->size, sizeof *parts);
    int rc = 0;
    for (size_t round = 0, more = 1; more != 0 && rc == 0; round++) {
        more = 0;
        for (int r = 0; r < p->ranks->comm->size; r++) {
            size_t begin, count;
            piece_of(p, s, r, round, piece, &begin, &count);
            more += count;
        }
        rc = more != 0 ? reduce_round(p, s, round, parts, &b) : 0;
    }
    free(parts);
    return rc;
}

// Experts are reduced among the ranks that computed them: one of each group.
static int reduce_experts(struct policy *p, const struct matrix *m)
{
    const size_t part = (size_t)(m->count / p->ranks->group) * m->stride;
    for (int q = 0; q < p->ranks->group; q++) {
        const size_t begin = m->offset + (size_t)q * part;
        TRY(reduce_segment(p, &(struct segment){begin, begin + part, q, p->ranks->group}));
    }
    return 0;
}

int parallel_reduce(struct policy *p)
{
    if (ranks_of(p) == 1) {
        return 0;
    }
    size_t at = 0;
    if (p->ranks->group > 1) {
        TRY(experts_reduce(p));
        for (int l = p->arch.dense_layers; l < p->arch.L; l++) {
            for (int i = W_EXP_GATE_UP; i <= W_EXP_DOWN; i++) {
                const struct matrix *m = &p->packed->layers[l].m[i];
                assert(m->offset >= at);
                TRY(reduce_segment(p, &(struct segment){at, m->offset, 0, 1}));
                TRY(reduce_experts(p, m));
                at = m->offset + (size_t)m->count * m->stride;
            }
        }
    }
    return reduce_segment(p, &(struct segment){at, p->params.size, 0, 1});
}

size_t parallel_bytes(const struct policy *p, int T)
{
    return stack_bytes(p) + bucket_bytes(p) + experts_bytes(p, T);
}

// ---- sums, and what is spread

int parallel_sum(const struct policy *p, double *x, int n)
{
    return p->ranks ? comm_sum(p->ranks->comm, x, (size_t)n) : 0;
}

int parallel_sum_load(struct policy *p)
{
    const size_t n = (size_t)p->arch.L * (size_t)p->arch.E;
    int64_t balance[] = {p->balance_sum, p->balance_terms};
    if (!p->ranks) {
        return 0;
    }
    TRY(comm_sum_int64(p->ranks->comm, p->expert_load, n));
    TRY(comm_sum_int64(p->ranks->comm, balance, 2));
    p->balance_sum = balance[0];
    p->balance_terms = balance[1];
    return 0;
}

int parallel_common(const struct policy *p, int rc)
{
    return p->ranks ? comm_common(p->ranks->comm, rc) : rc;
}

int parallel_collect(const struct policy *p, const float *part, float *whole, int root)
{
    size_t begin, end;
    parallel_range(p, parallel_rank(p), &begin, &end);
    if (ranks_of(p) == 1) {
        return part == whole ? 0 : p->dev->memory->copy(p->dev, whole, part, end * sizeof *whole);
    }
    struct comm *c = p->ranks->comm;
    struct comm_part *parts = mem_array0((size_t)c->size, sizeof *parts);
    for (int r = 0; r < c->size; r++) {
        size_t from, to;
        parallel_range(p, r, &from, &to);
        if (root < 0 || root == r) {
            parts[r].send = part;
            parts[r].send_bytes = (end - begin) * sizeof *part;
        }
        if (root < 0 || root == c->rank) {
            parts[r].recv = whole + from;
            parts[r].recv_bytes = (to - from) * sizeof *whole;
        }
    }
    const int rc = comm_exchange(c, p->dev, COMM_WEIGHTS, parts);
    free(parts);
    return rc;
}
