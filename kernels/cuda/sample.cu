// SPDX-License-Identifier: Apache-2.0
// Sampling; a block treats a row.
//
// Theory of operation. Truncation keeps a prefix of the tokens in order of (logit descending, index
// ascending), so what is kept is told by the logit and the index of the last kept token: a bound.
// The bound of top_k is found digit by digit of the logits' bits, which are made to order as
// unsigned integers: the digits' counts say in which one the K-th largest lies. top_p is the same
// with probabilities instead of counts. Probabilities are summed as integers (units of 2^-b of the
// largest), so no sum here depends on its order. A histogram's sum is kept as three limbs of 32
// bits, each of so few bits of every probability that V of them cannot overflow.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/logits.cuh"
#include <cassert>
#include <climits>

constexpr int SELECT_BITS = 11; // the largest digit
constexpr int SELECT_BINS = 1 << SELECT_BITS;
constexpr int BINS_EACH = SELECT_BINS / LOGIT_THREADS; // of one thread
constexpr int LIMBS = 3;
constexpr int DRAW_SPAN = 256; // columns whose probability a warp sums at a time

using mass_t = unsigned long long;

// What is kept: keys above `key`, and of those equal to it the ones up to index `last`.
struct bound {
    uint32_t key;
    int last;
};

// A row with its probabilities' scale: p = e^(z - max), in units of 1 / units.
struct row_view {
    const float *logits;
    int V;
    float inverse, max;
    float units;
    int limb_bits;
};

struct select_memory {
    uint32_t limb[LIMBS][SELECT_BINS];
};

