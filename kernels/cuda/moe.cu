// SPDX-License-Identifier: Apache-2.0
// Mixture of experts: routing (arXiv:2405.04434, 2.2; arXiv:2412.19437, eq. 12-16), and the
// permutation of tokens to experts. A warp routes a token.
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/sort.cuh"
#include <cassert>
#include <cmath>

constexpr int MOE_THREADS = 256;
constexpr int MOE_WARPS = MOE_THREADS / WARP;

// ---- routing

// The scores of a row of logits.
static __device__ void route_scores(const float *logits, float *scores, int E,
                                    enum moe_scoring scoring)
{
    if (scoring == MOE_SIGMOID) {
        for (int e = lane_index(); e < E; e += WARP)
            scores[e] = 1.0f / (1.0f + expf(-logits[e]));
        return;
    }
    float max = -INFINITY, total = 0.0f;
    for (int e = lane_index(); e < E; e += WARP)
        max = fmaxf(max, logits[e]);
    max = warp_max(max);
    for (int e = lane_index(); e < E; e += WARP)
        total += expf(logits[e] - max);
    total = warp_sum(total);
    for (int e = lane_index(); e < E; e += WARP)
        scores[e] = expf(logits[e] - max) / total;
}

// The index of the largest of x[n] that is not taken, the lower one of equals; the same in every
// lane.
static __device__ int largest_index(const float *x, const bool *taken, int n)
{
    unsigned long long best = 0; // key, then the lower index
    for (int i = lane_index(); i < n; i += WARP) {
        const unsigned long long rank =
            static_cast<unsigned long long>(order_key(x[i])) << 32 | (0xffffffffu - i);
        best = !taken[i] && rank > best ? rank : best;
    }
    for (int d = WARP / 2; d > 0; d /= 2) {
        const unsigned long long other = __shfl_xor_sync(ALL_LANES, best, d);
        best = other > best ? other : best;
    }
    return static_cast<int>(0xffffffffu - static_cast<uint32_t>(best));
}

static __device__ float group_rank(const float *x, int n, enum moe_group_rank rank)
{
    float first = -INFINITY, second = -INFINITY;
    for (int i = 0; i < n; i++) {
        if (x[i] > first) {
            second = first;
            first = x[i];
        } else if (x[i] > second) {
            second = x[i];
        }
    }
    return rank == MOE_GROUP_MAX || n == 1 ? first : first + second;
}

// A row's biased scores, the ranks of its groups, and flags of both; shared memory of one warp.
struct route_row {
    float *biased, *rank;  // [E], [n_group]
    bool *taken, *dropped; // [E], [n_group]
};

static __host__ __device__ __forceinline__ size_t route_row_bytes(const struct moe_route_args &a)
{
    const size_t bytes = static_cast<size_t>(a.E + a.n_group) * (sizeof(float) + sizeof(bool));
    return (bytes + 15) / 16 * 16;
}

// Takes the experts outside the topk_group best groups.
static __device__ void take_groups(const struct moe_route_args &a, const struct route_row &r)
{
    const int size = a.E / a.n_group;
    for (int g = lane_index(); g < a.n_group; g += WARP) {
        r.rank[g] = group_rank(r.biased + g * size, size, a.group_rank);
        r.dropped[g] = false;
    }
    __syncwarp();
    for (int k = 0; k < a.topk_group; k++) {
        const int g = largest_index(r.rank, r.dropped, a.n_group);
        __syncwarp();
        if (lane_index() == 0)
            r.dropped[g] = true;
        __syncwarp();
    }
    for (int e = lane_index(); e < a.E; e += WARP)
        r.taken[e] = !r.dropped[e / size];
    __syncwarp();
}

