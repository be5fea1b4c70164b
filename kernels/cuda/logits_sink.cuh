// SPDX-License-Identifier: Apache-2.0
// Where the logits of a bfloat16 product go when they are not stored: into the statistics of their
// chunks (logits.cuh), straight from the registers of a tile.
#ifndef KERNELS_CUDA_LOGITS_SINK_CUH
#define KERNELS_CUDA_LOGITS_SINK_CUH

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/logits.cuh"
#include "kernels/cuda/matmul.cuh"

struct logit_sink {
    const int *token;    // [rows]
    const float *tau;    // [rows]
    chunk_arrays chunks; // [rows, logit_chunks(V)] each
    float *token_logit;  // [rows]: the logit of the row's token
    bf16 *kept;          // [rows,pitch]: e^(z - the chunk's maximum), or NULL; 16-byte aligned
    size_t pitch;        // V rounded up to 8
    int rows, V;
};

// x[at], by comparisons: an index that is not known would put x into memory.
__device__ __forceinline__ float select_held(const float (&x)[LOGIT_HELD], int at)
{
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < LOGIT_HELD; i++)
        bits |= i == at ? __float_as_uint(x[i]) : 0;
    return __uint_as_float(bits);
}

// Stores what four lanes hold of a chunk's e^(z - max): each lane eight neighbours at a time.
__device__ __forceinline__ void keep_chunk(const logit_sink &sink, int row, int col,
                                           const float (&x)[LOGIT_HELD])
{
    bf16 *to = sink.kept + static_cast<size_t>(row) * sink.pitch;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int v = col + half * 32 + lane_index() % 4 * 8;
        uint32_t pair[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            pair[j] = bf16_pair(x[half * 8 + 2 * j], x[half * 8 + 2 * j + 1]);
        quad_transpose(pair);
        if (row < sink.rows && v < sink.V)
            *reinterpret_cast<uint4 *>(to + v) = make_uint4(pair[0], pair[1], pair[2], pair[3]);
    }
}

// Takes the logits of row `row` and columns [col, col + LOGIT_CHUNK), held by four lanes in the
// order of logits.cuh. All lanes of a warp call it, each four with a row of their own, which may be
// past the last.
__device__ __forceinline__ void take_chunk(const logit_sink &sink, int row, int col,
                                           float (&x)[LOGIT_HELD])
{
    const int q = lane_index() % 4, held = row < sink.rows ? row : sink.rows - 1;
    const float inverse = inverse_tau(sink.tau[held]);
    const int token = sink.token[held] - col; // in the chunk
    if (token >= 0 && token < LOGIT_CHUNK && token / 2 % 4 == q && row < sink.rows)
        sink.token_logit[row] = select_held(x, token / 8 * 2 + token % 2);
#pragma unroll
    for (int i = 0; i < LOGIT_HELD; i++)
        x[i] = col + i / 2 * 8 + q * 2 + i % 2 < sink.V ? scaled_logit(x[i], inverse) : -INFINITY;
    const chunk_stats s = chunk_stats_of(x);
    const int chunk = col / LOGIT_CHUNK, chunks = logit_chunks(sink.V);
    if (row < sink.rows && chunk < chunks && q == chunk % 4)
        put_chunk(sink.chunks, static_cast<size_t>(row) * chunks + chunk, s);
    if (sink.kept)
        keep_chunk(sink, row, col, x);
}

// A B with A [m,k] and packed B [k,n], as the matmul slot computes it, into the sink. Sizes but k
// are not 0; batch is 1; c is not used.
int matmul_logits(struct device *dev, const struct matmul_args *a, const logit_sink &sink);

// The kernels: rows of A are aligned, and for wgmma k is not 0.
int matmul_mma_logits(struct device *dev, const struct matmul_args *a, const logit_sink &sink);
int matmul_wgmma_logits(struct device *dev, const struct matmul_args *a, const logit_sink &sink);

#endif
