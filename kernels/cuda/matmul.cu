// SPDX-License-Identifier: Apache-2.0
// Matrix products: packing, and the choice of the kernels by type and device.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/logits_sink.cuh"
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/matmul_bf16.cuh"
#include <cassert>

extern "C" size_t cuda_matmul_packed_size(const struct device *dev, int k, int n)
{
    (void)dev;
    return packed_elements(k, n);
}

// ---- packing. A block has a square of PACK values of k and PACK columns, and puts it through
// shared memory, so that reads and writes are both coalesced.

constexpr int PACK_THREADS = 256;
constexpr int PACK_PITCH = PACK + 1;

// square[j * PACK_PITCH + i] = B(l + i, col + j), zero outside.
template <typename T>
__device__ void read_square(const pack_args &args, const T *b, int l, int col, float *square)
{
    for (int at = static_cast<int>(threadIdx.x); at < PACK * PACK; at += PACK_THREADS) {
        const int slow = at / PACK, fast = at % PACK;
        const int i = args.transposed ? fast : slow, j = args.transposed ? slow : fast;
        const bool given = l + i < args.k && col + j < args.n;
        const size_t row = static_cast<size_t>(args.transposed ? col + j : l + i);
        const size_t in_row = static_cast<size_t>(args.transposed ? l + i : col + j);
        square[j * PACK_PITCH + i] = given ? widen(b[row * args.ldb + in_row]) : 0.0f;
    }
}

// The layouts are matmul.cuh's; out is the packed matrix, depth its padded k.
__device__ void write_square(float *out, size_t depth, int l, int col, const float *square)
{
    for (int at = static_cast<int>(threadIdx.x); at < PACK * PACK; at += PACK_THREADS) {
        const int in_panel = at % F32_PANEL, i = at / F32_PANEL % PACK;
        const int j = at / (F32_PANEL * PACK) * F32_PANEL + in_panel;
        const size_t panel = static_cast<size_t>((col + j) / F32_PANEL);
        out[(panel * depth + (l + i)) * F32_PANEL + in_panel] = square[j * PACK_PITCH + i];
    }
}

__device__ void write_square(bf16 *out, size_t depth, int l, int col, const float *square)
{
    constexpr int PIECES = PACK / 8;
    bf16 *image = out + static_cast<size_t>(col) * depth + static_cast<size_t>(l) * PACK;
    for (int at = static_cast<int>(threadIdx.x); at < PACK * PIECES; at += PACK_THREADS) {
        const int j = at / PIECES, piece = at % PIECES;
        const float *from = square + j * PACK_PITCH + piece * 8;
        uint32_t pair[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            pair[i] = bf16_pair(from[2 * i], from[2 * i + 1]);
        *reinterpret_cast<uint4 *>(image + j * PACK + swizzled_piece(j, piece) * 8) =
            make_uint4(pair[0], pair[1], pair[2], pair[3]);
    }
}

template <typename From, typename To>
__global__ void __launch_bounds__(PACK_THREADS) pack_squares(pack_args args)
{
    __shared__ float square[PACK * PACK_PITCH];
    const int l = static_cast<int>(blockIdx.x) * PACK, col = static_cast<int>(blockIdx.y) * PACK;
    const size_t depth = static_cast<size_t>(round_up(args.k, PACK));
    for (int g = static_cast<int>(blockIdx.z); g < args.count; g += static_cast<int>(gridDim.z)) {
        read_square(args, static_cast<const From *>(args.b) + g * args.stride_b, l, col, square);
        __syncthreads();
        write_square(static_cast<To *>(args.out) + g * packed_elements(args.k, args.n), depth, l,
                     col, square);
        __syncthreads();
    }
}

template <typename From> static int pack_from(struct device *dev, const struct pack_args *a)
{
    const int most_groups = 65535;
    const dim3 grid(div_up(a->k, PACK), div_up(a->n, PACK),
                    a->count < most_groups ? a->count : most_groups);
    return launch(dev, grid, dim3(PACK_THREADS), 0,
                  a->out_type == DTYPE_BF16 ? pack_squares<From, bf16> : pack_squares<From, float>,
                  *a);
}

extern "C" int cuda_matmul_pack(struct device *dev, const struct pack_args *a)
{
    assert(a->n >= 0 && a->k >= 0 && a->count >= 0);
    return a->b_type == DTYPE_BF16 ? pack_from<bf16>(dev, a) : pack_from<float>(dev, a);
}

// ---- products

// Makes the rows of A begin on 16 bytes, in a copy where they do not.
static int align_rows(struct device *dev, struct matmul_args *a)
{
    bf16_matrices rows = {
        static_cast<const bf16 *>(a->a), a->lda, a->stride_a, a->m, a->k, a->batch};
    if (a->segments) {
        rows.stride = 0;
        rows.batch = 1;
    }
    if (bf16_aligned(&rows))
        return 0;
    bf16 *copy = nullptr;
    int rc = scratch(dev, SCRATCH_INNER, &copy, bf16_copy_size(&rows));
    if (rc == 0)
        rc = bf16_copy_aligned(dev, &rows, copy);
    a->a = rows.p;
    a->lda = rows.ld;
    a->stride_a = rows.stride;
    return rc;
}

static bool use_wgmma(const struct device *dev, const struct matmul_args *a)
{
    const int hopper = 90; // wgmma is its alone
    return dev->cuda->arch == hopper && a->k > 0 && a->m > 0;
}

static int matmul_bf16(struct device *dev, const struct matmul_args *a)
{
    struct matmul_args aligned = *a;
    const int rc = align_rows(dev, &aligned);
    if (rc != 0)
        return rc;
    return use_wgmma(dev, a) ? matmul_wgmma(dev, &aligned) : matmul_mma(dev, &aligned);
}

int matmul_logits(struct device *dev, const struct matmul_args *a, const logit_sink &sink)
{
    struct matmul_args aligned = *a;
    const int rc = align_rows(dev, &aligned);
    if (rc != 0)
        return rc;
    return use_wgmma(dev, a) ? matmul_wgmma_logits(dev, &aligned, sink)
                             : matmul_mma_logits(dev, &aligned, sink);
}

extern "C" int cuda_matmul(struct device *dev, const struct matmul_args *a)
{
    assert(a->m >= 0 && a->n >= 0 && a->k >= 0 && a->batch >= 0 && a->a_type == a->b_type);
    assert(a->c_type == DTYPE_F32 || a->a_type == DTYPE_BF16);
    if (a->n == 0 || a->batch == 0 || (!a->segments && a->m == 0))
        return 0;
    return a->a_type == DTYPE_BF16 ? matmul_bf16(dev, a) : matmul_f32(dev, a);
}