// Chooses K experts and lists them by ascending index.
static __device__ void choose_experts(const struct moe_route_args &a, const struct route_row &r,
                                      int *experts)
{
    const unsigned int below = (1u << lane_index()) - 1u;
    for (int k = 0; k < a.K; k++) {
        const int e = largest_index(r.biased, r.taken, a.E);
        __syncwarp();
        if (lane_index() == 0)
            r.taken[e] = true;
        if (lane_index() == 0)
            experts[k] = e;
        __syncwarp();
    }
    // The chosen become the only ones taken; then they are listed in order.
    for (int e = lane_index(); e < a.E; e += WARP)
        r.taken[e] = false;
    __syncwarp();
    for (int k = lane_index(); k < a.K; k += WARP)
        r.taken[experts[k]] = true;
    __syncwarp();
    for (int first = 0, count = 0; first < a.E; first += WARP) {
        const int e = first + lane_index();
        const bool chosen = e < a.E && r.taken[e];
        const unsigned int all = __ballot_sync(ALL_LANES, chosen);
        if (chosen)
            experts[count + __popc(all & below)] = e;
        count += __popc(all);
    }
    __syncwarp();
}

static __global__ void __launch_bounds__(MOE_THREADS) moe_route_kernel(struct moe_route_args a)
{
    const size_t t = static_cast<size_t>(blockIdx.x) * MOE_WARPS + warp_index();
    if (t >= static_cast<size_t>(a.T))
        return;
    unsigned char *shared = dynamic_shared<unsigned char>() + warp_index() * route_row_bytes(a);
    struct route_row r;
    r.biased = reinterpret_cast<float *>(shared);
    r.rank = r.biased + a.E;
    r.taken = reinterpret_cast<bool *>(r.rank + a.n_group);
    r.dropped = r.taken + a.E;
    float *scores = a.scores + t * a.E, *weights = a.weights + t * a.K;
    int *experts = a.experts + t * a.K;
    route_scores(a.logits + t * a.E, scores, a.E, a.scoring);
    for (int e = lane_index(); e < a.E; e += WARP) {
        r.biased[e] = scores[e] + (a.bias ? a.bias[e] : 0.0f);
        r.taken[e] = false;
    }
    __syncwarp();
    if (a.n_group > 1)
        take_groups(a, r);
    choose_experts(a, r, experts);
    float total = 0.0f;
    for (int k = lane_index(); k < a.K; k += WARP)
        total += scores[experts[k]];
    total = a.normalise ? warp_sum(total) + 1e-20f : 1.0f;
    for (int k = lane_index(); k < a.K; k += WARP)
        weights[k] = scores[experts[k]] / total * a.scale;
}

extern "C" int cuda_moe_route(struct device *dev, const struct moe_route_args *a)
{
    assert(a->n_group >= 1 && a->E % a->n_group == 0 && a->topk_group <= a->n_group);
    assert(a->K <= a->E / a->n_group * (a->n_group > 1 ? a->topk_group : 1));
    return launch(dev, blocks_for(a->T, MOE_WARPS), MOE_THREADS, MOE_WARPS * route_row_bytes(*a),
                  moe_route_kernel, *a);
}

// With S the sum over the chosen: d a_j = scale / S (dw_j - sum_i dw_i a_i / S) when normalised,
// else scale dw_j.
static __global__ void __launch_bounds__(MOE_THREADS)
    moe_route_grad_kernel(struct moe_route_grad_args a)
{
    const size_t t = static_cast<size_t>(blockIdx.x) * MOE_WARPS + warp_index();
    if (t >= static_cast<size_t>(a.T))
        return;
    const float *score = a.scores + t * a.E, *dweight = a.dweights + t * a.K;
    const int *experts = a.experts + t * a.K;
    float *dlogits = a.dlogits + t * a.E;
    float total = 0.0f, mixed = 0.0f, mean = 0.0f;
    for (int k = lane_index(); k < a.K; k += WARP) {
        total += score[experts[k]];
        mixed += dweight[k] * score[experts[k]];
    }
    total = a.normalise ? warp_sum(total) + 1e-20f : 1.0f;
    mixed = a.normalise ? warp_sum(mixed) / total : 0.0f;
    for (int k = lane_index(); k < a.K; k += WARP)
        mean += a.scale * ((dweight[k] - mixed) / total) * score[experts[k]];
    mean = a.scoring == MOE_SOFTMAX ? warp_sum(mean) : 0.0f;
    for (int e = lane_index(); e < a.E; e += WARP)
        dlogits[e] = -score[e] * mean;
    __syncwarp();
    for (int k = lane_index(); k < a.K; k += WARP) {
        const int e = experts[k];
        const float s = score[e], da = a.scale * ((dweight[k] - mixed) / total);
        dlogits[e] = a.scoring == MOE_SOFTMAX ? s * (da - mean) : da * s * (1.0f - s);
    }
}

