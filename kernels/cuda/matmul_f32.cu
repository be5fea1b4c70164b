// SPDX-License-Identifier: Apache-2.0
// C = A B in float32. Two kernels give the same bits (the order of sums is in matmul_f32.cuh), so
// the choice between them is free: tiles, where there are rows to fill them, and for few rows one
// that reads each weight once, at the memory's speed, and works on all chunks of k side by side.
#include "kernels/cuda/matmul_f32.cuh"

// ---- tiles

template <class Tile> struct forward_loader {
    const float *a;    // row 0 of the tile, [rows,k]
    const float *b;    // packed, from the tile's first column on
    size_t lda, panel; // panel: elements of a packed panel
    int rows, k, panels;

    __device__ void operator()(float *stage, int l) const
    {
        const int thread = static_cast<int>(threadIdx.x);
        const int depth = thread % F32_DEPTH;
        const int step = Tile::threads / F32_DEPTH, first = thread / F32_DEPTH;
        const int most = l + depth < k ? rows : 0; // rows from here on are zeros
        const float *from = a + static_cast<size_t>(first) * lda + (l + depth);
        float *a_to = stage + depth * Tile::pitch_a + first;
#pragma unroll 4
        for (int r = first; r < Tile::rows; r += step, from += step * lda, a_to += step)
            cp_async_4_zero(a_to, r < most ? from : a, r < most ? 4 : 0);
        float *to = stage + F32_DEPTH * Tile::pitch_a;
        const int quads = F32_PANEL / 4, panel_quads = quads * F32_DEPTH;
#pragma unroll
        for (int i = thread; i < Tile::cols / F32_PANEL * panel_quads; i += Tile::threads) {
            const int p = i / panel_quads, row = i / quads % F32_DEPTH, quad = i % quads;
            const bool given = p < panels;
            const float *terms =
                b + (given ? p * panel : 0) + static_cast<size_t>(l + row) * F32_PANEL + quad * 4;
            cp_async_16_zero(to + row * Tile::cols + p * F32_PANEL + quad * 4, terms,
                             given ? 16 : 0);
        }
    }
};

template <class Tile>
__device__ void forward_tile(const matmul_args &args, bool aligned, tile_place place, float *shared)
{
    const row_range range = group_rows(args.segments, args.m, place.g);
    const size_t g = static_cast<size_t>(place.g);
    const int row = range.begin + place.row_tile * Tile::rows, col = place.col_tile * Tile::cols;
    const size_t panel = static_cast<size_t>(round_up(args.k, PACK)) * F32_PANEL;
    const size_t start_a = args.segments ? 0 : g * args.stride_a;
    const size_t start_c = args.segments ? 0 : g * args.stride_c;
    const float *a = static_cast<const float *>(args.a);
    const float *b = static_cast<const float *>(args.b);
    const int rows = range.end - row, cols = args.n - col;
    forward_loader<Tile> load;
    load.a = a + start_a + static_cast<size_t>(row) * args.lda;
    load.b = b + g * packed_elements(args.k, args.n) + static_cast<size_t>(col / F32_PANEL) * panel;
    load.lda = args.lda;
    load.panel = panel;
    load.rows = rows;
    load.k = args.k;
    load.panels = div_up(cols, F32_PANEL);
    float *c = static_cast<float *>(args.c) + start_c + static_cast<size_t>(row) * args.ldc + col;
    float total[8][8] = {};
    if (args.accumulate)
        f32_load<Tile>(c, args.ldc, rows, cols, total);
    f32_product<Tile>(shared, args.k, load, total);
    f32_store<Tile>(c, args.ldc, rows, cols, aligned, total);
}

template <class Tile>
__global__ void __launch_bounds__(Tile::threads) forward_tiles(matmul_args args, bool aligned)
{
    float *shared = dynamic_shared<float>();
    int *first = nullptr;
    if (args.segments) {
        first = reinterpret_cast<int *>(shared + F32_STAGES * Tile::stage);
        count_row_tiles(first, args.segments, args.batch, Tile::rows);
    }
    const tile_schedule schedule = {first, div_up(args.m, Tile::rows), div_up(args.n, Tile::cols),
                                    args.batch};
    const int count = tile_count(schedule);
    for (int i = static_cast<int>(blockIdx.x); i < count; i += static_cast<int>(gridDim.x))
        forward_tile<Tile>(args, aligned, tile_at(schedule, i), shared);
}

// ---- few rows: a block has F32_PANEL columns and up to FEW_ROWS or SKINNY_ROWS rows. Thread
// (slot, quad) sums one chunk of k at a time for four columns; the chunks of a pass are then added
// up, ascending.

constexpr int FEW_ROWS = 8, SKINNY_ROWS = 16;
constexpr int SKINNY_QUADS = F32_PANEL / 4;
constexpr int SKINNY_SLOTS = 32; // chunks of a pass, at most

