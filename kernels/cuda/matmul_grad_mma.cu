// SPDX-License-Identifier: Apache-2.0
// dW += dY^T X in bfloat16, by the tiles of matmul_mma.cuh: the terms are the tokens of a group,
// counted from its first.
#include "kernels/cuda/matmul_grad.cuh"
#include "kernels/cuda/matmul_mma.cuh"

// Columns of one operand, from a tile's corner and a split's first token on.
struct mma_columns {
    const bf16 *x; // [tokens, cols]
    size_t ld;
    int cols;
};

template <class Tile, int WIDTH>
__device__ __forceinline__ void load_strips(bf16 *to, const mma_columns &from, int token,
                                            int tokens)
{
    constexpr int ACROSS = WIDTH / MMA_PIECE, PIECES = 64 / MMA_PIECE;
    const int thread = static_cast<int>(threadIdx.x), piece = thread % ACROSS;
    const int col = piece * MMA_PIECE, left = from.cols - col;
    const int given = left < 0 ? 0 : left < MMA_PIECE ? left : MMA_PIECE;
    to += piece / PIECES * MMA_STRIP;
#pragma unroll 4
    for (int t = thread / ACROSS; t < MMA_DEPTH; t += Tile::threads / ACROSS) {
        const int bytes = token + t < tokens ? given * static_cast<int>(sizeof(bf16)) : 0;
        const bf16 *x = from.x + static_cast<size_t>(token + t) * from.ld + col;
        cp_async_16_zero(to + t * 64 + swizzled_piece(t, piece % PIECES) * MMA_PIECE,
                         bytes ? x : from.x, bytes);
    }
}

template <class Tile> struct mma_grad_loader {
    mma_columns dy, x;
    int tokens;

    __device__ void operator()(bf16 *stage, int t) const
    {
        load_strips<Tile, Tile::rows>(stage, dy, t, tokens);
        load_strips<Tile, Tile::cols>(stage + MMA_DEPTH * Tile::rows, x, t, tokens);
    }
};

// A pair of sums to its place, after what it starts from.
struct grad_put {
    float *out;
    size_t ld;
    int rows, cols;
    bool add;

    __device__ __forceinline__ void operator()(int row, int col, float x, float y) const
    {
        float *to = out + static_cast<size_t>(row) * ld + col;
        if (row < rows && col < cols)
            to[0] = add ? to[0] + x : x;
        if (row < rows && col + 1 < cols)
            to[1] = add ? to[1] + y : y;
    }
};

// Block (tile, g, split).
template <class Tile> __global__ void __launch_bounds__(Tile::threads) mma_grad_tiles(grad_job job)
{
    const matmul_grad_args &args = job.args;
    const int across = div_up(args.k, Tile::cols), tile = static_cast<int>(blockIdx.x);
    const int row = tile / across * Tile::rows, col = tile % across * Tile::cols;
    const int g = static_cast<int>(blockIdx.y), split = static_cast<int>(blockIdx.z);
    const row_range range = split_tokens(job, g, split);
    if (range.begin == range.end && grad_adds(job))
        return;
    const size_t start_dy = args.segments ? 0 : g * args.stride_dy;
    const size_t start_x = args.segments ? 0 : g * args.stride_x;
    mma_grad_loader<Tile> load;
    load.dy.x = static_cast<const bf16 *>(args.dy) + start_dy + range.begin * args.lddy + row;
    load.dy.ld = args.lddy;
    load.dy.cols = args.n - row;
    load.x.x = static_cast<const bf16 *>(args.x) + start_x + range.begin * args.ldx + col;
    load.x.ld = args.ldx;
    load.x.cols = args.k - col;
    load.tokens = range.end - range.begin;
    float sum[Tile::row_tiles][Tile::col_tiles][4] = {};
    mma_product<Tile, mma_strips>(dynamic_shared<bf16>(), load.tokens, load, sum);
    const size_t ld = static_cast<size_t>(args.k);
    const grad_put put = {split_output(job, g, split) + row * ld + col, ld, load.dy.cols,
                          load.x.cols, grad_adds(job)};
    mma_each_pair<Tile>(sum, put);
}

// ---- host side

template <class Tile> static int launch_tiles(struct device *dev, const struct matmul_grad_args *a)
{
    const int tiles = div_up(a->n, Tile::rows) * div_up(a->k, Tile::cols);
    grad_job job;
    int rc = grad_job_init(&job, dev, a, tiles);
    if (rc == 0)
        rc = launch(dev, dim3(tiles, a->batch, job.splits), dim3(Tile::threads), Tile::shared_bytes,
                    mma_grad_tiles<Tile>, job);
    return rc == 0 ? grad_add_splits(dev, &job) : rc;
}

int matmul_grad_mma(struct device *dev, const struct matmul_grad_args *a)
{
    const int narrow = 64;
    if (a->n <= narrow || a->k <= narrow)
        return launch_tiles<mma_tile<2, 2, 2, 4, 4>>(dev, a); // 64 x 64
    return launch_tiles<mma_tile<2, 4, 4, 4, 3>>(dev, a);     // 128 x 128
}
