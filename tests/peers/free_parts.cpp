// SPDX-License-Identifier: Apache-2.0
#include "tests/peers/free_parts.h"
#include "tests/peers/free_choice.h"
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <dnnl.hpp>
#include <immintrin.h>
#include <map>
#include <memory>
#include <mutex>
#include <omp.h>
#include <unordered_map>
#include <vector>

namespace
{

enum way { OURS, WIDENED, FEW_ROWS, ONEDNN };
const char *const way_names[] = {"ours", "widened", "few rows", "oneDNN"};

constexpr int few = 4; // rows

using key = std::array<uint64_t, 4>;

struct key_hash {
    size_t operator()(const key &k) const
    {
        uint64_t h = 0;
        for (uint64_t word : k) {
            h = (h ^ word) * 0x9e3779b97f4a7c15u;
            h ^= h >> 32;
        }
        return h;
    }
};

template <class T> using table = std::unordered_map<key, T, key_hash>;

uint64_t two(int high, int low)
{
    return static_cast<uint64_t>(high) << 32 | static_cast<uint32_t>(low);
}

// ---- few rows

#define WITH_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))

WITH_AVX512 inline void store(const matmul_args &p, int row, int col, __m512 x)
{
    const int left = p.n - col;
    const __mmask16 lanes = left >= 16 ? 0xffff : left > 0 ? (1u << left) - 1u : 0;
    const size_t at = static_cast<size_t>(row) * p.ldc + static_cast<size_t>(col);
    if (p.c_type == DTYPE_F32)
        _mm512_mask_storeu_ps(static_cast<float *>(p.c) + at, lanes, x);
    else
        _mm256_mask_storeu_epi16(static_cast<uint16_t *>(p.c) + at, lanes,
                                 (__m256i)_mm512_cvtneps_pbh(x));
}

WITH_AVX512 inline __m512 multiply_add(__m512 sum, int32_t x, __m512i y, bool pairs)
{
    const __m512i all = _mm512_set1_epi32(x);
    if (pairs)
        return _mm512_dpbf16_ps(sum, (__m512bh)all, (__m512bh)y);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(all), _mm512_castsi512_ps(y), sum);
}

// Words of 32 bits along the depth: numbers, or pairs of bfloat16.
template <int M, int CHAINS, bool PAIRS> WITH_AVX512 void few_rows(const matmul_args &p)
{
    const int depth = PAIRS ? p.k / 2 : p.k;
    const size_t lda = p.lda / (PAIRS ? 2 : 1);
    const int32_t *a = static_cast<const int32_t *>(p.a);
    const int32_t *b = static_cast<const int32_t *>(p.b);
    for (int j = 0; j < p.n; j += FREE_COLUMNS, b += static_cast<size_t>(depth) * FREE_COLUMNS) {
        __m512 sum[CHAINS][M][2];
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS * M * 2; i++)
            sum[i / (2 * M)][i / 2 % M][i % 2] = _mm512_setzero_ps();
        for (int l = 0; l + CHAINS <= depth; l += CHAINS) {
#pragma GCC unroll 16
            for (int i = 0; i < CHAINS * M; i++) {
                const size_t at = static_cast<size_t>(l + i / M);
                const int32_t *y = b + at * FREE_COLUMNS;
                const int32_t x = a[static_cast<size_t>(i % M) * lda + at];
                __m512(&to)[2] = sum[i / M][i % M];
                to[0] = multiply_add(to[0], x, _mm512_loadu_si512(y), PAIRS);
                to[1] = multiply_add(to[1], x, _mm512_loadu_si512(y + 16), PAIRS);
            }
        }
        for (int l = depth / CHAINS * CHAINS; l < depth; l++)
            for (int i = 0; i < M * 2; i++) {
                const size_t at = static_cast<size_t>(l);
                __m512 &to = sum[0][i / 2][i % 2];
                to = multiply_add(to, a[static_cast<size_t>(i / 2) * lda + at],
                                  _mm512_loadu_si512(b + at * FREE_COLUMNS + i % 2 * 16), PAIRS);
            }
#pragma GCC unroll 8
        for (int i = 0; i < M * 2; i++) {
            __m512 all = sum[0][i / 2][i % 2];
            for (int c = 1; c < CHAINS; c++)
                all = _mm512_add_ps(all, sum[c][i / 2][i % 2]);
            store(p, i / 2, j + i % 2 * 16, all);
        }
    }
}

template <bool PAIRS> void run_few_rows(const matmul_args &p)
{
    if (p.m == 1)
        few_rows<1, 4, PAIRS>(p);
    else if (p.m == 2)
        few_rows<2, 4, PAIRS>(p);
    else if (p.m == 3)
        few_rows<3, 2, PAIRS>(p);
    else
        few_rows<4, 2, PAIRS>(p);
}

