// SPDX-License-Identifier: Apache-2.0
// Latent attention by warpgroup matrix instructions (wgmma), for Hopper and the one width that
// DeepSeek's models have. Tiles of 64 rows in shared memory as wgmma reads them: strips of 64
// columns, in each a row is 128 bytes, its 16-byte vectors permuted by the row's low three bits.
#ifndef KERNELS_CUDA_ATTENTION_WGMMA_CUH
#define KERNELS_CUDA_ATTENTION_WGMMA_CUH

#include "kernels/cuda/attention_bf16.cuh"
#include "kernels/cuda/attention_forward.cuh"
#include "kernels/cuda/hopper.cuh"

namespace attention
{

constexpr int WIDE_R = 512, WIDE_DR = 64, WIDE_D = WIDE_R + WIDE_DR;
constexpr int WIDE_ROWS = 64; // of a tile: queries as well as keys
constexpr int DECODE_ROWS = 16;
constexpr int STRIP_COLUMNS = 64, ROW_BYTES = 128;
constexpr int EIGHT_ROWS = 8 * ROW_BYTES; // bytes
constexpr int STRIP_BYTES = WIDE_ROWS * ROW_BYTES;
constexpr int VALUE_STRIPS = WIDE_R / STRIP_COLUMNS, STRIPS = WIDE_D / STRIP_COLUMNS;
constexpr int TILE_BYTES = STRIPS * STRIP_BYTES;
static_assert(WIDE_ROWS == KEYS, "tiles of rows and of keys look the same");

// Of the forward passes: keys come in pairs of blocks, two warpgroups multiply and one copies.
constexpr int PAIR = 2 * KEYS, HALF_STRIPS = VALUE_STRIPS / 2;
constexpr int WIDE_CONSUMERS = 2 * WARPGROUP, WIDE_THREADS = WIDE_CONSUMERS + WARPGROUP;
constexpr int BOTH_MAX = 1, BOTH_WEIGHTS = 2, BOTH_SUMS = 3; // barriers of the two warpgroups
static_assert(SPLIT_KEYS % PAIR == 0, "a split is whole pairs");

// The passes (attention_wgmma.cu, attention_grad_wgmma.cu), for the shapes that wide_shape allows,
// which looks at nothing that a batch could change.
int attend_wide(struct device *dev, const struct attention_args *a);
// The same bits for tiles of DECODE_ROWS rows (attention_decode_wgmma.cu).
int attend_decode(struct device *dev, const struct attention_args *a);
int attend_grad_wide(struct device *dev, const struct attention_grad_args *a);
inline bool wide_shape(const struct device *dev, const struct attention_shape *s)
{
    const int hopper = 90;
    return dev->cuda->arch == hopper && s->Dk == WIDE_D && s->Dv == WIDE_R && s->kv_heads == 1 &&
           s->value_at == 0;
}

// Rows of a strip as an operand whose terms are columns, 16 terms from `column` on; and as one
// whose terms are rows, from `row` on.
__device__ __forceinline__ uint64_t strip_rows(const unsigned char *strip, int column)
{
    return wgmma_advance(wgmma_operand(strip, EIGHT_ROWS, STRIP_BYTES),
                         column * static_cast<int>(sizeof(bf16)));
}
__device__ __forceinline__ uint64_t strip_columns(const unsigned char *strip, int row)
{
    return wgmma_advance(wgmma_operand(strip, EIGHT_ROWS, STRIP_BYTES), row * ROW_BYTES);
}

// Where 16-byte vector v (of 8) of a row stands in its strip.
__device__ __forceinline__ unsigned char *strip_vector(unsigned char *strip, int row, int v)
{
    return strip + row * ROW_BYTES + ((v ^ (row & 7)) << 4);
}

// Where a warpgroup copies rows from: `valid` rows of WIDTH elements; later ones become zero. ONCE:
// rows that hardly anything else will read soon.
template <int WIDTH, bool ONCE = false> struct strip_source {
    const bf16 *p;
    int valid;

    __device__ __forceinline__ bool aligned() const
    {
        return reinterpret_cast<uintptr_t>(p) % 16 == 0;
    }

    // Starts copying strips [first, first + COUNT) of ROWS rows to `strips`, one after the other.
    template <int COUNT, int ROWS = WIDE_ROWS>
    __device__ __forceinline__ void load(unsigned char *strips, int first) const
    {
        constexpr int BYTES = ROWS * ROW_BYTES; // of a strip
        const int thread = static_cast<int>(threadIdx.x) % WARPGROUP, v = thread % 8;
        constexpr int PASS = WARPGROUP / 8; // rows at a time
        unsigned char *const to = strip_vector(strips, thread / 8, v);
        const bf16 *const from = p + first * STRIP_COLUMNS + v * VECTOR;
        if (!aligned()) {
            for (int i = thread / 8; i < ROWS; i += PASS)
                for (int s = 0; s < COUNT; s++)
                    copy_vector(strip_vector(strips + s * BYTES, i, v),
                                from + (i < valid ? i : 0) * WIDTH + s * STRIP_COLUMNS, i < valid);
            return;
        }
        const uint64_t policy = ONCE ? l2_evict_first() : 0;
#pragma unroll
        for (int i = 0; i < ROWS / PASS; i++) {
            const int row = thread / 8 + i * PASS, bytes = row < valid ? 16 : 0;
            const bf16 *const source = from + (row < valid ? row : 0) * WIDTH;
#pragma unroll
            for (int s = 0; s < COUNT; s++) {
                unsigned char *const at = to + i * PASS * ROW_BYTES + s * BYTES;
                if (ONCE)
                    cp_async_16_zero(at, source + s * STRIP_COLUMNS, bytes, policy);
                else
                    cp_async_16_zero(at, source + s * STRIP_COLUMNS, bytes);
            }
        }
    }

    static __device__ __forceinline__ void copy_vector(unsigned char *to, const bf16 *from,
                                                       bool there)
    {
#pragma unroll 1
        for (int j = 0; j < VECTOR; j++)
            reinterpret_cast<bf16 *>(to)[j] = there ? from[j] : __float2bfloat16_rn(0.0f);
    }
};

// ---- items: tiles or splits of them, from which blocks of threads go to others

struct wide_item {
    tile_rows t; // count 0: there are no more
    int begin, end;
};

// A warp's walk over the items: tiles, or their splits, of the last sequence first, and of its last
// tile, which sees the most keys.
struct item_finder {
    int group = 0, before = 0; // sequences passed, and their items

