// SPDX-License-Identifier: Apache-2.0
// dW += dY^T X in float32, by the tiles of matmul_f32.cuh: the terms are the tokens of a group,
// counted from its first.
#include "kernels/cuda/matmul_f32.cuh"
#include "kernels/cuda/matmul_grad.cuh"

// Terms of one operand: `cols` columns from a tile's corner on, of rows `ld` apart.
struct token_columns {
    const float *x; // [tokens, cols]
    size_t ld;
    int cols;
};

template <class Tile, bool ALIGNED, int WIDTH>
__device__ __forceinline__ void load_tokens(float *to, int pitch, const token_columns &from,
                                            int token, int tokens)
{
    constexpr int VALUES = ALIGNED ? 4 : 1, ACROSS = WIDTH / VALUES;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < F32_DEPTH * ACROSS; i += Tile::threads) {
        const int t = i / ACROSS, col = i % ACROSS * VALUES;
        const int left = token + t < tokens ? from.cols - col : 0;
        const int given = left < 0 ? 0 : left < VALUES ? left : VALUES;
        const float *x = given ? from.x + static_cast<size_t>(token + t) * from.ld + col : from.x;
        float *y = to + t * pitch + col;
        const int bytes = given * static_cast<int>(sizeof(float));
        if (ALIGNED)
            cp_async_16_zero(y, x, bytes);
        else
            cp_async_4_zero(y, x, bytes);
    }
}

template <class Tile, bool ALIGNED> struct grad_loader {
    token_columns dy, x; // from the split's first token on
    int tokens;

    __device__ void operator()(float *stage, int t) const
    {
        load_tokens<Tile, ALIGNED, Tile::rows>(stage, Tile::pitch_a, dy, t, tokens);
        load_tokens<Tile, ALIGNED, Tile::cols>(stage + F32_DEPTH * Tile::pitch_a, Tile::cols, x, t,
                                               tokens);
    }
};

// Block (tile, g, split).
template <class Tile, bool ALIGNED>
__global__ void __launch_bounds__(Tile::threads) grad_tiles(grad_job job)
{
    const matmul_grad_args &args = job.args;
    const int across = div_up(args.k, Tile::cols), tile = static_cast<int>(blockIdx.x);
    const int row = tile / across * Tile::rows, col = tile % across * Tile::cols;
    const int g = static_cast<int>(blockIdx.y);
    const row_range range = split_tokens(job, g, static_cast<int>(blockIdx.z));
    if (range.begin == range.end && grad_adds(job))
        return;
    const size_t start_dy = args.segments ? 0 : g * args.stride_dy;
    const size_t start_x = args.segments ? 0 : g * args.stride_x;
    grad_loader<Tile, ALIGNED> load;
    load.dy.x = static_cast<const float *>(args.dy) + start_dy + range.begin * args.lddy + row;
    load.dy.ld = args.lddy;
    load.dy.cols = args.n - row;
    load.x.x = static_cast<const float *>(args.x) + start_x + range.begin * args.ldx + col;
    load.x.ld = args.ldx;
    load.x.cols = args.k - col;
    load.tokens = range.end - range.begin;
    float *out = split_output(job, g, static_cast<int>(blockIdx.z)) +
                 static_cast<size_t>(row) * args.k + col;
    const size_t ld = static_cast<size_t>(args.k);
    float total[8][8] = {};
    if (grad_adds(job))
        f32_load<Tile>(out, ld, load.dy.cols, load.x.cols, total);
    f32_product<Tile>(dynamic_shared<float>(), load.tokens, load, total);
    f32_store<Tile>(out, ld, load.dy.cols, load.x.cols, false, total);
}

// ---- host side

template <class Tile> static int launch_tiles(struct device *dev, const struct matmul_grad_args *a)
{
    const int tiles = div_up(a->n, Tile::rows) * div_up(a->k, Tile::cols);
    grad_job job;
    int rc = grad_job_init(&job, dev, a, tiles);
    if (rc != 0)
        return rc;
    const dim3 grid(tiles, a->batch, job.splits);
    const bool aligned = aligned_rows(static_cast<const float *>(a->dy), a->lddy, a->stride_dy) &&
                         aligned_rows(static_cast<const float *>(a->x), a->ldx, a->stride_x);
    rc = launch(dev, grid, dim3(Tile::threads), Tile::shared_bytes,
                aligned ? grad_tiles<Tile, true> : grad_tiles<Tile, false>, job);
    return rc == 0 ? grad_add_splits(dev, &job) : rc;
}

int matmul_grad_f32(struct device *dev, const struct matmul_grad_args *a)
{
    const int narrow = 64;
    if (a->n <= narrow || a->k <= narrow)
        return launch_tiles<f32_tile<2, 1>>(dev, a); // 64 x 64
    return launch_tiles<f32_tile<4, 2>>(dev, a);     // 128 x 128
}