// ---- oneDNN

dnnl::memory::data_type type_of(enum dtype type)
{
    return type == DTYPE_BF16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

dnnl::memory::desc matrix(int rows, int cols, enum dtype type)
{
    return {{rows, cols}, type_of(type), dnnl::memory::format_tag::ab};
}

// Its product of some sizes, with its own memory. Its faster kernels take dense matrices alone, so
// rows that lie apart are copied.
class primitive
{
  public:
    primitive(const matmul_args &p, dnnl::engine &engine)
    {
        const dnnl::memory::desc da = matrix(p.m, p.k, p.a_type), dc = matrix(p.m, p.n, p.c_type);
        const dnnl::memory::desc any({p.k, p.n}, type_of(p.b_type), dnnl::memory::format_tag::any);
        dnnl::primitive_attr attr;
        attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
        const dnnl::matmul::primitive_desc pd(dnnl::matmul::desc(da, any, dc), attr, engine);
        product = dnnl::matmul(pd);
        wanted = pd.weights_desc();
        a = dnnl::memory(da, engine, nullptr);
        c = dnnl::memory(dc, engine, nullptr);
        scratch = dnnl::memory(pd.scratchpad_desc(), engine);
        dense_a.resize(p.lda == static_cast<size_t>(p.k) ? 0 : da.get_size());
        dense_c.resize(p.ldc == static_cast<size_t>(p.n) ? 0 : dc.get_size());
    }
    const dnnl::memory::desc &form() const { return wanted; } // of B
    void run(const matmul_args &p, const dnnl::memory &b, dnnl::stream &stream)
    {
        const size_t rows = static_cast<size_t>(p.m);
        const size_t row_a = dtype_size(p.a_type) * static_cast<size_t>(p.k);
        const size_t row_c = dtype_size(p.c_type) * static_cast<size_t>(p.n);
        const char *from = static_cast<const char *>(p.a);
        char *to = static_cast<char *>(p.c);
        for (size_t i = 0; i < rows && !dense_a.empty(); i++)
            std::memcpy(&dense_a[i * row_a], from + i * p.lda * dtype_size(p.a_type), row_a);
        dnnl_memory_set_data_handle(a.get(),
                                    dense_a.empty() ? const_cast<void *>(p.a) : dense_a.data());
        dnnl_memory_set_data_handle(c.get(), dense_c.empty() ? p.c : dense_c.data());
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, a.get()},
                                        {DNNL_ARG_WEIGHTS, b.get()},
                                        {DNNL_ARG_DST, c.get()},
                                        {DNNL_ARG_SCRATCHPAD, scratch.get()}};
        dnnl_primitive_execute(product.get(), stream.get(), 4, args);
        stream.wait();
        for (size_t i = 0; i < rows && !dense_c.empty(); i++)
            std::memcpy(to + i * p.ldc * dtype_size(p.c_type), &dense_c[i * row_c], row_c);
    }

  private:
    dnnl::matmul product;
    dnnl::memory::desc wanted;
    dnnl::memory a, c, scratch;
    std::vector<char> dense_a, dense_c;
};

} // namespace

struct free_weights {
    std::mutex lock;
    table<std::vector<dnnl::memory>> forms;

    dnnl::memory get(const matmul_args &p, const dnnl::memory::desc &form, dnnl::engine &engine,
                     dnnl::stream &stream)
    {
        const std::lock_guard<std::mutex> hold(lock);
        auto &all = forms[{reinterpret_cast<uint64_t>(p.b), two(p.n, p.k), 0, 0}];
        for (const dnnl::memory &have : all)
            if (have.get_desc() == form)
                return have;
        std::vector<char> plain(dtype_size(p.b_type) * static_cast<size_t>(p.k) * p.n);
        free_unpack(&p, plain.data());
        dnnl::memory from(matrix(p.k, p.n, p.b_type), engine, plain.data());
        all.emplace_back(form, engine);
        dnnl::reorder(from, all.back()).execute(stream, from, all.back());
        stream.wait();
        return all.back();
    }
};

struct free_worker {
    struct part {
        free_choice *way;
        primitive *theirs;
        dnnl::memory b;
    };
    free_weights *weights;
    struct device *ours = nullptr, *widened = nullptr;
    bool settled = false;
    long created = 0, tried = 0;
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    std::map<key, free_choice> choices; // by sizes
    table<std::unique_ptr<primitive>> primitives;
    table<part> parts; // by weights and rows

