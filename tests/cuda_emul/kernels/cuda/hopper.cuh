// SPDX-License-Identifier: Apache-2.0
// The twin of kernels/cuda/hopper.cuh for the emulation, by what the PTX ISA says of each
// instruction. What is asynchronous happens late: a copy when its barrier is first waited for, a
// product when its group is; with an odd CUDA_EMUL_SEED at once. Either order finds other mistakes.
#ifndef TESTS_CUDA_EMUL_KERNELS_CUDA_HOPPER_CUH
#define TESTS_CUDA_EMUL_KERNELS_CUDA_HOPPER_CUH

#include "kernels/cuda/cuda.cuh"
#include <cmath>
#include <functional>
#include <map>
#include <vector>

#define HOPPER_CODE 1

constexpr int WARPGROUP = 128;

namespace emul
{

inline bool at_once()
{
    static const char *const seed = getenv("CUDA_EMUL_SEED");
    return seed && atoi(seed) % 2 == 1;
}

typedef std::vector<std::function<void()>> work_list;

inline void work_off(work_list &list)
{
    for (const auto &work : list)
        work();
    list.clear();
}

} // namespace emul

// ---- barriers

struct alignas(8) mbarrier {
    int bytes;
    unsigned char count, missing, parity, valid;
};

namespace emul
{

constexpr unsigned char BARRIER_VALID = 0x5a;

inline work_list &copies_of(mbarrier *b)
{
    static std::map<mbarrier *, work_list> lists;
    return lists[b];
}

inline void check_barrier(const mbarrier *b, const site &at)
{
    if (b->valid != BARRIER_VALID)
        fail(at, "a barrier was not initialised");
}

inline void end_phase(mbarrier *b)
{
    if (b->missing == 0 && b->bytes == 0) {
        b->parity ^= 1;
        b->missing = b->count;
    }
}

inline void begin_copy(mbarrier *b, int bytes, std::function<void()> copy)
{
    const auto work = [=] {
        copy();
        b->bytes -= bytes;
        end_phase(b);
    };
    if (at_once())
        work();
    else
        copies_of(b).push_back(work);
}

struct phase_wait {
    mbarrier *b;
    unsigned int parity;
    static bool over(void *arg)
    {
        const phase_wait &w = *static_cast<phase_wait *>(arg);
        work_off(copies_of(w.b));
        return w.b->parity != w.parity;
    }
};

} // namespace emul

inline void mbarrier_init(mbarrier *b, int count)
{
    const unsigned char n = static_cast<unsigned char>(count);
    *b = {0, n, n, 0, emul::BARRIER_VALID};
    emul::copies_of(b).clear();
}

inline void mbarrier_init_done() {}

inline void mbarrier_arrive(mbarrier *b, EMUL_AT)
{
    emul::check_barrier(b, EMUL_SITE("mbarrier_arrive"));
    if (b->missing == 0)
        emul::fail(EMUL_SITE("mbarrier_arrive"), "more threads arrive than the barrier counts");
    b->missing--;
    emul::end_phase(b);
}

inline void mbarrier_arrive_expect(mbarrier *b, int bytes, EMUL_AT)
{
    emul::check_barrier(b, EMUL_SITE("mbarrier_arrive_expect"));
    b->bytes += bytes;
    mbarrier_arrive(b, file, line);
}

inline void mbarrier_wait(mbarrier *b, uint32_t parity, EMUL_AT)
{
    emul::check_barrier(b, EMUL_SITE("mbarrier_wait"));
    emul::phase_wait w = {b, parity};
    emul::wait_until(EMUL_SITE("mbarrier_wait"), emul::phase_wait::over, &w);
}

// ---- copies

inline void bulk_copy(void *to_shared, const void *from, int bytes, mbarrier *done, EMUL_AT)
{
    const uintptr_t all = reinterpret_cast<uintptr_t>(to_shared) |
                          reinterpret_cast<uintptr_t>(from) | static_cast<uintptr_t>(bytes);
    if (all % 16 != 0 || bytes <= 0)
        emul::fail(EMUL_SITE("bulk_copy"), "not in whole pieces of 16 bytes");
    emul::begin_copy(done, bytes, [=] { memcpy(to_shared, from, static_cast<size_t>(bytes)); });
}