struct skinny_rows {
    const float *a; // [rows,k]
    const float *b; // packed panel [kp, F32_PANEL]
    float *c;       // [rows, cols of this panel]
    size_t lda, ldc;
    int rows, cols, k;
    bool accumulate;
};

template <bool ALIGNED> __device__ __forceinline__ float4 load_terms(const float *a)
{
    if (ALIGNED)
        return __ldg(reinterpret_cast<const float4 *>(a));
    return make_float4(__ldg(a), __ldg(a + 1), __ldg(a + 2), __ldg(a + 3));
}

__device__ __forceinline__ void add_term(float (&sum)[4], float a, const float4 &b)
{
    sum[0] = fmaf(a, b.x, sum[0]);
    sum[1] = fmaf(a, b.y, sum[1]);
    sum[2] = fmaf(a, b.z, sum[2]);
    sum[3] = fmaf(a, b.w, sum[3]);
}

// sum = terms [begin, end) of the rows; the rows past the last are those of the last again.
template <int ROWS, bool ALIGNED>
__device__ __forceinline__ void sum_chunk(const skinny_rows &s, int begin, int end,
                                          float (&sum)[ROWS][4])
{
    constexpr int STEP = ROWS > FEW_ROWS ? 4 : 8; // weights on their way
    const float *b = s.b + static_cast<size_t>(begin) * F32_PANEL + threadIdx.x % SKINNY_QUADS * 4;
    const int whole = end < s.k ? end : begin + (s.k - begin) / STEP * STEP;
    int l = begin;
#pragma unroll 1
    for (; l < whole; l += STEP) {
        float4 weights[STEP];
#pragma unroll
        for (int i = 0; i < STEP; i++, b += F32_PANEL)
            weights[i] = __ldg(reinterpret_cast<const float4 *>(b));
        const float *a = s.a + l;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int i = 0; i < STEP; i += 4) {
                const float4 x = load_terms<ALIGNED>(a + i);
                add_term(sum[r], x.x, weights[i]);
                add_term(sum[r], x.y, weights[i + 1]);
                add_term(sum[r], x.z, weights[i + 2]);
                add_term(sum[r], x.w, weights[i + 3]);
            }
            a += r + 1 < s.rows ? s.lda : 0;
        }
    }
#pragma unroll 1
    for (; l < end; l++, b += F32_PANEL) {
        const float4 weights = __ldg(reinterpret_cast<const float4 *>(b));
        const float *a = s.a + l;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            add_term(sum[r], l < s.k ? __ldg(a) : 0.0f, weights);
            a += r + 1 < s.rows ? s.lda : 0;
        }
    }
}

// shared: totals [ROWS, F32_PANEL], then the chunks of a pass, [slots, ROWS, F32_PANEL].
template <int ROWS, bool ALIGNED>
__device__ void skinny_product(const skinny_rows &s, float *shared)
{
    const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
    const int slots = threads / SKINNY_QUADS, slot = thread / SKINNY_QUADS;
    const int quad = thread % SKINNY_QUADS, outputs = ROWS * F32_PANEL;
    const int depth = round_up(s.k, F32_DEPTH), chunks = div_up(depth, F32_CHUNK);
    float *sums = shared + outputs;
    for (int i = thread; i < outputs; i += threads) {
        const int r = i / F32_PANEL, col = i % F32_PANEL;
        const bool given = s.accumulate && r < s.rows && col < s.cols;
        shared[i] = given ? s.c[static_cast<size_t>(r) * s.ldc + col] : 0.0f;
    }
    for (int pass = 0; pass < chunks; pass += slots) {
        const int begin = (pass + slot) * F32_CHUNK;
        if (begin < depth) {
            float sum[ROWS][4] = {};
            sum_chunk<ROWS, ALIGNED>(s, begin,
                                     depth < begin + F32_CHUNK ? depth : begin + F32_CHUNK, sum);
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                *reinterpret_cast<float4 *>(sums + (slot * ROWS + r) * F32_PANEL + quad * 4) =
                    make_float4(sum[r][0], sum[r][1], sum[r][2], sum[r][3]);
        }
        __syncthreads();
        const int used = chunks - pass < slots ? chunks - pass : slots;
        for (int i = thread; i < outputs; i += threads) {
            float total = shared[i];
#pragma unroll 4
            for (int c = 0; c < used; c++)
                total += sums[c * outputs + i];
            shared[i] = total;
        }
        __syncthreads();
    }
    for (int i = thread; i < outputs; i += threads) {
        const int r = i / F32_PANEL, col = i % F32_PANEL;
        if (r < s.rows && col < s.cols)
            s.c[static_cast<size_t>(r) * s.ldc + col] = shared[i];
    }
    __syncthreads();
}