    free_choice *way_of(const matmul_args &p)
    {
        const key k = {two(p.a_type, p.c_type), two(p.k, p.n), two(0, free_choice_bucket(p.m)), 0};
        const bool pairs = p.a_type == DTYPE_BF16, dots = ours->isa != DEVICE_AVX512;
        int ways[FREE_WAYS], n = 0;
        ways[n++] = OURS;
        if (!settled && pairs && dots)
            ways[n++] = WIDENED;
        if (!settled && p.m <= few && (!pairs || (dots && p.k % 2 == 0 && p.lda % 2 == 0)))
            ways[n++] = FEW_ROWS;
        if (!settled)
            ways[n++] = ONEDNN;
        return &choices.emplace(k, free_choice_of(ways, n)).first->second;
    }
    part &find(const matmul_args &p)
    {
        const key k = {reinterpret_cast<uint64_t>(p.b), two(p.m, p.n), p.lda,
                       p.ldc << 1 | (p.c_type == DTYPE_F32)};
        const auto it = parts.find(k);
        if (it != parts.end())
            return it->second;
        return parts.emplace(k, part{way_of(p), nullptr, {}}).first->second;
    }
    void run_theirs(part &t, const matmul_args &p)
    {
        if (!t.theirs) {
            omp_set_num_threads(1); // for the calls of this thread
            auto &made =
                primitives[{two(p.m, p.n), two(p.k, p.c_type), p.lda << 1 | p.a_type, p.ldc}];
            if (!made)
                made = std::make_unique<primitive>(p, engine);
            created++;
            t.theirs = made.get();
            t.b = weights->get(p, made->form(), engine, stream);
        }
        t.theirs->run(p, t.b, stream);
    }
    void run(part &t, int way, const matmul_args &p)
    {
        if (way == OURS)
            ours->k->matmul(ours, &p);
        else if (way == WIDENED)
            widened->k->matmul(widened, &p);
        else if (way == FEW_ROWS)
            p.a_type == DTYPE_BF16 ? run_few_rows<true>(p) : run_few_rows<false>(p);
        else
            run_theirs(t, p);
    }
};

void free_unpack(const struct matmul_args *p, void *out)
{
    const size_t size = dtype_size(p->b_type), step = p->b_type == DTYPE_BF16 ? 2 : 1;
    const size_t k = static_cast<size_t>(p->k), n = static_cast<size_t>(p->n);
    const size_t panel = (k + step - 1) / step * step * FREE_COLUMNS;
    for (size_t l = 0; l < k; l++)
        for (size_t j = 0; j < n; j++) {
            const size_t at = j / FREE_COLUMNS * panel + l / step * step * FREE_COLUMNS +
                              j % FREE_COLUMNS * step + l % step;
            std::memcpy(static_cast<char *>(out) + (l * n + j) * size,
                        static_cast<const char *>(p->b) + at * size, size);
        }
}

struct free_weights *free_weights_open(void) { return new free_weights; }

void free_weights_close(struct free_weights **w)
{
    delete *w;
    *w = nullptr;
}

struct free_worker *free_worker_open(struct device *dev, struct free_weights *weights)
{
    free_worker *w = new free_worker;
    w->weights = weights;
    device_open(&w->ours, nullptr, dev->isa);
    device_open(&w->widened, nullptr, DEVICE_AVX512);
    return w;
}

void free_worker_close(struct free_worker **w)
{
    device_free(&(*w)->ours);
    device_free(&(*w)->widened);
    delete *w;
    *w = nullptr;
}

struct device *free_worker_device(struct free_worker *w) { return w->ours; }

void free_worker_multiply(struct free_worker *w, const struct matmul_args *p)
{
    free_worker::part &t = w->find(*p);
    const int way = free_choice_next(t.way);
    if (t.way->best >= 0) {
        w->run(t, way, *p);
        return;
    }
    const long before = w->created;
    const double start = free_clock();
    w->run(t, way, *p);
    if (w->created == before) {
        free_choice_add(t.way, way, free_clock() - start);
        w->tried++;
    }
}

void free_worker_settle(struct free_worker *w)
{
    w->settled = true;
    for (auto &item : w->choices)
        free_choice_settle(&item.second);
}

long free_worker_tries(const struct free_worker *w) { return w->tried; }

long free_worker_created(const struct free_worker *w) { return w->created; }

void free_worker_print(const struct free_worker *w)
{
    for (const auto &item : w->choices) {
        const key &k = item.first;
        std::printf("part  %s->%s  rows %4d  k %4d  n %5d", k[0] >> 32 ? "bf16" : "f32",
                    k[0] & 1 ? "bf16" : "f32", static_cast<int>(k[2]), static_cast<int>(k[1] >> 32),
                    static_cast<int>(k[1] & 0xffffffff));
        free_choice_print(&item.second, way_names);
    }
}