extern "C" int cuda_moe_route_grad(struct device *dev, const struct moe_route_grad_args *a)
{
    return launch(dev, blocks_for(a->T, MOE_WARPS), MOE_THREADS, 0, moe_route_grad_kernel, *a);
}

// ---- balance

constexpr int BALANCE_THREADS = 1024;
constexpr int BALANCE_WARPS = BALANCE_THREADS / WARP;

// d = sum_i g_i a_i of token t, by a warp; its gradient is that of d where it is asked for.
static __device__ float balance_row(const struct moe_balance_args &a, const float *g, size_t t,
                                    bool spread)
{
    const float *score = a.scores + t * a.E;
    float *dlogits = a.dlogits + t * a.E;
    const bool softmax = a.scoring == MOE_SOFTMAX;
    float total = 0.0f, d = 0.0f;
    for (int e = lane_index(); e < a.E; e += WARP) {
        total += score[e];
        d += g[e] * score[e];
    }
    total = softmax ? 1.0f : warp_sum(total) + 1e-20f;
    d = warp_sum(d) / total;
    for (int e = lane_index(); e < a.E && spread; e += WARP)
        dlogits[e] += (g[e] - d) / total * score[e] * (softmax ? 1.0f : 1.0f - score[e]);
    return d;
}

static __device__ void count_choices(const struct moe_balance_args &a,
                                     const struct attention_grad_seq &q, int *count)
{
    const int end = (q.query + q.len) * a.K;
    for (int i = q.query * a.K + static_cast<int>(threadIdx.x); i < end; i += BALANCE_THREADS)
        atomicAdd(&count[a.experts[i]], 1);
}

// The warp's part of the rows of q.
static __device__ float sum_rows(const struct moe_balance_args &a,
                                 const struct attention_grad_seq &q, const float *g, bool spread)
{
    float sum = 0.0f;
    for (int t = q.query + warp_index(); t < q.query + q.len; t += BALANCE_WARPS)
        sum += balance_row(a, g, static_cast<size_t>(t), spread);
    return sum;
}

// The loss of the sequence that is `own` after `prefix`, by way of count and f [E]; the gradient of
// its own tokens, and what its prefix's are to be given, added to g [E]. By all threads of a block.
static __device__ float balance_sequence(const struct moe_balance_args &a,
                                         const struct attention_grad_seq &prefix,
                                         const struct attention_grad_seq &own, int *count, float *f,
                                         float *g)
{
    __shared__ float sums[BALANCE_WARPS];
    const float n = static_cast<float>(prefix.len) + static_cast<float>(own.len);
    if (n == 0.0f)
        return MOE_NO_SEQUENCE;
    for (int e = static_cast<int>(threadIdx.x); e < a.E; e += BALANCE_THREADS)
        count[e] = 0;
    __syncthreads();
    count_choices(a, prefix, count);
    count_choices(a, own, count);
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < a.E; e += BALANCE_THREADS)
        f[e] = static_cast<float>(count[e]) * (static_cast<float>(a.E) / (a.K * n));
    __syncthreads();
    float loss = sum_rows(a, prefix, f, false) + sum_rows(a, own, f, false);
    loss = group_sum<BALANCE_WARPS>(lane_index() == 0 ? loss : 0.0f, sums);
    for (int e = static_cast<int>(threadIdx.x); e < a.E; e += BALANCE_THREADS) {
        f[e] *= a.weight / n;
        g[e] += f[e];
    }
    __syncthreads();
    sum_rows(a, own, f, true);
    __syncthreads();
    return loss / n;
}