// As little as the rows need, where most groups have few; else no choice, which costs registers.
template <int MOST, bool ALIGNED>
__device__ __forceinline__ void skinny_any(const skinny_rows &s, float *shared)
{
    if (MOST > FEW_ROWS)
        skinny_product<MOST, ALIGNED>(s, shared);
    else if (s.rows > 4)
        skinny_product<FEW_ROWS, ALIGNED>(s, shared);
    else if (s.rows > 2)
        skinny_product<4, ALIGNED>(s, shared);
    else if (s.rows > 1)
        skinny_product<2, ALIGNED>(s, shared);
    else
        skinny_product<1, ALIGNED>(s, shared);
}

// Block (panel, g, i) has row blocks i, i + gridDim.z, ... of group g.
template <int MOST, bool ALIGNED>
__global__ void __launch_bounds__(SKINNY_SLOTS *SKINNY_QUADS, 2) forward_skinny(matmul_args args)
{
    const int g = static_cast<int>(blockIdx.y), col = static_cast<int>(blockIdx.x) * F32_PANEL;
    const row_range range = group_rows(args.segments, args.m, g);
    const size_t start_a = args.segments ? 0 : g * args.stride_a;
    const size_t start_c = args.segments ? 0 : g * args.stride_c;
    const float *a = static_cast<const float *>(args.a) + start_a;
    float *c = static_cast<float *>(args.c) + start_c + col;
    const float *b = static_cast<const float *>(args.b) + g * packed_elements(args.k, args.n) +
                     static_cast<size_t>(col) * round_up(args.k, PACK);
    const int step = static_cast<int>(gridDim.z) * MOST;
    for (int row = range.begin + static_cast<int>(blockIdx.z) * MOST; row < range.end;
         row += step) {
        const int left = range.end - row;
        const skinny_rows s = {a + static_cast<size_t>(row) * args.lda,
                               b,
                               c + static_cast<size_t>(row) * args.ldc,
                               args.lda,
                               args.ldc,
                               left < MOST ? left : MOST,
                               args.n - col,
                               args.k,
                               args.accumulate};
        skinny_any<MOST, ALIGNED>(s, dynamic_shared<float>());
    }
}

// ---- host side

using wide_tile = f32_tile<4, 2>;  // 128 x 128
using small_tile = f32_tile<2, 1>; // 64 x 64

template <class Tile> static int launch_tiles(struct device *dev, const struct matmul_args *a)
{
    const int most = most_tiles(a, Tile::rows, Tile::cols);
    const int at_once = dev->cuda->num_sms * (256 / Tile::threads);
    const size_t shared = Tile::shared_bytes + (a->segments ? sizeof(int) * (a->batch + 1) : 0);
    const bool aligned = aligned_rows(static_cast<float *>(a->c), a->ldc, a->stride_c);
    return launch(dev, dim3(most < at_once ? most : at_once), dim3(Tile::threads), shared,
                  forward_tiles<Tile>, *a, aligned);
}

template <int MOST> static int launch_skinny(struct device *dev, const struct matmul_args *a)
{
    const int chunks = div_up(a->k, F32_CHUNK), most_row_blocks = 1024;
    int slots = 4;
    while (slots < chunks && slots < SKINNY_SLOTS)
        slots *= 2;
    const int rows = rows_of_a_group(a), row_blocks = div_up(rows > 0 ? rows : 1, MOST);
    int padded = MOST;
    while (!a->segments && MOST == FEW_ROWS && padded / 2 >= rows)
        padded /= 2;
    const size_t shared = sizeof(float) * (slots + 1) * padded * F32_PANEL;
    const bool aligned = aligned_rows(static_cast<const float *>(a->a), a->lda, a->stride_a);
    const dim3 grid(div_up(a->n, F32_PANEL), a->batch,
                    row_blocks < most_row_blocks ? row_blocks : most_row_blocks);
    return launch(dev, grid, dim3(slots * SKINNY_QUADS), shared,
                  aligned ? forward_skinny<MOST, true> : forward_skinny<MOST, false>, *a);
}

int matmul_f32(struct device *dev, const struct matmul_args *a)
{
    if (rows_of_a_group(a) > SKINNY_ROWS) {
        if (share_tiles(a, wide_tile::rows, wide_tile::cols) >= dev->cuda->num_sms)
            return launch_tiles<wide_tile>(dev, a);
        if (share_tiles(a, small_tile::rows, small_tile::cols) >= dev->cuda->num_sms)
            return launch_tiles<small_tile>(dev, a);
    }
    return rows_of_a_group(a) > FEW_ROWS ? launch_skinny<SKINNY_ROWS>(dev, a)
                                         : launch_skinny<FEW_ROWS>(dev, a);
}