static __device__ __forceinline__ float key_value(uint32_t key)
{
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

static __device__ __forceinline__ bool is_kept(const bound &b, uint32_t key, int v)
{
    return key > b.key || (key == b.key && v <= b.last);
}

static __device__ __forceinline__ float probability(const row_view &r, float logit)
{
    return expf(__fadd_rn(scaled_logit(logit, r.inverse), -r.max));
}

// 0 for NaN
static __device__ __forceinline__ mass_t mass_of(const row_view &r, float p)
{
    return p > 0.0f ? static_cast<mass_t>(fminf(p, 1.0f) * r.units) : 0;
}

static __device__ row_view view_of(const float *logits, int V, float inverse, float max)
{
    // V 2^limb_bits < 2^32, and the mass of a row stays below 2^63.
    const int limb_bits = min(__clz(V), 16);
    const float units = ldexpf(1.0f, LIMBS * limb_bits - 1);
    return {logits, V, inverse, max, units, limb_bits};
}

// f(v, logit) for the columns of a row, spread over the threads, two vectors at a time.
template <typename F> static __device__ __forceinline__ void each_logit(const row_view &r, F f)
{
    constexpr int stride = 4 * LOGIT_THREADS;
    for (int v = 4 * static_cast<int>(threadIdx.x); v < r.V; v += 2 * stride) {
        four x[2];
        for (int h = 0; h < 2; h++)
            x[h] = load_four(r.logits + v + h * stride, r.V - v - h * stride);
        for (int h = 0; h < 2; h++)
            for (int i = 0; i < 4; i++)
                if (v + h * stride + i < r.V)
                    f(v + h * stride + i, x[h].x[i]);
    }
}

// ---- a digit of the bound

static __device__ __forceinline__ mass_t bin_sum(const select_memory *m, int bin, int limb_bits,
                                                 int limbs)
{
    mass_t sum = 0;
    for (int i = 0; i < limbs; i++)
        sum += static_cast<mass_t>(m->limb[i][bin]) << i * limb_bits;
    return sum;
}

struct digit_choice {
    int bin;
    mass_t before, here; // in the bins above it, and in it
};

// The bin in which the sum, from the largest bin down, reaches `want`.
static __device__ digit_choice choose_bin(const select_memory *m, int limb_bits, int limbs,
                                          mass_t want)
{
    __shared__ mass_t sums[LOGIT_WARPS];
    __shared__ digit_choice choice;
    const int top = SELECT_BINS - 1 - BINS_EACH * static_cast<int>(threadIdx.x);
    mass_t mine = 0, total;
    for (int i = 0; i < BINS_EACH; i++)
        mine += bin_sum(m, top - i, limb_bits, limbs);
    mass_t before = block_exclusive_scan<LOGIT_WARPS>(mine, sums, &total);
    for (int i = 0; i < BINS_EACH; i++) {
        const mass_t here = bin_sum(m, top - i, limb_bits, limbs);
        if (before < want && want <= before + here)
            choice = {top - i, before, here};
        before += here;
    }
    __syncthreads();
    const digit_choice chosen = choice;
    __syncthreads();
    return chosen;
}

static __device__ __forceinline__ void add_mass(const row_view &r, mass_t mass, uint32_t bin,
                                                select_memory *m)
{
    const uint32_t mask = (1u << r.limb_bits) - 1u;
    for (int i = 0; i < LIMBS; i++) {
        const uint32_t part = static_cast<uint32_t>(mass >> i * r.limb_bits) & mask;
        if (part != 0)
            atomicAdd(&m->limb[i][bin], part);
    }
}

// Adds to the bins of a digit the kept keys whose higher bits are those of `prefix`: 1 for each
// (one limb), or its mass.
static __device__ void fill_bins(const row_view &r, const bound &keep, int limbs, uint32_t prefix,
                                 int shift, int bits, select_memory *m)
{
    for (int limb = 0; limb < limbs; limb++)
        for (int i = static_cast<int>(threadIdx.x); i < SELECT_BINS; i += LOGIT_THREADS)
            m->limb[limb][i] = 0;
    __syncthreads();
    each_logit(r, [&](int v, float logit) {
        const uint32_t key = order_key(logit);
        const uint32_t higher = shift + bits < 32 ? (key ^ prefix) >> (shift + bits) : 0;
        if (higher != 0 || !is_kept(keep, key, v))
            return;
        const uint32_t bin = key >> shift & ((1u << bits) - 1u);
        if (limbs == 1)
            atomicAdd(&m->limb[0][bin], 1u);
        else
            add_mass(r, mass_of(r, probability(r, logit)), bin, m);
    });
    __syncthreads();
}

// The index of the n-th (from 1) element with this key.
static __device__ int nth_equal(const row_view &r, uint32_t key, mass_t n)
{
    __shared__ int sums[LOGIT_WARPS];
    __shared__ int found;
    if (threadIdx.x == 0)
        found = INT_MAX;
    mass_t before = 0;
    for (int first = 0; first < r.V && before < n; first += LOGIT_THREADS) {
        const int v = first + static_cast<int>(threadIdx.x);
        const int hit = v < r.V && order_key(r.logits[v]) == key;
        int total;
        const int rank = block_exclusive_scan<LOGIT_WARPS>(hit, sums, &total);
        if (hit && before + rank + 1 == n)
            found = v;
        before += total;
    }
    __syncthreads();
    const int index = found;
    __syncthreads();
    return index;
}

// The bound of the shortest prefix of what `keep` keeps whose count (limbs 1) or mass (limbs LIMBS)
// reaches `want`, which is at least 1 and at most the whole.
static __device__ bound select_prefix(const row_view &r, const bound &keep, int limbs, mass_t want,
                                      select_memory *m)
{
    uint32_t key = 0;
    digit_choice c = {};
    for (int shift = 32, bits = SELECT_BITS; shift > 0;) {
        bits = bits < shift ? bits : shift;
        shift -= bits;
        fill_bins(r, keep, limbs, key, shift, bits, m);
        c = choose_bin(m, r.limb_bits, limbs, want);
        key |= static_cast<uint32_t>(c.bin) << shift;
        want -= c.before;
    }
    // Of the elements equal to the key, each giving the same, as many as give what is missing.
    mass_t each = limbs == 1 ? 1 : mass_of(r, probability(r, key_value(key)));
    each = each > 0 ? each : 1;
    const mass_t missing = (want + each - 1) / each;
    if (missing * each < c.here)
        return {key, nth_equal(r, key, missing)};
    return {key, key == keep.key ? keep.last : INT_MAX};
}

static __device__ mass_t kept_mass(const row_view &r, const bound &keep)
{
    __shared__ mass_t sums[LOGIT_WARPS];
    mass_t sum = 0;
    each_logit(r, [&](int v, float logit) {
        if (is_kept(keep, order_key(logit), v))
            sum += mass_of(r, probability(r, logit));
    });
    return block_total<LOGIT_WARPS>(sum, sums);
}

// top_k, then top_p of what it leaves. min_p above 1 leaves the first alone.
static __device__ bound truncate(const row_view &r, const struct sample_row &row, select_memory *m)
{
    bound keep = {0, INT_MAX};
    const int k = row.min_p > 1.0f ? 1 : row.top_k;
    if (k > 0 && k < r.V)
        keep = select_prefix(r, keep, 1, static_cast<mass_t>(k), m);
    if (row.top_p >= 1.0f)
        return keep;
    const mass_t total = kept_mass(r, keep);
    if (total == 0)
        return keep;
    const double share = ceil(static_cast<double>(row.top_p) * static_cast<double>(total));
    mass_t want = share > 1.0 ? static_cast<mass_t>(share) : 1;
    want = want < total ? want : total;
    return select_prefix(r, keep, LIMBS, want, m);
}

// ---- the draw

// The mass of column v if it is kept.
static __device__ __forceinline__ mass_t drawn_mass(const row_view &r, const bound &keep,
                                                    float min_p, int v, int *count)
{
    const float logit = v < r.V ? r.logits[v] : 0.0f;
    if (v >= r.V || !is_kept(keep, order_key(logit), v))
        return 0;
    const float p = probability(r, logit);
    if (p < min_p)
        return 0;
    ++*count;
    return mass_of(r, p);
}

struct draw_result {
    int token, kept;
};

static __host__ __device__ int draw_spans(int V) { return (V + DRAW_SPAN - 1) / DRAW_SPAN; }

// spans[i]: the kept mass of DRAW_SPAN columns; returns how many columns are kept.
static __device__ int sum_spans(const row_view &r, const bound &keep, float min_p, mass_t *spans)
{
    __shared__ int sums[LOGIT_WARPS];
    int kept = 0;
    for (int first = warp_index() * DRAW_SPAN; first < r.V; first += LOGIT_WARPS * DRAW_SPAN) {
        mass_t sum = 0;
#pragma unroll
        for (int i = 0; i < DRAW_SPAN; i += WARP)
            sum += drawn_mass(r, keep, min_p, first + i + lane_index(), &kept);
        sum = warp_total(sum);
        if (lane_index() == 0)
            spans[first / DRAW_SPAN] = sum;
    }
    return block_total<LOGIT_WARPS>(kept, sums);
}

// The token of a span where the mass passes `want`; one warp.
static __device__ int draw_in_span(const row_view &r, const bound &keep, float min_p, int first,
                                   mass_t want)
{
    mass_t before = 0;
    for (int i = 0; i < DRAW_SPAN; i += WARP) {
        int unused = 0;
        const mass_t mass = drawn_mass(r, keep, min_p, first + i + lane_index(), &unused);
        const mass_t sum = before + warp_inclusive_scan(mass);
        const unsigned int passed = __ballot_sync(ALL_LANES, sum > want);
        if (passed != 0)
            return first + i + __ffs(passed) - 1;
        before = __shfl_sync(ALL_LANES, sum, WARP - 1);
    }
    return first;
}

// The token where the cumulated probability of the kept, by ascending index, passes u.
static __device__ draw_result draw(const row_view &r, const bound &keep,
                                   const struct sample_row &row, mass_t *spans)
{
    __shared__ mass_t sums[LOGIT_WARPS];
    __shared__ mass_t want_in_span;
    __shared__ int chosen, token;
    const int count = draw_spans(r.V);
    const float min_p = row.min_p > 1.0f ? 0.0f : row.min_p;
    if (threadIdx.x == 0) {
        chosen = 0;
        want_in_span = 0;
    }
    const int kept = sum_spans(r, keep, min_p, spans);
    mass_t total = 0, before = 0;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += LOGIT_THREADS)
        total += spans[i];
    total = block_total<LOGIT_WARPS>(total, sums);
    const double passed = row.u * static_cast<double>(total);
    mass_t want = passed > 0.0 ? static_cast<mass_t>(passed) : 0;
    want = want < total ? want : total - 1;
    for (int first = 0; total > 0 && first < count; first += LOGIT_THREADS) {
        const int i = first + static_cast<int>(threadIdx.x);
        const mass_t mine = i < count ? spans[i] : 0;
        mass_t all;
        const mass_t sum = before + block_exclusive_scan<LOGIT_WARPS>(mine, sums, &all);
        if (sum <= want && want < sum + mine) {
            chosen = i;
            want_in_span = want - sum;
        }
        before += all;
    }
    __syncthreads();
    if (warp_index() == 0) {
        const int v = draw_in_span(r, keep, min_p, chosen * DRAW_SPAN, want_in_span);
        if (lane_index() == 0)
            token = v;
    }
    __syncthreads();
    return {token, kept};
}

