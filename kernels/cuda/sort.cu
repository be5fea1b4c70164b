// SPDX-License-Identifier: Apache-2.0
// Theory of operation. The items are cut into tiles, one block each. The first kernel counts the
// buckets of each tile, the second turns every bucket's counts into the number of items in earlier
// tiles and its total, the third places the items: a bucket starts after the totals of those
// before it, a tile's part of it after those of earlier tiles, a warp's after those of earlier
// warps, and a lane's after those of earlier lanes. A single tile needs the third kernel alone.
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/sort.cuh"

constexpr int SORT_THREADS = 256;
constexpr int SORT_WARPS = SORT_THREADS / WARP;
constexpr int SORT_ROUNDS = 8; // items of each lane
constexpr int SORT_WARP_ITEMS = SORT_ROUNDS * WARP;
constexpr int SORT_TILE = SORT_WARPS * SORT_WARP_ITEMS;

static unsigned int tiles_of(const struct bucket_sort *s)
{
    return blocks_for(static_cast<size_t>(s->n), SORT_TILE);
}

size_t bucket_sort_scratch(const struct bucket_sort *s)
{
    return static_cast<size_t>(s->buckets) * (tiles_of(s) + 1);
}

static __device__ __forceinline__ int item_at(const struct bucket_sort &s, int p)
{
    return s.order ? s.order[p] : p;
}

static __device__ __forceinline__ int bucket_of(const struct bucket_sort &s, int item)
{
    return s.keys[item] >> s.shift & s.mask;
}

// counts [buckets, tiles]
static __global__ void __launch_bounds__(SORT_THREADS)
    sort_count_kernel(struct bucket_sort s, int *counts)
{
    int *here = dynamic_shared<int>();
    for (int b = static_cast<int>(threadIdx.x); b < s.buckets; b += SORT_THREADS)
        here[b] = 0;
    __syncthreads();
    const int first = static_cast<int>(blockIdx.x) * SORT_TILE + static_cast<int>(threadIdx.x);
    for (int i = 0; i < SORT_TILE && first + i < s.n; i += SORT_THREADS)
        atomicAdd(&here[bucket_of(s, item_at(s, first + i))], 1);
    __syncthreads();
    for (int b = static_cast<int>(threadIdx.x); b < s.buckets; b += SORT_THREADS)
        counts[static_cast<size_t>(b) * gridDim.x + blockIdx.x] = here[b];
}

// Turns the counts of bucket blockIdx.x into sums over the earlier tiles.
static __global__ void __launch_bounds__(SORT_THREADS)
    sort_scan_kernel(int *counts, int tiles, int *totals)
{
    __shared__ int sums[SORT_WARPS];
    int *row = counts + static_cast<size_t>(blockIdx.x) * tiles;
    int before = 0;
    for (int first = 0; first < tiles; first += SORT_THREADS) {
        const int i = first + static_cast<int>(threadIdx.x);
        int total;
        const int sum = block_exclusive_scan<SORT_WARPS>(i < tiles ? row[i] : 0, sums, &total);
        if (i < tiles)
            row[i] = before + sum;
        before += total;
    }
    if (threadIdx.x == 0)
        totals[blockIdx.x] = before;
}

// count[w buckets + b]: the items of the bucket in the warp's part of the tile.
static __device__ void count_warps(const struct bucket_sort &s, int first, int *count)
{
    for (int i = static_cast<int>(threadIdx.x); i < SORT_WARPS * s.buckets; i += SORT_THREADS)
        count[i] = 0;
    __syncthreads();
    for (int i = 0; i < SORT_WARP_ITEMS; i += WARP)
        if (first + i + lane_index() < s.n)
            atomicAdd(&count[warp_index() * s.buckets +
                             bucket_of(s, item_at(s, first + i + lane_index()))],
                      1);
    __syncthreads();
}

// Turns counts into the slots where each warp's items start. counts, totals: of the tiles, or NULL
// for a single one.
static __device__ void start_warps(const struct bucket_sort &s, const int *counts,
                                   const int *totals, int *count)
{
    __shared__ int sums[SORT_WARPS];
    int before = 0; // items of earlier buckets
    for (int first = 0; first < s.buckets; first += SORT_THREADS) {
        const int b = first + static_cast<int>(threadIdx.x);
        int mine = 0, total;
        if (b < s.buckets && totals)
            mine = totals[b];
        for (int w = 0; b < s.buckets && !totals && w < SORT_WARPS; w++)
            mine += count[w * s.buckets + b];
        int slot = before + block_exclusive_scan<SORT_WARPS>(mine, sums, &total);
        before += total;
        if (b >= s.buckets)
            continue;
        if (s.segments && blockIdx.x == 0)
            s.segments[b] = slot;
        if (totals)
            slot += counts[static_cast<size_t>(b) * gridDim.x + blockIdx.x];
        for (int w = 0; w < SORT_WARPS; w++) {
            const int n = count[w * s.buckets + b];
            count[w * s.buckets + b] = slot;
            slot += n;
        }
    }
    if (s.segments && blockIdx.x == 0 && threadIdx.x == 0)
        s.segments[s.buckets] = s.n;
    __syncthreads();
}

static __global__ void __launch_bounds__(SORT_THREADS)
    sort_place_kernel(struct bucket_sort s, const int *counts, const int *totals)
{
    int *start = dynamic_shared<int>();
    const int lane = lane_index();
    const int first = static_cast<int>(blockIdx.x) * SORT_TILE + warp_index() * SORT_WARP_ITEMS;
    count_warps(s, first, start);
    start_warps(s, counts, totals, start);
    for (int i = 0; i < SORT_WARP_ITEMS; i += WARP) {
        const int p = first + i + lane;
        const bool live = p < s.n;
        const int item = live ? item_at(s, p) : 0;
        const int bucket = live ? bucket_of(s, item) : -1;
        const unsigned int peers = __match_any_sync(ALL_LANES, bucket);
        const int rank = __popc(peers & ((1u << lane) - 1u));
        int *next = start + warp_index() * s.buckets + bucket;
        const int slot = live ? *next + rank : 0;
        __syncwarp();
        if (live && peers >> lane == 1u) // the last of its peers
            *next = slot + 1;
        __syncwarp();
        if (!live)
            continue;
        s.sorted[slot] = item;
        if (s.slot)
            s.slot[p] = slot;
    }
}

int bucket_sort_run(struct device *dev, const struct bucket_sort *s, int *scratch)
{
    const unsigned int tiles = tiles_of(s), buckets = static_cast<unsigned int>(s->buckets);
    const size_t shared = buckets * sizeof(int);
    int *counts = scratch, *totals = scratch + static_cast<size_t>(buckets) * tiles;
    if (tiles <= 1)
        return launch(dev, 1, SORT_THREADS, SORT_WARPS * shared, sort_place_kernel, *s, nullptr,
                      nullptr);
    int rc = launch(dev, tiles, SORT_THREADS, shared, sort_count_kernel, *s, counts);
    if (rc == 0)
        rc = launch(dev, buckets, SORT_THREADS, 0, sort_scan_kernel, counts, tiles, totals);
    if (rc == 0)
        rc = launch(dev, tiles, SORT_THREADS, SORT_WARPS * shared, sort_place_kernel, *s, counts,
                    totals);
    return rc;
}