// A block takes a sequence that continues none, and those that continue it.
static __global__ void __launch_bounds__(BALANCE_THREADS)
    moe_balance_kernel(struct moe_balance_args a)
{
    int *count = dynamic_shared<int>();
    float *f = reinterpret_cast<float *>(count + a.E), *g = f + a.E;
    const int s = static_cast<int>(blockIdx.x);
    const struct attention_grad_seq q = a.seqs[s], nothing = {};
    if (q.prefix >= 0)
        return;
    for (int e = static_cast<int>(threadIdx.x); e < a.E; e += BALANCE_THREADS)
        g[e] = 0.0f;
    int end = s + 1;
    for (; end < a.num_seqs && a.seqs[end].prefix == s; end++) {
        const float loss = balance_sequence(a, q, a.seqs[end], count, f, g);
        if (threadIdx.x == 0)
            a.loss[end] = loss;
    }
    float loss = MOE_NO_SEQUENCE;
    if (end == s + 1)
        loss = balance_sequence(a, q, nothing, count, f, g);
    if (threadIdx.x == 0)
        a.loss[s] = loss;
    __syncthreads();
    sum_rows(a, q, g, true);
}

extern "C" int cuda_moe_balance(struct device *dev, const struct moe_balance_args *a)
{
    return launch(dev, static_cast<unsigned int>(a->num_seqs), BALANCE_THREADS,
                  3 * static_cast<size_t>(a->E) * sizeof(float), moe_balance_kernel, *a);
}

// ---- permutation

extern "C" int cuda_moe_sort(struct device *dev, const struct moe_sort_args *a)
{
    struct bucket_sort s = {};
    s.keys = a->experts;
    s.n = a->T * a->K;
    s.mask = -1;
    s.buckets = a->E;
    s.sorted = a->pair;
    s.slot = a->slot;
    s.segments = a->segments;
    int *buffer = nullptr;
    const int rc = scratch(dev, SCRATCH_INNER, &buffer, bucket_sort_scratch(&s));
    return rc != 0 ? rc : bucket_sort_run(dev, &s, buffer);
}

template <typename X, typename Y> static __global__ void moe_gather_kernel(struct moe_gather_args a)
{
    const size_t s = grid_row(), C = static_cast<size_t>(a.C);
    const int c = 4 * grid_item();
    if (s >= static_cast<size_t>(a.T) * a.K || c >= a.C)
        return;
    const size_t t = static_cast<size_t>(a.pair[s] / a.K);
    store_four(static_cast<Y *>(a.xs) + s * C + c, a.C - c,
               load_four(static_cast<const X *>(a.x) + t * C + c, a.C - c));
}

template <typename X> static int launch_gather(struct device *dev, const struct moe_gather_args *a)
{
    const row_grid g = row_grid_for(static_cast<size_t>(a->T) * a->K, fours(a->C));
    return launch(
        dev, g.grid, g.block, 0,
        a->xs_type == DTYPE_BF16 ? moe_gather_kernel<X, bf16> : moe_gather_kernel<X, float>, *a);
}

extern "C" int cuda_moe_gather(struct device *dev, const struct moe_gather_args *a)
{
    return a->x_type == DTYPE_BF16 ? launch_gather<bf16>(dev, a) : launch_gather<float>(dev, a);
}

