// SPDX-License-Identifier: Apache-2.0
// The twin of kernels/cuda/ptx.cuh for the emulation: the same functions, by what the PTX ISA says
// of each instruction.
#ifndef TESTS_CUDA_EMUL_KERNELS_CUDA_PTX_CUH
#define TESTS_CUDA_EMUL_KERNELS_CUDA_PTX_CUH

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

// Kernels run one after the other.
inline void let_next_begin() {}
inline void wait_for_last() {}

template <typename T> T *dynamic_shared() { return static_cast<T *>(emul::dynamic_shared()); }

inline void cp_async_16(void *to_shared, const void *from)
{
    emul::async_copy(to_shared, from, 16, 16);
}

inline void cp_async_16_zero(void *to_shared, const void *from, int bytes)
{
    emul::async_copy(to_shared, from, bytes, 16);
}

inline uint64_t l2_evict_first() { return 0; }
inline void cp_async_16_zero(void *to_shared, const void *from, int bytes, uint64_t)
{
    cp_async_16_zero(to_shared, from, bytes);
}

inline void cp_async_4_zero(void *to_shared, const void *from, int bytes)
{
    emul::async_copy(to_shared, from, bytes, 4);
}

inline void cp_async_commit() { emul::async_commit(); }

template <int PENDING> void cp_async_wait() { emul::async_wait(PENDING); }

namespace emul
{

struct ldmatrix_frame {
    const void *row;
    uint32_t *out;
    site at;
};

inline unsigned short matrix_element(void *const *frames, int matrix, int row, int col)
{
    const ldmatrix_frame &f = *static_cast<ldmatrix_frame *>(frames[8 * matrix + row]);
    if (reinterpret_cast<uintptr_t>(f.row) % 16 != 0)
        fail(f.at, "a row of a matrix is not aligned to 16 bytes");
    unsigned short x;
    memcpy(&x, static_cast<const char *>(f.row) + 2 * col, sizeof x);
    return x;
}

template <int MATRICES, bool TRANS> void ldmatrix_op(unsigned int, void *const *frames)
{
    for (int lane = 0; lane < 32; lane++)
        for (int m = 0; m < MATRICES; m++) {
            uint32_t pair = 0;
            for (int j = 0; j < 2; j++) {
                const int row = lane / 4, col = 2 * (lane % 4) + j;
                const uint32_t x = matrix_element(frames, m, TRANS ? col : row, TRANS ? row : col);
                pair |= x << (16 * j);
            }
            static_cast<ldmatrix_frame *>(frames[lane])->out[m] = pair;
        }
}

template <int MATRICES, bool TRANS>
void ldmatrix(uint32_t *r, const void *row, const char *file, int line)
{
    const site at = {file, line, "ldmatrix"};
    ldmatrix_frame f = {row, r, at};
    collective(at, 0xffffffffu, ldmatrix_op<MATRICES, TRANS>, &f);
}

struct mma_frame {
    float *d;
    const uint32_t *a, *b;
};

inline float bf16_of(uint32_t pair, int half)
{
    return __uint_as_float((half ? pair >> 16 : pair & 0xffffu) << 16);
}

// The tensor cores ignore the low 13 bits.
inline float tf32_of(uint32_t bits) { return __uint_as_float(bits & 0xffffe000u); }

inline const mma_frame &mma_of(void *const *frames, int lane)
{
    return *static_cast<const mma_frame *>(frames[lane]);
}

// Sums in double, rounded once: a GPU's differs from it in the last bits.
template <int K, typename A, typename B> void mma_sum(void *const *frames, A a, B b)
{
    for (int row = 0; row < 16; row++)
        for (int col = 0; col < 8; col++) {
            float *d = mma_of(frames, 4 * (row % 8) + col / 2).d + 2 * (row / 8) + col % 2;
            double sum = static_cast<double>(*d);
            for (int k = 0; k < K; k++)
                sum += static_cast<double>(a(row, k)) * static_cast<double>(b(k, col));
            *d = static_cast<float>(sum);
        }
}

inline void mma_bf16_op(unsigned int, void *const *frames)
{
    const auto a = [&](int row, int k) {
        const mma_frame &f = mma_of(frames, 4 * (row % 8) + k % 8 / 2);
        return bf16_of(f.a[row / 8 + 2 * (k / 8)], k % 2);
    };
    const auto b = [&](int k, int col) {
        return bf16_of(mma_of(frames, 4 * col + k % 8 / 2).b[k / 8], k % 2);
    };
    mma_sum<16>(frames, a, b);
}

inline void mma_tf32_op(unsigned int, void *const *frames)
{
    const auto a = [&](int row, int k) {
        return tf32_of(mma_of(frames, 4 * (row % 8) + k % 4).a[row / 8 + 2 * (k / 4)]);
    };
    const auto b = [&](int k, int col) {
        return tf32_of(mma_of(frames, 4 * col + k % 4).b[k / 4]);
    };
    mma_sum<8>(frames, a, b);
}

} // namespace emul

inline void ldmatrix_x4(uint32_t (&r)[4], const void *row, EMUL_AT)
{
    emul::ldmatrix<4, false>(r, row, file, line);
}

inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, EMUL_AT)
{
    emul::ldmatrix<4, true>(r, row, file, line);
}

inline void ldmatrix_x2(uint32_t (&r)[2], const void *row, EMUL_AT)
{
    emul::ldmatrix<2, false>(r, row, file, line);
}

inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row, EMUL_AT)
{
    emul::ldmatrix<2, true>(r, row, file, line);
}

inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              EMUL_AT)
{
    emul::mma_frame f = {d, a, b};
    emul::collective(EMUL_SITE("mma_m16n8k16_bf16"), 0xffffffffu, emul::mma_bf16_op, &f);
}

inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMUL_AT)
{
    emul::mma_frame f = {d, a, b};
    emul::collective(EMUL_SITE("mma_m16n8k8_tf32"), 0xffffffffu, emul::mma_tf32_op, &f);
}

// Rounded to nearest: a GPU's differs from it in the last bits.
inline float exp2_approx(float x)
{
    const float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}

// Nearest, ties away from zero.
inline uint32_t to_tf32(float x) { return (__float_as_uint(x) + 0x1000u) & 0xffffe000u; }

#endif