// The index of the largest, the lowest of equals.
static __device__ int largest_logit(const row_view &r)
{
    __shared__ mass_t largest[LOGIT_WARPS];
    mass_t best = 0; // key, then the lower index
    each_logit(r, [&](int v, float logit) {
        const mass_t rank = static_cast<mass_t>(order_key(logit)) << 32 | (0xffffffffu - v);
        best = rank > best ? rank : best;
    });
    for (int d = WARP / 2; d > 0; d /= 2) {
        const mass_t other = __shfl_xor_sync(ALL_LANES, best, d);
        best = other > best ? other : best;
    }
    if (lane_index() == 0)
        largest[warp_index()] = best;
    __syncthreads();
    for (int w = 0; w < LOGIT_WARPS; w++)
        best = largest[w] > best ? largest[w] : best;
    return static_cast<int>(0xffffffffu - static_cast<uint32_t>(best));
}

static __global__ void __launch_bounds__(LOGIT_THREADS) sample_kernel(struct sample_args a)
{
    const int b = static_cast<int>(blockIdx.x);
    const float *logits = a.logits + static_cast<size_t>(b) * a.V;
    const struct sample_row row = a.rows[b];
    const float inverse = inverse_tau(row.temperature);
    const row_stats s = block_row_stats(logits, a.V, inverse, dynamic_shared<float>());
    const row_view r = view_of(logits, a.V, inverse, s.max);
    draw_result drawn = {0, a.V};
    if (row.given) {
        drawn.token = row.token;
    } else if (row.temperature == 0.0f) {
        drawn.token = largest_logit(r);
    } else {
        const bound keep = truncate(r, row, dynamic_shared<select_memory>());
        drawn = draw(r, keep, row, dynamic_shared<mass_t>());
    }
    if (threadIdx.x > 0)
        return;
    a.token[b] = drawn.token;
    a.logprob[b] = log_probability(s, scaled_logit(logits[drawn.token], inverse));
    a.entropy[b] = s.entropy;
    if (a.truncated)
        a.truncated[b] = drawn.kept < a.V;
}

extern "C" int cuda_sample(struct device *dev, const struct sample_args *a)
{
    assert(a->B == 0 || a->V > 0);
    size_t shared = row_stats_bytes(a->V);
    const size_t spans = draw_spans(a->V) * sizeof(mass_t);
    shared = shared > spans ? shared : spans;
    shared = shared > sizeof(select_memory) ? shared : sizeof(select_memory);
    return launch(dev, a->B, LOGIT_THREADS, shared, sample_kernel, *a);
}