static __global__ void moe_gather_grad_kernel(struct moe_gather_grad_args a)
{
    const size_t t = grid_row(), C = static_cast<size_t>(a.C);
    const int c = 4 * grid_item();
    if (t >= static_cast<size_t>(a.T) || c >= a.C)
        return;
    four sum = load_four(a.dx + t * C + c, a.C - c);
#pragma unroll 4
    for (int k = 0; k < a.K; k++) {
        const size_t s = static_cast<size_t>(a.slot[t * a.K + k]);
        const four d = load_four(a.dxs + s * C + c, a.C - c);
        for (int i = 0; i < 4; i++)
            sum.x[i] += d.x[i];
    }
    store_four(a.dx + t * C + c, a.C - c, sum);
}

extern "C" int cuda_moe_gather_grad(struct device *dev, const struct moe_gather_grad_args *a)
{
    const row_grid g = row_grid_for(a->T, fours(a->C));
    return launch(dev, g.grid, g.block, 0, moe_gather_grad_kernel, *a);
}

template <typename Y> static __global__ void moe_combine_kernel(struct moe_combine_args a)
{
    const size_t t = grid_row(), C = static_cast<size_t>(a.C);
    const int c = 4 * grid_item();
    if (t >= static_cast<size_t>(a.T) || c >= a.C)
        return;
    four sum = load_four(a.y + t * C + c, a.C - c);
#pragma unroll 4
    for (int k = 0; k < a.K; k++) {
        const size_t s = static_cast<size_t>(a.slot[t * a.K + k]);
        const float weight = a.weights[t * a.K + k];
        const four y = load_four(static_cast<const Y *>(a.ys) + s * C + c, a.C - c);
        for (int i = 0; i < 4; i++)
            sum.x[i] += weight * y.x[i];
    }
    store_four(a.y + t * C + c, a.C - c, sum);
}

extern "C" int cuda_moe_combine(struct device *dev, const struct moe_combine_args *a)
{
    const row_grid g = row_grid_for(a->T, fours(a->C));
    return launch(dev, g.grid, g.block, 0,
                  a->ys_type == DTYPE_BF16 ? moe_combine_kernel<bf16> : moe_combine_kernel<float>,
                  *a);
}

// A warp takes a pair.
template <typename Y, typename D>
static __global__ void __launch_bounds__(MOE_THREADS)
    moe_combine_grad_kernel(struct moe_combine_grad_args a)
{
    const size_t p = static_cast<size_t>(blockIdx.x) * MOE_WARPS + warp_index();
    const size_t C = static_cast<size_t>(a.C);
    if (p >= static_cast<size_t>(a.T) * a.K)
        return;
    const size_t row = static_cast<size_t>(a.slot[p]) * C;
    const Y *ys = static_cast<const Y *>(a.ys) + row;
    D *dys = static_cast<D *>(a.dys) + row;
    const float *dy = a.dy + p / a.K * C, weight = a.weights[p];
    float dot = 0.0f;
#pragma unroll 4
    for (int c = 4 * lane_index(); c < a.C; c += 4 * WARP) {
        const four y = load_four(ys + c, a.C - c), d = load_four(dy + c, a.C - c);
        four out;
        for (int i = 0; i < 4; i++) {
            dot += y.x[i] * d.x[i];
            out.x[i] = weight * d.x[i];
        }
        store_four(dys + c, a.C - c, out);
    }
    dot = warp_sum(dot);
    if (lane_index() == 0)
        a.dweights[p] = dot;
}

template <typename Y>
static int launch_combine_grad(struct device *dev, const struct moe_combine_grad_args *a)
{
    const size_t pairs = static_cast<size_t>(a->T) * a->K;
    return launch(dev, blocks_for(pairs, MOE_WARPS), MOE_THREADS, 0,
                  a->dys_type == DTYPE_BF16 ? moe_combine_grad_kernel<Y, bf16>
                                            : moe_combine_grad_kernel<Y, float>,
                  *a);
}

extern "C" int cuda_moe_combine_grad(struct device *dev, const struct moe_combine_grad_args *a)
{
    return a->ys_type == DTYPE_BF16 ? launch_combine_grad<bf16>(dev, a)
                                    : launch_combine_grad<float>(dev, a);
}
