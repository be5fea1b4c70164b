// SPDX-License-Identifier: Apache-2.0
// dW += dY^T X in bfloat16 by the tiles of matmul_wgmma.cuh: the terms are the tokens of a group,
// counted from its first. Both operands come by tensor maps, in strips of 64 columns whose rows are
// tokens.
#include "kernels/cuda/matmul_grad.cuh"
#include "kernels/cuda/matmul_wgmma.cuh"

// A tile of one group's dW, and the tokens that one split sums up for it.
struct grad_tile {
    row_range tokens;
    int g, split, row, col;
};

// Tiles of one group.
template <class Tile> __host__ __device__ int grad_tiles(const matmul_grad_args &a)
{
    return div_up(a.n, Tile::rows) * div_up(a.k, Tile::cols);
}

// Tiles of all groups and splits.
template <class Tile> __host__ __device__ int grad_tile_count(const grad_job &job)
{
    return grad_tiles<Tile>(job.args) * job.args.batch * job.splits;
}

// A warp's 16 rows of a tile on their way to dW, behind the ring. Of four neighbouring rows each
// begins 32 bytes further in the banks, so that pairs of sums from their lanes meet in none.
template <class Tile> struct grad_staging {
    static constexpr int rows = 16, row_bytes = Tile::cols * static_cast<int>(sizeof(float));
    static constexpr int fourth = rows / 4 * row_bytes + 32, bytes = 4 * fourth;
    static constexpr size_t start = (Tile::shared_bytes + 127) / 128 * 128;
    static constexpr size_t shared_bytes = start + Tile::consumers / WARP * bytes;
    static_assert(row_bytes % 128 == 0, "else the banks differ");

    static __device__ __forceinline__ float *row(unsigned char *shared, int row)
    {
        unsigned char *mine = shared + start + static_cast<int>(threadIdx.x) / WARP * bytes;
        return reinterpret_cast<float *>(mine + row % 4 * fourth + row / 4 * row_bytes);
    }
};

#if HOPPER_CODE

template <class Tile> __device__ __forceinline__ grad_tile grad_tile_at(const grad_job &job, int i)
{
    const int across = div_up(job.args.k, Tile::cols);
    const int tiles = grad_tiles<Tile>(job.args), tile = i % tiles;
    const int split = i / tiles % job.splits, g = i / tiles / job.splits;
    return {split_tokens(job, g, split), g, split, tile / across * Tile::rows,
            tile % across * Tile::cols};
}

__device__ __forceinline__ bool is_nothing(const grad_job &job, const grad_tile &tile)
{
    return tile.tokens.begin == tile.tokens.end && grad_adds(job);
}

// Copies of all tokens of a tile, by one warp, a strip by each lane. Strips that lie outside of dW
// are not copied.
template <class Tile>
__device__ void grad_copy(const grad_job &job, const grad_tile &tile, const tensor_map *dy,
                          const tensor_map *x, int dy_step, int x_step, wgmma_ring<Tile> &ring)
{
    const int left_rows = job.args.n - tile.row, left_cols = job.args.k - tile.col;
    const int rows = left_rows < Tile::rows ? left_rows : Tile::rows;
    const int cols = left_cols < Tile::cols ? left_cols : Tile::cols;
    const int strips = div_up(rows, 64), lane = static_cast<int>(threadIdx.x) % WARP;
    const int bytes = (strips + div_up(cols, 64)) * Tile::strip, c = (lane - strips) * 64;
    for (int t = tile.tokens.begin; t < tile.tokens.end; t += Tile::depth, ring.next()) {
        wgmma_begin_stage<Tile>(ring, bytes);
        if (lane < strips)
            tensor_copy(ring.a() + lane * Tile::strip, dy, tile.row + lane * 64, t,
                        tile.g * dy_step, ring.full());
        else if (c < cols)
            tensor_copy(ring.b() + c / 64 * Tile::strip, x, tile.col + c, t, tile.g * x_step,
                        ring.full());
    }
}

// Clears the rows of a stage that belong to the tokens of another group or split.
template <class Tile> struct grad_clear {
    int tokens;

    __device__ __forceinline__ void operator()(const wgmma_ring<Tile> &ring, int step) const
    {
        constexpr int STRIPS = (Tile::rows + Tile::cols) / 64, PIECES = WGMMA_ROW / 16;
        const int first = tokens - step * Tile::depth; // row
        if (first >= Tile::depth)
            return;
        for (int i = first * PIECES + static_cast<int>(threadIdx.x); i < Tile::depth * PIECES;
             i += Tile::consumers)
            for (int s = 0; s < STRIPS; s++)
                *reinterpret_cast<uint4 *>(ring.a() + s * Tile::strip + i * 16) =
                    make_uint4(0, 0, 0, 0);
        fence_async_proxy();
        const int consumers_barrier = 1;
        named_barrier(consumers_barrier, Tile::consumers);
    }
};

// Leaves the sums to bulk copies, a row each, which run under the next tile's product. The rows are
// aligned to 16 bytes.
template <class Tile>
__device__ __forceinline__ void grad_store_late(const wgmma_result<float> &r, unsigned char *shared,
                                                const float (&sum)[Tile::sums])
{
    using staging = grad_staging<Tile>;
    const int thread = static_cast<int>(threadIdx.x), lane = thread % WARP;
    bulk_wait_read();
    __syncwarp();
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float2 *to = reinterpret_cast<float2 *>(staging::row(shared, lane / 4 + 8 * h)) + lane % 4;
#pragma unroll
        for (int j = 0; j < Tile::cols / 8; j++)
            to[4 * j] = make_float2(sum[4 * j + 2 * h], sum[4 * j + 2 * h + 1]);
    }
    fence_async_proxy();
    __syncwarp();
    const int row = thread / WARP * staging::rows + lane;
    if (lane < staging::rows && row < r.rows) {
        float *const to = r.c + row * r.ldc;
        const float *const from = staging::row(shared, lane);
        const int bytes = (r.cols < Tile::cols ? r.cols : Tile::cols) * 4;
        if (r.accumulate)
            bulk_add(to, from, bytes);
        else
            bulk_store(to, from, bytes);
    }
    bulk_commit();
}

