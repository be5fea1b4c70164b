// SPDX-License-Identifier: Apache-2.0
// The bfloat16 tile product by warpgroup matrix instructions (wgmma), for Hopper. The order of a
// sum over `depth` terms, for every tile shape: one chain of k16 instructions from zero, the terms
// ascending, filled up with zeros to a multiple of WGMMA_DEPTH; what the output starts from is
// added last. Tile shapes differ in the instruction's n alone: that an element's bits do not depend
// on n is how the hardware behaves, not something the PTX ISA promises; tests/kernelcheck.c tests
// it.
//
// A block has consumer warpgroups, 64 rows of the tile each, and one producer warp, whose lanes
// begin the copies. They share a ring of stages, WGMMA_DEPTH terms each: barrier full[s] is
// over when the copies of stage s have come, empty[s] when all consumer warps are done with it. The
// ring goes on from tile to tile, so that the copies for the next tile run while the results of the
// last are stored.
#ifndef KERNELS_CUDA_MATMUL_WGMMA_CUH
#define KERNELS_CUDA_MATMUL_WGMMA_CUH

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/matmul.cuh"

constexpr int WGMMA_DEPTH = 64;
constexpr int WGMMA_ROW = 128;                       // bytes of a row in shared memory
constexpr int WGMMA_EIGHTS = 8 * WGMMA_ROW;          // bytes of eight of them
constexpr int WGMMA_STRIP = WGMMA_DEPTH * WGMMA_ROW; // bytes of 64 rows
static_assert(WGMMA_DEPTH == PACK, "a stage of B is a slice of packed blocks");

// WARPGROUPS x 64 rows; BLOCKS of them fit on one multiprocessor.
template <int WARPGROUPS, int COLS, int STAGES, int BLOCKS> struct wgmma_tile {
    static constexpr int rows = 64 * WARPGROUPS, cols = COLS, stages = STAGES, blocks = BLOCKS;
    static constexpr int consumers = WARPGROUP * WARPGROUPS, threads = consumers + WARP;
    static constexpr int bytes_a = rows * WGMMA_ROW, bytes_b = cols * WGMMA_ROW;
    static constexpr int stage = bytes_a + bytes_b;
    static constexpr int sums = COLS / 2; // registers of a thread
    static constexpr size_t shared_bytes =
        static_cast<size_t>(STAGES) * (stage + 2 * sizeof(mbarrier));
    static_assert(stage % WGMMA_EIGHTS == 0, "operands are aligned to 1024 bytes");
};

// Where in the ring a producer or consumer is.
template <class Tile> struct wgmma_ring {
    unsigned char *shared;
    int stage;
    uint32_t phase;

    __device__ __forceinline__ mbarrier *full() const
    {
        return reinterpret_cast<mbarrier *>(shared + Tile::stages * Tile::stage) + stage;
    }
    __device__ __forceinline__ mbarrier *empty() const { return full() + Tile::stages; }
    __device__ __forceinline__ unsigned char *a() const { return shared + stage * Tile::stage; }
    __device__ __forceinline__ unsigned char *b() const { return a() + Tile::bytes_a; }
    __device__ __forceinline__ void next()
    {
        stage++;
        if (stage == Tile::stages) {
            stage = 0;
            phase ^= 1;
        }
    }
};

#if HOPPER_CODE

// The caller ends it with a barrier of the block.
template <class Tile> __device__ __forceinline__ void wgmma_ring_init(unsigned char *shared)
{
    if (threadIdx.x == 0) {
        wgmma_ring<Tile> ring = {shared, 0, 0};
        for (; ring.phase == 0; ring.next()) {
            mbarrier_init(ring.full(), 1);
            mbarrier_init(ring.empty(), Tile::consumers / WARP);
        }
        mbarrier_init_done();
    }
}

// All lanes of the producer: the stage may be written, and waits for `bytes`.
template <class Tile>
__device__ __forceinline__ void wgmma_begin_stage(const wgmma_ring<Tile> &ring, int bytes)
{
    mbarrier_wait(ring.empty(), ring.phase);
    if (threadIdx.x % WARP == 0)
        mbarrier_arrive_expect(ring.full(), bytes);
    __syncwarp();
}

// sum += the product of the next `steps` stages. STRIPS: in shared memory a row is a term, of 64
// rows of A or columns of B (the operands' TRANS), else a row is WGMMA_DEPTH terms. arrange(ring,
// i) may change what came with step i.
template <class Tile, bool STRIPS, class Arrange>
__device__ __forceinline__ void wgmma_product(wgmma_ring<Tile> &ring, int steps,
                                              const Arrange &arrange, float (&sum)[Tile::sums])
{
    const int warpgroup = static_cast<int>(threadIdx.x) / WARPGROUP;
    const bool signals = threadIdx.x % WARP == 0;
    const int advance = STRIPS ? 2 * WGMMA_EIGHTS : 16 * static_cast<int>(sizeof(bf16));
    mbarrier *last = nullptr;
    wgmma_keep(sum);
    for (int i = 0; i < steps; i++, ring.next()) {
        mbarrier_wait(ring.full(), ring.phase);
        arrange(ring, i);
        const uint64_t a =
            wgmma_operand(ring.a() + warpgroup * WGMMA_STRIP, WGMMA_EIGHTS, WGMMA_STRIP);
        const uint64_t b = wgmma_operand(ring.b(), WGMMA_EIGHTS, WGMMA_STRIP);
        wgmma_fence();
#pragma unroll
        for (int j = 0; j < WGMMA_DEPTH / 16; j++)
            wgmma<STRIPS, STRIPS>(sum, wgmma_advance(a, j * advance),
                                  wgmma_advance(b, j * advance));
        wgmma_commit();
        wgmma_wait<1>();
        if (last && signals)
            mbarrier_arrive(last);
        last = ring.empty();
    }
    wgmma_wait<0>();
    wgmma_keep(sum);
    if (last && signals)
        mbarrier_arrive(last);
}