// The copies of cp.async are the thread's own; the barrier gets an arrival of the thread with them.
inline void cp_async_arrive(mbarrier *b, EMUL_AT)
{
    emul::check_barrier(b, EMUL_SITE("cp_async_arrive"));
    const emul::site at = EMUL_SITE("cp_async_arrive");
    emul::begin_copy(b, 0, [copies = emul::async_take(), b, at] {
        copies();
        if (b->missing == 0)
            emul::fail(at, "more threads arrive than the barrier counts");
        b->missing--;
    });
}

struct tensor_map {
    const char *p;
    int width, height, depth, box_rows;
    size_t ld, stride; // bytes
};

inline int tensor_map_init(struct device *, tensor_map *out, const __nv_bfloat16 *p, int width,
                           int height, int depth, size_t ld, size_t stride, int box_rows)
{
    const size_t element = sizeof(*p);
    *out = {reinterpret_cast<const char *>(p),
            width,
            height,
            depth,
            box_rows,
            ld * element,
            stride * element};
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0 || out->ld % 16 != 0 ||
        (depth > 1 && out->stride % 16 != 0) || width < 1 || height < 1 || depth < 1 ||
        box_rows < 1 || box_rows > 256)
        return err_set(ERR_ENV, "no tensor map of this shape");
    return 0;
}

namespace emul
{

inline char *swizzled(char *p)
{
    const uintptr_t a = reinterpret_cast<uintptr_t>(p);
    return reinterpret_cast<char *>(a ^ (a >> 7 & 7) << 4);
}

inline void copy_box(char *to, const tensor_map &map, int column, int row, int matrix)
{
    const int box_columns = 64, element = 2;
    for (int r = 0; r < map.box_rows; r++)
        for (int c = 0; c < box_columns; c++) {
            const int y = row + r, x = column + c;
            char *out = swizzled(to + (r * box_columns + c) * element);
            memset(out, 0, element);
            if (x >= 0 && x < map.width && y >= 0 && y < map.height && matrix < map.depth)
                memcpy(out,
                       map.p + map.stride * static_cast<size_t>(matrix) +
                           map.ld * static_cast<size_t>(y) + static_cast<size_t>(x) * element,
                       element);
        }
}

} // namespace emul

inline void tensor_copy(void *to_shared, const tensor_map *map, int column, int row, int matrix,
                        mbarrier *done, EMUL_AT)
{
    if (reinterpret_cast<uintptr_t>(to_shared) % 1024 != 0)
        emul::fail(EMUL_SITE("tensor_copy"), "shared memory is not aligned to 1024 bytes");
    char *to = static_cast<char *>(to_shared);
    const tensor_map box = *map; // the thread that begins it may be gone
    emul::begin_copy(done, map->box_rows * 128,
                     [=] { emul::copy_box(to, box, column, row, matrix); });
}

namespace emul
{

inline float normal_or_zero(float x) { return std::isnormal(x) || !std::isfinite(x) ? x : 0.0f; }

} // namespace emul

inline void add_in_memory(float *p, const float (&x)[4], EMUL_AT)
{
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0)
        emul::fail(EMUL_SITE("add_in_memory"), "not aligned to 16 bytes");
    for (int i = 0; i < 4; i++)
        p[i] = emul::normal_or_zero(emul::normal_or_zero(p[i]) + emul::normal_or_zero(x[i]));
}

inline void fence_async_proxy() {}

inline void named_barrier(int id, int threads, EMUL_AT)
{
    emul::named_barrier(EMUL_SITE("named_barrier"), id, threads);
}

// ---- products

inline uint64_t wgmma_operand(const void *p, int eights, int strips)
{
    const char *base = static_cast<char *>(emul::dynamic_shared());
    const uint64_t address = static_cast<uint64_t>(static_cast<const char *>(p) - base) >> 4;
    return address | static_cast<uint64_t>(strips >> 4) << 16 |
           static_cast<uint64_t>(eights >> 4) << 32;
}

inline uint64_t wgmma_advance(uint64_t operand, int bytes)
{
    return operand + static_cast<uint64_t>(bytes >> 4);
}

inline void wgmma_fence() {}
template <int N> void wgmma_keep(float (&)[N]) {}

