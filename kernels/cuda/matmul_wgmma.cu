// SPDX-License-Identifier: Apache-2.0
// C = A B in bfloat16 by the tiles of matmul_wgmma.cuh. A comes by tensor maps; a tile of a packed
// B is copied as it is. The grid stays, and each block goes from tile to tile.
#include "kernels/cuda/logits_sink.cuh"
#include "kernels/cuda/matmul_wgmma.cuh"

// Where a tile's operands come from: rows of A in boxes of BOX rows, as many as are needed, and
// columns of B in pieces that lie together in a packed block.
template <class Tile, int BOX> struct wgmma_source {
    const tensor_map *map;
    const bf16 *b; // the block of the tile's first column at k = 0
    size_t panel;  // elements of a packed panel
    int row, matrix, rows, cols;

#if HOPPER_CODE
    static constexpr int piece = Tile::cols < PACK ? Tile::cols : PACK; // columns of one copy
    static_assert(Tile::rows / BOX + Tile::cols / piece <= WARP, "a lane has one copy");

    __device__ int bytes() const
    {
        return round_up(rows, BOX) * WGMMA_ROW + round_up(cols, piece) * WGMMA_ROW;
    }
    // One lane's copy of the stage that begins at term l.
    __device__ void copy(const wgmma_ring<Tile> &ring, int l, int lane) const
    {
        const int boxes = div_up(rows, BOX), r = lane * BOX, c = (lane - boxes) * piece;
        if (lane < boxes)
            tensor_copy(ring.a() + r * WGMMA_ROW, map, l, row + r, matrix, ring.full());
        else if (c < cols)
            bulk_copy(ring.b() + c * WGMMA_ROW,
                      b + (lane - boxes) * panel + static_cast<size_t>(l) * PACK, piece * WGMMA_ROW,
                      ring.full());
    }
#endif
};

#if HOPPER_CODE

struct wgmma_forward_tile {
    row_range range;
    int g, row, col;
};

template <class Tile>
__device__ __forceinline__ wgmma_forward_tile forward_tile_at(const matmul_args &args,
                                                              const tile_schedule &s, int i)
{
    const tile_place place = tile_at(s, i);
    const row_range range = group_rows(args.segments, args.m, place.g);
    return {range, place.g, range.begin + place.row_tile * Tile::rows, place.col_tile * Tile::cols};
}

// The copies for all tiles of the block, by one warp.
template <class Tile, int BOX>
__device__ void wgmma_produce(const matmul_args &args, const tile_schedule &schedule,
                              const tensor_map *map, int matrix_step, unsigned char *shared)
{
    const size_t depth = static_cast<size_t>(round_up(args.k, PACK));
    const int count = tile_count(schedule), padded = round_up(args.n, PACK);
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    wgmma_ring<Tile> ring = {shared, 0, 1};
    for (int i = static_cast<int>(blockIdx.x); i < count; i += static_cast<int>(gridDim.x)) {
        const wgmma_forward_tile tile = forward_tile_at<Tile>(args, schedule, i);
        const int rows = tile.range.end - tile.row, cols = padded - tile.col;
        const bf16 *b = static_cast<const bf16 *>(args.b) +
                        static_cast<size_t>(tile.g) * packed_elements(args.k, args.n);
        const wgmma_source<Tile, BOX> source = {
            map,
            b + static_cast<size_t>(tile.col / PACK * PACK) * depth + tile.col % PACK * PACK,
            depth * PACK,
            tile.row,
            args.segments ? 0 : tile.g * matrix_step,
            rows < Tile::rows ? rows : Tile::rows,
            cols < Tile::cols ? cols : Tile::cols};
        const int bytes = source.bytes();
        for (int l = 0; l < args.k; l += WGMMA_DEPTH, ring.next()) {
            wgmma_begin_stage<Tile>(ring, bytes);
            source.copy(ring, l, lane);
        }
    }
}

struct wgmma_as_it_is {
    template <class Ring> __device__ void operator()(const Ring &, int) const {}
};

template <class Tile, class Finish>
__device__ void wgmma_consume(const matmul_args &args, const tile_schedule &schedule,
                              const Finish &finish, unsigned char *shared)
{
    const int count = tile_count(schedule);
    wgmma_ring<Tile> ring = {shared, 0, 0};
    for (int i = static_cast<int>(blockIdx.x); i < count; i += static_cast<int>(gridDim.x)) {
        const wgmma_forward_tile tile = forward_tile_at<Tile>(args, schedule, i);
        float sum[Tile::sums] = {};
        wgmma_product<Tile, false>(ring, div_up(args.k, WGMMA_DEPTH), wgmma_as_it_is(), sum);
        finish.template take<Tile>(args, tile, sum);
    }
}

#endif // HOPPER_CODE

