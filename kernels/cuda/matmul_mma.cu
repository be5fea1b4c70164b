// SPDX-License-Identifier: Apache-2.0
// C = A B in bfloat16 by the tiles of matmul_mma.cuh.
#include "kernels/cuda/logits_sink.cuh"
#include "kernels/cuda/matmul_bf16.cuh"
#include "kernels/cuda/matmul_mma.cuh"

template <class Tile> struct mma_loader {
    const bf16 *a; // row 0 of the tile, [rows,k]
    const bf16 *b; // packed, the panel of the tile's first column
    size_t lda, panel;
    int rows, k, col, cols; // col: of the tile in its panel; cols: of the panels from there on

    __device__ void operator()(bf16 *stage, int l) const
    {
        constexpr int PIECES = MMA_DEPTH / MMA_PIECE;
        const int thread = static_cast<int>(threadIdx.x);
        const int piece = thread % PIECES, left = k - l - piece * MMA_PIECE;
        const int given = left < 0 ? 0 : left < MMA_PIECE ? left : MMA_PIECE;
#pragma unroll 4
        for (int r = thread / PIECES; r < Tile::rows; r += Tile::threads / PIECES) {
            const int bytes = r < rows ? given * static_cast<int>(sizeof(bf16)) : 0;
            const bf16 *from = a + static_cast<size_t>(r) * lda + (l + piece * MMA_PIECE);
            cp_async_16_zero(stage + r * MMA_DEPTH + swizzled_piece(r, piece) * MMA_PIECE,
                             bytes ? from : a, bytes);
        }
        bf16 *to = stage + Tile::rows * MMA_DEPTH + piece * MMA_PIECE;
        const bf16 *block = b + static_cast<size_t>(l) * PACK + piece * MMA_PIECE;
#pragma unroll 4
        for (int j = thread / PIECES; j < Tile::cols; j += Tile::threads / PIECES) {
            const int at = col + j;
            const bf16 *from = block + (at / PACK) * panel + (at % PACK) * MMA_DEPTH;
            cp_async_16_zero(to + j * MMA_DEPTH, j < cols ? from : b, j < cols ? 16 : 0);
        }
    }
};

struct mma_place {
    int g, row, col, rows_end; // rows as group_rows counts them
};

// sum = the product of a tile.
template <class Tile>
__device__ __forceinline__ mma_place mma_forward_tile(const matmul_args &args, tile_place place,
                                                      bf16 *shared, mma_sums<Tile> &sum)
{
    const row_range range = group_rows(args.segments, args.m, place.g);
    const size_t g = static_cast<size_t>(place.g);
    const int row = range.begin + place.row_tile * Tile::rows, col = place.col_tile * Tile::cols;
    const size_t depth = static_cast<size_t>(round_up(args.k, PACK));
    const size_t start_a = args.segments ? 0 : g * args.stride_a;
    const bf16 *b = static_cast<const bf16 *>(args.b) + g * packed_elements(args.k, args.n);
    mma_loader<Tile> load;
    load.a = static_cast<const bf16 *>(args.a) + start_a + static_cast<size_t>(row) * args.lda;
    load.b = b + static_cast<size_t>(col / PACK * PACK) * depth;
    load.lda = args.lda;
    load.panel = depth * PACK;
    load.rows = range.end - row;
    load.k = args.k;
    load.col = col % PACK;
    load.cols = round_up(args.n, PACK) - col;
    mma_product<Tile, mma_rows>(shared, args.k, load, sum);
    return {place.g, row, col, range.end};
}

template <class Tile, typename T>
__device__ void mma_store_tile(const matmul_args &args, bool pairs, tile_place place, bf16 *shared)
{
    mma_sums<Tile> sum = {};
    const mma_place at = mma_forward_tile<Tile>(args, place, shared, sum);
    const size_t start = args.segments ? 0 : static_cast<size_t>(at.g) * args.stride_c;
    T *c = static_cast<T *>(args.c) + start + static_cast<size_t>(at.row) * args.ldc + at.col;
    const result_rows<T> put = {
        c, args.ldc, at.rows_end - at.row, args.n - at.col, args.accumulate, pairs};
    mma_each_pair<Tile>(sum, put);
}