// ---- results. Four neighbouring lanes q hold a row's columns 8 j + {0..7}, two each, which they
// exchange so that a lane has 16 bytes and the accesses of a warp fill whole sectors.

// The tile's corner in the output. vectors: rows are aligned to 16 bytes.
template <typename T> struct wgmma_result {
    T *c;
    size_t ldc;
    int rows, cols;
    bool accumulate, vectors;
};

template <typename T, int N>
__device__ __forceinline__ void put_each(const wgmma_result<T> &r, T *to, int col,
                                         const float (&x)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        if (col + i < r.cols)
            narrow(to + i, r.accumulate ? x[i] + widen(to[i]) : x[i]);
}

__device__ __forceinline__ void put_four(const wgmma_result<float> &r, int row, int col,
                                         const four &v)
{
    if (row >= r.rows || col >= r.cols)
        return;
    float *to = r.c + static_cast<size_t>(row) * r.ldc + col;
    if (!r.vectors || col + 4 > r.cols)
        put_each(r, to, col, v.x);
    else if (r.accumulate)
        add_in_memory(to, v.x);
    else
        store_vector(to, v);
}

__device__ __forceinline__ void put_eight(const wgmma_result<bf16> &r, int row, int col,
                                          float (&x)[8])
{
    if (row >= r.rows || col >= r.cols)
        return;
    bf16 *to = r.c + static_cast<size_t>(row) * r.ldc + col;
    if (!r.vectors || col + 8 > r.cols) {
        put_each(r, to, col, x);
        return;
    }
    uint4 *const all = reinterpret_cast<uint4 *>(to);
    if (r.accumulate) {
        const uint4 v = *all;
        const uint32_t old[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[2 * i] += __uint_as_float(old[i] << 16);
            x[2 * i + 1] += __uint_as_float(old[i] & 0xffff0000u);
        }
    }
    *all = make_uint4(bf16_pair(x[0], x[1]), bf16_pair(x[2], x[3]), bf16_pair(x[4], x[5]),
                      bf16_pair(x[6], x[7]));
}

// Of two neighbouring j, two neighbouring lanes have a four of each: the even one gets the first.
template <int SUMS>
__device__ __forceinline__ void put_sums(const wgmma_result<float> &r, int row, int j, int h,
                                         const float (&sum)[SUMS])
{
    const int q = static_cast<int>(threadIdx.x) % 4, odd = q % 2;
#pragma unroll
    for (int i = j; i < j + 4; i += 2) {
        const float *first = sum + 4 * i + 2 * h, *second = first + 4;
        const float x = __shfl_xor_sync(ALL_LANES, odd ? first[0] : second[0], 1);
        const float y = __shfl_xor_sync(ALL_LANES, odd ? first[1] : second[1], 1);
        const four v = odd ? four{{x, y, second[0], second[1]}} : four{{first[0], first[1], x, y}};
        put_four(r, row, 8 * (i + odd) + q / 2 * 4, v);
    }
}

// Of four j, lane q gets all eight of the q-th.
template <int SUMS>
__device__ __forceinline__ void put_sums(const wgmma_result<bf16> &r, int row, int j, int h,
                                         const float (&sum)[SUMS])
{
    uint32_t even[4], odd[4];
#pragma unroll
    for (int q = 0; q < 4; q++) {
        even[q] = __float_as_uint(sum[4 * (j + q) + 2 * h]);
        odd[q] = __float_as_uint(sum[4 * (j + q) + 2 * h + 1]);
    }
    quad_transpose(even);
    quad_transpose(odd);
    float x[8];
#pragma unroll
    for (int q = 0; q < 4; q++) {
        x[2 * q] = __uint_as_float(even[q]);
        x[2 * q + 1] = __uint_as_float(odd[q]);
    }
    put_eight(r, row, 8 * (j + static_cast<int>(threadIdx.x) % 4), x);
}

// All consumers call it, for the exchange is the warp's.
template <class Tile, typename T>
__device__ __forceinline__ void wgmma_store(const wgmma_result<T> &r,
                                            const float (&sum)[Tile::sums])
{
    const int thread = static_cast<int>(threadIdx.x), lane = thread % WARP;
    const int row = thread / WARP * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < Tile::cols / 8; j += 4)
#pragma unroll
        for (int h = 0; h < 2; h++)
            put_sums(r, row + 8 * h, j, h, sum);
}

#endif // HOPPER_CODE

// Results of T in rows ld apart, groups stride apart.
template <typename T> bool wgmma_vectors(const T *c, size_t ld, size_t stride)
{
    return aligned_rows(c, ld, stride);
}

#endif