    // Item `want` of tiles of ROWS rows, which is none before the last one found. False when there
    // are fewer.
    template <int ROWS>
    __device__ __forceinline__ bool find(const forward_plan &plan, int want, wide_item *item)
    {
        const attention_args &a = plan.a;
        const int lane = static_cast<int>(threadIdx.x) % WARP;
        for (; group < a.num_seqs; group += WARP) {
            const int n = a.num_seqs - 1 - group - lane;
            attention_seq seq = {0, 0, 0, 0};
            if (n >= 0)
                seq = a.seqs[n];
            const int tiles = (seq.len * a.shape.H + ROWS - 1) / ROWS;
            const int splits = plan.splits > 1 ? splits_of(seq.pos + seq.len) : 1;
            int upto = tiles * splits;
            for (int d = 1; d < WARP; d *= 2) {
                const int x = __shfl_up_sync(ALL_LANES, upto, static_cast<unsigned int>(d));
                upto += lane >= d ? x : 0;
            }
            const unsigned int reached = __ballot_sync(ALL_LANES, want - before < upto);
            if (reached == 0) {
                before += __shfl_sync(ALL_LANES, upto, WARP - 1);
                continue;
            }
            const int from = __ffs(static_cast<int>(reached)) - 1;
            const int i = want - before - __shfl_sync(ALL_LANES, upto - tiles * splits, from);
            const int of_tile = __shfl_sync(ALL_LANES, splits, from);
            const int tile = __shfl_sync(ALL_LANES, tiles, from) - 1 - i / of_tile;
            seq.query = __shfl_sync(ALL_LANES, seq.query, from);
            seq.len = __shfl_sync(ALL_LANES, seq.len, from);
            seq.pos = __shfl_sync(ALL_LANES, seq.pos, from);
            seq.block = __shfl_sync(ALL_LANES, seq.block, from);
            item->t = rows_of_tile(seq, tile, ROWS, a.shape, 0);
            item->begin = i % of_tile * SPLIT_KEYS;
            item->end = item->t.keys;
            if (plan.splits > 1 && item->begin + SPLIT_KEYS < item->end)
                item->end = item->begin + SPLIT_KEYS;
            return true;
        }
        return false;
    }
};

// Item i of block b, of as many blocks as there are: to and fro, so that a block's items are large
// and small by turns.
__device__ __forceinline__ int wide_item_of(int i)
{
    const int blocks = static_cast<int>(gridDim.x), b = static_cast<int>(blockIdx.x);
    return i * blocks + (i % 2 ? blocks - 1 - b : b);
}

// ---- the softmax, in both forward passes the same; unit: scale log2(e)

__device__ __forceinline__ float softmax_unit(float scale) { return scale * 1.44269504088896341f; }

// What sums over keys are scaled by when the largest score moves from `was` to `now`.
__device__ __forceinline__ float kept_part(float was, float now, float unit)
{
    return was == -INFINITY ? 0.0f : exp2_approx((was - now) * unit);
}

// A weight is 2^(unit score + shift). A row that sees nothing yet: all scores are -infinity, and so
// all weights 0.
__device__ __forceinline__ float weight_shift(float max, float unit)
{
    return max == -INFINITY ? 0.0f : -max * unit;
}

#if HOPPER_CODE
// Each thread arrives when what it has copied has come; aligned: all of it was.
__device__ __forceinline__ void arrive_strips(mbarrier *done, bool aligned)
{
    if (aligned) {
        cp_async_arrive(done);
        return;
    }
    cp_async_commit();
    cp_async_wait<0>();
    fence_async_proxy();
    mbarrier_arrive(done);
}

// What other threads' copies by cp.async have brought may be read by wgmma.
__device__ __forceinline__ void wait_strips(mbarrier *full, uint32_t phase)
{
    mbarrier_wait(full, phase);
    fence_async_proxy();
}

// When all lanes have done what the barrier's other side waits for.
__device__ __forceinline__ void arrive_warp(mbarrier *b)
{
    __syncwarp();
    if (threadIdx.x % WARP == 0)
        mbarrier_arrive(b);
}
#endif

} // namespace attention

#endif