// Stores the product.
template <typename T> struct wgmma_put {
    bool vectors;

#if HOPPER_CODE
    template <class Tile>
    __device__ __forceinline__ void take(const matmul_args &args, const wgmma_forward_tile &tile,
                                         const float (&sum)[Tile::sums]) const
    {
        const size_t start = args.segments ? 0 : static_cast<size_t>(tile.g) * args.stride_c;
        T *c = static_cast<T *>(args.c) + start + static_cast<size_t>(tile.row) * args.ldc;
        const wgmma_result<T> result = {
            c + tile.col,      args.ldc,        tile.range.end - tile.row,
            args.n - tile.col, args.accumulate, vectors};
        wgmma_store<Tile>(result, sum);
    }
#endif
};

// Gives the product to a sink of logits.
struct wgmma_sink {
    logit_sink sink;

#if HOPPER_CODE
    template <class Tile>
    __device__ __forceinline__ void take(const matmul_args &, const wgmma_forward_tile &tile,
                                         const float (&sum)[Tile::sums]) const
    {
        const int thread = static_cast<int>(threadIdx.x), lane = thread % WARP;
        const int row = tile.row + thread / WARP * 16 + lane / 4;
#pragma unroll
        for (int c = 0; c < Tile::cols / LOGIT_CHUNK; c++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float x[LOGIT_HELD];
#pragma unroll
                for (int i = 0; i < LOGIT_HELD; i++)
                    x[i] = sum[4 * (c * 8 + i / 2) + 2 * h + i % 2];
                take_chunk(sink, row + 8 * h, tile.col + c * LOGIT_CHUNK, x);
            }
    }
#endif
};

// matrix_step: 0 where all groups have the same A.
template <class Tile, int BOX, class Finish>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks)
    wgmma_forward(matmul_args args, const __grid_constant__ tensor_map map, int matrix_step,
                  const Finish finish)
{
#if HOPPER_CODE
    unsigned char *shared = dynamic_shared<unsigned char>();
    int *first = nullptr;
    wgmma_ring_init<Tile>(shared);
    if (args.segments) {
        first = reinterpret_cast<int *>(shared + Tile::shared_bytes);
        count_row_tiles(first, args.segments, args.batch, Tile::rows);
    } else {
        __syncthreads();
    }
    const tile_schedule schedule = {first, div_up(args.m, Tile::rows), div_up(args.n, Tile::cols),
                                    args.batch};
    if (threadIdx.x < Tile::consumers)
        wgmma_consume<Tile>(args, schedule, finish, shared);
    else
        wgmma_produce<Tile, BOX>(args, schedule, &map, matrix_step, shared);
#endif
}

// ---- host side

template <class Tile, int BOX, class Finish>
static int launch_wgmma(struct device *dev, const struct matmul_args *a, const Finish &finish)
{
    const bool one = a->segments || a->batch == 1 || a->stride_a == 0; // A for all groups
    tensor_map map;
    const int rc = tensor_map_init(dev, &map, static_cast<const bf16 *>(a->a), a->k, a->m,
                                   one ? 1 : a->batch, a->lda, a->stride_a, BOX);
    if (rc != 0)
        return rc;
    const size_t shared = Tile::shared_bytes + (a->segments ? sizeof(int) * (a->batch + 1) : 0);
    const int most = most_tiles(a, Tile::rows, Tile::cols);
    const int at_once = dev->cuda->num_sms * Tile::blocks;
    return launch(dev, dim3(most < at_once ? most : at_once), dim3(Tile::threads), shared,
                  wgmma_forward<Tile, BOX, Finish>, *a, map, one ? 0 : 1, finish);
}

template <typename T> static int launch_type(struct device *dev, const struct matmul_args *a)
{
    using wide = wgmma_tile<2, 256, 4, 1>;   // 128 x 256
    using middle = wgmma_tile<2, 128, 3, 2>; // 128 x 128
    using small = wgmma_tile<1, 64, 6, 2>;
    using narrow = wgmma_tile<1, 32, 16, 1>;
    const int rows = rows_of_a_group(a), few = 8;
    const int all = dev->cuda->num_sms, half = div_up(all, 2);
    const wgmma_put<T> put = {wgmma_vectors(static_cast<const T *>(a->c), a->ldc, a->stride_c)};
    if (rows > small::rows && share_tiles(a, wide::rows, wide::cols) >= all)
        return launch_wgmma<wide, wide::rows>(dev, a, put);
    if (rows > small::rows && share_tiles(a, middle::rows, middle::cols) >= half)
        return launch_wgmma<middle, middle::rows>(dev, a, put);
    if (share_tiles(a, small::rows, small::cols) >= half)
        return launch_wgmma<small, few>(dev, a, put);
    return launch_wgmma<narrow, few>(dev, a, put);
}

int matmul_wgmma_logits(struct device *dev, const struct matmul_args *a, const logit_sink &sink)
{
    using wide = wgmma_tile<2, 256, 4, 1>;
    return launch_wgmma<wide, wide::rows>(dev, a, wgmma_sink{sink});
}

int matmul_wgmma(struct device *dev, const struct matmul_args *a)
{
    return a->c_type == DTYPE_BF16 ? launch_type<bf16>(dev, a) : launch_type<float>(dev, a);
}