// LATE: by bulk copies.
template <class Tile, bool LATE>
__device__ void grad_sum(const grad_job &job, const grad_tile &tile, bool vectors,
                         wgmma_ring<Tile> &ring)
{
    const int tokens = tile.tokens.end - tile.tokens.begin;
    const size_t ld = static_cast<size_t>(job.args.k);
    float sum[Tile::sums] = {};
    wgmma_product<Tile, true>(ring, div_up(tokens, Tile::depth), grad_clear<Tile>{tokens}, sum);
    float *out = split_output(job, tile.g, tile.split) + tile.row * ld + tile.col;
    const wgmma_result<float> result = {
        out, ld, job.args.n - tile.row, job.args.k - tile.col, grad_adds(job), vectors};
    if (LATE)
        grad_store_late<Tile>(result, ring.shared, sum);
    else
        wgmma_store<Tile>(result, sum);
}

#endif // HOPPER_CODE

// The grid stays, and each block goes from tile to tile. dy_step, x_step: 0 where all groups have
// the same one.
template <class Tile, bool LATE>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks)
    wgmma_grad_tiles(grad_job job, const __grid_constant__ tensor_map dy,
                     const __grid_constant__ tensor_map x, int dy_step, int x_step, bool vectors)
{
#if HOPPER_CODE
    unsigned char *shared = dynamic_shared<unsigned char>();
    const int count = grad_tile_count<Tile>(job), step = static_cast<int>(gridDim.x);
    const bool produces = threadIdx.x >= Tile::consumers;
    wgmma_ring<Tile> ring = {shared, 0, produces ? 1u : 0u};
    wgmma_ring_init<Tile>(shared);
    __syncthreads();
    for (int i = static_cast<int>(blockIdx.x); i < count; i += step) {
        const grad_tile tile = grad_tile_at<Tile>(job, i);
        if (is_nothing(job, tile))
            continue;
        if (produces)
            grad_copy<Tile>(job, tile, &dy, &x, dy_step, x_step, ring);
        else
            grad_sum<Tile, LATE>(job, tile, vectors, ring);
    }
    if (LATE && !produces)
        bulk_wait_read();
#endif
}

// ---- host side

// One matrix for all groups?
static bool is_one(const struct matmul_grad_args *a, size_t stride)
{
    return a->segments || a->batch == 1 || stride == 0;
}

static int map_tokens(struct device *dev, const struct matmul_grad_args *a, tensor_map *map,
                      const void *p, int width, size_t ld, size_t stride, int box_rows)
{
    return tensor_map_init(dev, map, static_cast<const bf16 *>(p), width, a->m,
                           is_one(a, stride) ? 1 : a->batch, ld, stride, box_rows);
}

template <class Tile, bool LATE>
static int launch_grad(struct device *dev, const struct matmul_grad_args *a)
{
    const int tiles = grad_tiles<Tile>(*a);
    grad_job job;
    tensor_map dy, x;
    int rc = grad_job_init(&job, dev, a, tiles);
    const struct matmul_grad_args *b = &job.args;
    if (rc == 0)
        rc = map_tokens(dev, b, &dy, b->dy, b->n, b->lddy, b->stride_dy, Tile::depth);
    if (rc == 0)
        rc = map_tokens(dev, b, &x, b->x, b->k, b->ldx, b->stride_x, Tile::depth);
    if (rc != 0)
        return rc;
    const size_t ld = static_cast<size_t>(b->k), one = ld * static_cast<size_t>(b->n);
    const bool vectors = job.splits == 1 ? wgmma_vectors(b->dw, ld, b->stride_dw)
                                         : wgmma_vectors(job.partial, ld, one);
    const int count = grad_tile_count<Tile>(job), at_once = dev->cuda->num_sms * Tile::blocks;
    rc = launch(dev, dim3(count < at_once ? count : at_once), dim3(Tile::threads),
                LATE ? grad_staging<Tile>::shared_bytes : Tile::shared_bytes,
                wgmma_grad_tiles<Tile, LATE>, job, dy, x, is_one(b, b->stride_dy) ? 0 : 1,
                is_one(b, b->stride_x) ? 0 : 1, vectors);
    return rc == 0 ? grad_add_splits(dev, &job) : rc;
}

int matmul_grad_wgmma(struct device *dev, const struct matmul_grad_args *a)
{
    using wide = wgmma_tile<2, 256, 4, 1>;     // 128 x 256
    using late = wgmma_tile<2, 256, 4, 1, 32>; // the same, with room for a tile of results
    using middle = wgmma_tile<2, 128, 3, 2>;   // 128 x 128
    const int many = 2048; // tokens of a group, from where the sums outweigh dW itself
    const int tokens = a->segments ? div_up(a->m, a->batch) : a->m;
    const bool full = grad_tiles<wide>(*a) * a->batch >= dev->cuda->num_sms;
    // Stores without a read are faster from registers, additions in memory by bulk copies.
    if (tokens >= many || (full && a->overwrite))
        return launch_grad<wide, false>(dev, a);
    if (full && wgmma_vectors(a->dw, static_cast<size_t>(a->k), a->stride_dw))
        return launch_grad<late, true>(dev, a);
    return launch_grad<middle, false>(dev, a);
}
