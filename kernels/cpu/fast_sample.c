// SPDX-License-Identifier: Apache-2.0
// Sampling, cut by rows. Truncation takes the largest probabilities from a heap, so it costs what
// it keeps and not a sort of the vocabulary.
#include "kernels/cpu/fast.h"
#include <assert.h>
#include <math.h>
#include <string.h>

#define DRAW_BLOCK 64

struct candidate {
    float p;
    int token;
};

static bool before(struct candidate x, struct candidate y)
{
    return x.p > y.p || (x.p == y.p && x.token < y.token);
}

static void heap_sift(struct candidate *heap, int n, int at)
{
    const struct candidate moved = heap[at];
    for (int child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && before(heap[child + 1], heap[child]))
            child++;
        if (!before(heap[child], moved))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static struct candidate heap_pop(struct candidate *heap, int *n)
{
    const struct candidate top = heap[0];
    heap[0] = heap[--*n];
    if (*n > 0)
        heap_sift(heap, *n, 0);
    return top;
}

// Sets the p[V] that truncation removes to 0 and returns whether there were any: all but the top_k
// largest; of those left, all but the fewest that hold top_p of their sum; of those left, the ones
// below min_p times the largest, which is 1.
static bool truncate_row(float *p, int V, const struct sample_row *row, struct candidate *heap)
{
    int left = V, kept = 0;
    const int most = row->top_k > 0 && row->top_k < V ? row->top_k : V;
    double total = 0.0, share = 0.0;
    if (most == V && row->top_p >= 1.0f) {
        for (int v = 0; v < V; v++) {
            kept += p[v] >= row->min_p;
            p[v] = p[v] >= row->min_p ? p[v] : 0.0f;
        }
        return kept < V;
    }
    for (int v = 0; v < V; v++)
        heap[v] = (struct candidate){p[v], v};
    for (int i = V / 2 - 1; i >= 0; i--)
        heap_sift(heap, V, i);
    if (most == V) {
        for (int v = 0; v < V; v++)
            total += (double)p[v];
    } else if (row->top_p < 1.0f) {
        // The sum of the top_k needs them first; they go back afterwards, in order, which is a heap
        // as well.
        struct candidate *first = heap + V;
        for (int i = 0; i < most; i++) {
            first[i] = heap_pop(heap, &left);
            total += (double)first[i].p;
        }
        memcpy(heap, first, (size_t)most * sizeof(*heap));
        left = most;
    }
    memset(p, 0, (size_t)V * sizeof(*p));
    while (kept < most) {
        const struct candidate c = heap_pop(heap, &left);
        if (kept > 0 && c.p < row->min_p)
            break;
        p[c.token] = c.p;
        kept++;
        share += (double)c.p;
        if (row->top_p < 1.0f && share >= (double)row->top_p * total)
            break;
    }
    return kept < V;
}

static double block_sum(const float *p, int n)
{
    vec sum = vec_zero();
    for (int i = 0; i < n; i += VEC_WIDTH)
        sum = vec_add(sum, vec_load_mask(p + i, vec_mask_at((size_t)n, (size_t)i)));
    return (double)vec_sum(sum);
}

// The token where the sum of p, by ascending index, passes u of the whole; the last with p > 0 if
// rounding leaves none.
static int draw(const float *p, int V, double u)
{
    double total = 0.0, sum = 0.0;
    int last = 0;
    for (int v = 0; v < V; v += DRAW_BLOCK)
        total += block_sum(p + v, V - v < DRAW_BLOCK ? V - v : DRAW_BLOCK);
    for (int v = 0; v < V; v += DRAW_BLOCK) {
        const int n = V - v < DRAW_BLOCK ? V - v : DRAW_BLOCK;
        const double here = block_sum(p + v, n);
        if (here > 0.0 && sum + here > u * total) {
            for (int i = 0; i < n; i++) {
                last = p[v + i] > 0.0f ? v + i : last;
                sum += (double)p[v + i];
                if (sum > u * total)
                    break;
            }
            return last;
        }
        for (int i = 0; here > 0.0 && i < n; i++)
            last = p[v + i] > 0.0f ? v + i : last;
        sum += here;
    }
    return last;
}

static int largest_logit(const float *logits, int V)
{
    int best = 0;
    for (int v = 1; v < V; v++)
        if (logits[v] > logits[best])
            best = v;
    return best;
}

struct sample_job {
    struct device *dev;
    const struct sample_args *a;
};

static void sample_share(void *arg, int rank, int size)
{
    const struct sample_job *job = arg;
    const struct sample_args *a = job->a;
    const size_t V = (size_t)a->V;
    float *p = cpu_scratch(job->dev, rank, 5 * V + VEC_WIDTH);
    struct candidate *heap = (struct candidate *)(p + V); // [2V]
    int begin, end;
    team_share(a->B, 1, rank, size, &begin, &end);
    for (int b = begin; b < end; b++) {
        const float *logits = a->logits + (size_t)b * V;
        const struct sample_row *row = &a->rows[b];
        const float inv = row_inv_tau(row->temperature);
        const struct row_stats s = FAST(row_stats)(logits, a->V, inv);
        bool truncated = false;
        int token;
        if (row->given) {
            token = row->token;
        } else if (row->temperature == 0.0f) {
            token = largest_logit(logits, a->V);
        } else {
            for (size_t v = 0; v < V; v += VEC_WIDTH) {
                const vec_mask m = vec_mask_at(V, v);
                const vec z = vec_mul(vec_load_mask(logits + v, m), vec_set1(inv));
                vec_store_mask(p + v, vec_exp(vec_sub(z, vec_set1(s.max))), m);
            }
            if (row->top_k > 0 || row->top_p < 1.0f || row->min_p > 0.0f)
                truncated = truncate_row(p, a->V, row, heap);
            token = draw(p, a->V, row->u);
        }
        a->token[b] = token;
        a->logprob[b] = row_logprob(&s, logits[token], inv);
        a->entropy[b] = s.entropy;
        if (a->truncated)
            a->truncated[b] = truncated;
    }
}

int FAST(sample)(struct device *dev, const struct sample_args *a)
{
    assert(a->B == 0 || a->V > 0);
    struct sample_job job = {dev, a};
    cpu_run(dev, 40.0 * a->B * a->V, sample_share, &job);
    return 0;
}