template <class Tile, typename T>
__global__ void __launch_bounds__(Tile::threads) mma_forward(matmul_args args, bool pairs)
{
    bf16 *shared = dynamic_shared<bf16>();
    int *first = nullptr;
    if (args.segments) {
        first = reinterpret_cast<int *>(shared + Tile::stages * Tile::stage);
        count_row_tiles(first, args.segments, args.batch, Tile::rows);
    }
    const tile_schedule schedule = {first, div_up(args.m, Tile::rows), div_up(args.n, Tile::cols),
                                    args.batch};
    const int count = tile_count(schedule);
    for (int i = static_cast<int>(blockIdx.x); i < count; i += static_cast<int>(gridDim.x))
        mma_store_tile<Tile, T>(args, pairs, tile_at(schedule, i), shared);
}

// ---- logits

template <class Tile>
__device__ void mma_take_tile(const matmul_args &args, const logit_sink &sink, tile_place place,
                              bf16 *shared)
{
    static_assert(Tile::col_tiles * 8 == LOGIT_CHUNK, "a warp's columns are a chunk");
    mma_sums<Tile> sum = {};
    const mma_place at = mma_forward_tile<Tile>(args, place, shared, sum);
    const int row = at.row + warp_row<Tile>() + lane_index() / 4, col = at.col + warp_col<Tile>();
#pragma unroll
    for (int i = 0; i < Tile::row_tiles; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float x[LOGIT_HELD];
#pragma unroll
            for (int j = 0; j < LOGIT_HELD; j++)
                x[j] = sum[i][j / 2][2 * h + j % 2];
            take_chunk(sink, row + i * 16 + h * 8, col, x);
        }
}

template <class Tile>
__global__ void __launch_bounds__(Tile::threads) mma_logits(matmul_args args, logit_sink sink)
{
    const tile_schedule schedule = {nullptr, div_up(args.m, Tile::rows), div_up(args.n, Tile::cols),
                                    args.batch};
    const int count = tile_count(schedule);
    for (int i = static_cast<int>(blockIdx.x); i < count; i += static_cast<int>(gridDim.x))
        mma_take_tile<Tile>(args, sink, tile_at(schedule, i), dynamic_shared<bf16>());
}

// ---- host side

// Blocks that work at once, for so much shared memory each.
static int blocks_at_once(const struct device *dev, size_t shared)
{
    const int per_sm = static_cast<int>(dev->cuda->shared_max / shared);
    return dev->cuda->num_sms * (per_sm > 0 ? per_sm : 1);
}

template <class Tile, typename T>
static int launch_mma(struct device *dev, const struct matmul_args *a)
{
    const size_t shared = Tile::shared_bytes + (a->segments ? sizeof(int) * (a->batch + 1) : 0);
    const int at_once = blocks_at_once(dev, shared);
    const int most = most_tiles(a, Tile::rows, Tile::cols);
    const bool pairs = aligned_pairs<T>(a->c, a->ldc, a->stride_c);
    return launch(dev, dim3(most < at_once ? most : at_once), dim3(Tile::threads), shared,
                  mma_forward<Tile, T>, *a, pairs);
}

template <typename T> static int launch_type(struct device *dev, const struct matmul_args *a)
{
    using wide = mma_tile<2, 4, 4, 4, 3>;   // 128 x 128
    using small = mma_tile<2, 2, 2, 4, 4>;  // 64 x 64
    using skinny = mma_tile<1, 2, 1, 2, 8>; // 16 x 32
    const int rows = rows_of_a_group(a), enough = dev->cuda->num_sms;
    if (rows > skinny::rows && share_tiles(a, wide::rows, wide::cols) >= enough)
        return launch_mma<wide, T>(dev, a);
    if (rows > skinny::rows && share_tiles(a, small::rows, small::cols) >= enough)
        return launch_mma<small, T>(dev, a);
    return launch_mma<skinny, T>(dev, a);
}

int matmul_mma_logits(struct device *dev, const struct matmul_args *a, const logit_sink &sink)
{
    using tile = mma_tile<4, 2, 2, 8, 3>; // 128 x 128, a warp 32 x 64
    const int most = most_tiles(a, tile::rows, tile::cols);
    const int at_once = blocks_at_once(dev, tile::shared_bytes);
    return launch(dev, dim3(most < at_once ? most : at_once), dim3(tile::threads),
                  tile::shared_bytes, mma_logits<tile>, *a, sink);
}

int matmul_mma(struct device *dev, const struct matmul_args *a)
{
    return a->c_type == DTYPE_BF16 ? launch_type<bf16>(dev, a) : launch_type<float>(dev, a);
}