namespace emul
{

struct wgmma_work {
    float *d;
    int n;
    uint64_t a, b;
    bool trans_a, trans_b;
    bool a_in_registers = false;
    uint32_t a_registers[4] = {};
};

struct wgmma_lists {
    std::vector<wgmma_work> open;
    std::vector<std::vector<wgmma_work>> groups;
};

inline wgmma_lists &my_wgmma()
{
    static std::vector<wgmma_lists> lists(1024);
    return lists[threadIdx.x];
}

// Element (i, l) of an operand, i a row of A or column of B, l one of the 16 terms.
inline float wgmma_element(uint64_t operand, bool trans, int i, int l)
{
    const int address = static_cast<int>(operand & 0x3fff) << 4;
    const int strips = static_cast<int>(operand >> 16 & 0x3fff) << 4;
    const int eights = static_cast<int>(operand >> 32 & 0x3fff) << 4;
    const int at = trans ? i / 64 * strips + l / 8 * eights + l % 8 * 128 + i % 64 * 2
                         : i / 8 * eights + i % 8 * 128 + l * 2;
    uint16_t bits;
    memcpy(&bits, swizzled(static_cast<char *>(emul::dynamic_shared()) + address + at),
           sizeof bits);
    return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

// Element (row, l) of A in registers: those of mma_m16n8k16_bf16, for the warp's 16 rows.
inline float wgmma_held(const wgmma_work *const (&lanes)[32], int row, int l)
{
    const wgmma_work &w = *lanes[4 * (row % 8) + l % 8 / 2];
    return bf16_of(w.a_registers[row / 8 + 2 * (l / 8)], l % 2);
}

// One warp's 16 rows of one product.
inline void wgmma_rows(const wgmma_work *const (&lanes)[32], int first_row)
{
    const wgmma_work &w = *lanes[0];
    for (int row = 0; row < 16; row++) {
        float a[16];
        for (int l = 0; l < 16; l++)
            a[l] = w.a_in_registers ? wgmma_held(lanes, row, l)
                                    : wgmma_element(w.a, w.trans_a, first_row + row, l);
        for (int col = 0; col < w.n; col++) {
            float *d = lanes[row % 8 * 4 + col % 8 / 2]->d + col / 8 * 4 + row / 8 * 2 + col % 2;
            double sum = static_cast<double>(*d);
            for (int l = 0; l < 16; l++)
                sum += static_cast<double>(a[l]) *
                       static_cast<double>(wgmma_element(w.b, w.trans_b, col, l));
            *d = static_cast<float>(sum);
        }
    }
}

struct wgmma_frame {
    wgmma_lists *lists;
    size_t pending;
    int first_row;
};

inline void wgmma_wait_op(unsigned int, void *const *frames)
{
    const wgmma_frame &f = *static_cast<wgmma_frame *>(frames[0]);
    while (f.lists->groups.size() > f.pending) {
        for (size_t i = 0; i < f.lists->groups.front().size(); i++) {
            const wgmma_work *lanes[32];
            for (int l = 0; l < 32; l++)
                lanes[l] = &static_cast<wgmma_frame *>(frames[l])->lists->groups.front()[i];
            wgmma_rows(lanes, f.first_row);
        }
        for (int l = 0; l < 32; l++) {
            auto &groups = static_cast<wgmma_frame *>(frames[l])->lists->groups;
            groups.erase(groups.begin());
        }
    }
}

inline void wgmma_finish(int pending, const site &at)
{
    wgmma_frame f = {&my_wgmma(), static_cast<size_t>(pending),
                     static_cast<int>(threadIdx.x) % WARPGROUP / 32 * 16};
    collective(at, 0xffffffffu, wgmma_wait_op, &f);
}

} // namespace emul

inline void wgmma_commit(EMUL_AT)
{
    emul::wgmma_lists &mine = emul::my_wgmma();
    mine.groups.push_back(std::move(mine.open));
    mine.open.clear();
    if (emul::at_once())
        emul::wgmma_finish(0, EMUL_SITE("wgmma_commit"));
}

template <int PENDING> void wgmma_wait(EMUL_AT)
{
    emul::wgmma_finish(PENDING, EMUL_SITE("wgmma_wait"));
}

template <bool TRANS_A, bool TRANS_B, int REGISTERS>
void wgmma(float (&d)[REGISTERS], uint64_t operand_a, uint64_t operand_b)
{
    emul::my_wgmma().open.push_back({d, 2 * REGISTERS, operand_a, operand_b, TRANS_A, TRANS_B});
}

template <bool TRANS_B, int REGISTERS>
void wgmma_held(float (&d)[REGISTERS], const uint32_t (&a)[4], uint64_t operand_b)
{
    emul::my_wgmma().open.push_back(
        {d, 2 * REGISTERS, 0, operand_b, false, TRANS_B, true, {a[0], a[1], a[2], a[3]}});
}

// ---- registers of a warpgroup

template <int N> void registers_lower() {}
template <int N> void registers_raise() {}

#endif
