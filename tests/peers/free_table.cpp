// SPDX-License-Identifier: Apache-2.0
#include "tests/peers/free_table.h"
#include "base/team.h"
#include "tests/peers/free_choice.h"
#include "tests/peers/free_latent.h"
#include "tests/peers/free_parts.h"
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <unordered_map>
#include <vector>

namespace
{

enum product_way { PRODUCT_OURS, PRODUCT_COLUMNS, PRODUCT_ROWS, PRODUCT_ALONE };
const char *const product_names[] = {"ours", "columns", "rows", "alone"};
enum attention_way { ATTENTION_OURS, ATTENTION_WIDENED, ATTENTION_HALVES };
const char *const attention_names[] = {"ours", "widened", "halves"};
enum form { FORM_ABSORBED, FORM_EXPANDED };
const char *const form_names[] = {"absorbed", "expanded"};

using key = std::array<int, 7>;

struct key_hash {
    size_t operator()(const key &k) const
    {
        uint64_t h = 0;
        for (int part : k) {
            h = (h ^ static_cast<uint64_t>(part)) * 0x9e3779b97f4a7c15u;
            h ^= h >> 32;
        }
        return h;
    }
};

struct call {
    free_choice way;
    int turn = 0; // in the first phase
};

using table = std::unordered_map<key, call, key_hash>;

// Latent attention under way: between the product of the queries and that of the outputs.
struct latent {
    bool open = false, attended = false;
    call *form;
    int way;
    double seconds; // of the three operations
    matmul_args queries;
    attention_args attention;
};

struct free_table {
    struct device *dev;
    const struct kernels *base;
    struct device *widened; // of the same team
    struct kernels kernels;
    enum free_phase phase = FREE_TRY_PARTS;
    free_weights *weights;
    std::vector<free_worker *> workers; // one a rank
    table products, attentions, forms;
    latent under_way;
    free_expansion *expansion;
    std::vector<float> q, out, lse; // of halves, of either type
    long tried = 0;
};

free_table *current;

const void *element(const void *array, size_t i, enum dtype type)
{
    return static_cast<const char *>(array) + i * dtype_size(type);
}

long created_by_all()
{
    long n = 0;
    for (const free_worker *w : current->workers)
        n += free_worker_created(w);
    return n;
}

// Takes the way that `c` says, and the time when it is not settled.
template <class F> int run_timed(call &c, F run)
{
    const int way = free_choice_next(&c.way);
    if (c.way.best >= 0)
        return run(way);
    const long before = created_by_all();
    const double start = free_clock();
    const int rc = run(way);
    if (created_by_all() == before) {
        free_choice_add(&c.way, way, free_clock() - start);
        current->tried++;
    }
    return rc;
}

// The call's choice; ways() are those to choose from when it is met for the first time.
template <class F> call &find_call(table &calls, const key &k, F ways)
{
    const auto it = calls.find(k);
    if (it != calls.end())
        return it->second;
    const std::vector<int> all = ways();
    const int n = static_cast<int>(all.size());
    return calls.emplace(k, call{free_choice_of(all.data(), n)}).first->second;
}

// ---- products

struct product_job {
    const matmul_args *a;
    int way;
};

// Rows [begin, end) of those of all groups, all of group g, times columns [col, col_end).
matmul_args part_of(const matmul_args &a, int g, int begin, int end, int col, int col_end)
{
    const size_t in = static_cast<size_t>(a.segments ? begin : begin - g * a.m);
    const size_t group = static_cast<size_t>(a.segments ? 0 : g);
    const size_t packed = matmul_packed_size(current->dev, a.k, a.n);
    const size_t depth = a.b_type == DTYPE_BF16 ? (static_cast<size_t>(a.k) + 1) / 2 * 2 : a.k;
    const size_t b = static_cast<size_t>(g) * packed + static_cast<size_t>(col) * depth;
    const size_t c = in * a.ldc + group * a.stride_c + static_cast<size_t>(col);
    matmul_args p = a;
    p.a = element(a.a, in * a.lda + group * a.stride_a, a.a_type);
    p.b = element(a.b, b, a.b_type);
    p.c = const_cast<void *>(element(a.c, c, a.c_type));
    p.m = end - begin;
    p.n = col_end - col;
    p.batch = 1;
    p.segments = nullptr;
    return p;
}

int rows_of(const matmul_args &a) { return a.segments ? a.segments[a.batch] : a.batch * a.m; }

void product_share(void *arg, int rank, int size)
{
    const product_job *job = static_cast<product_job *>(arg);
    const matmul_args &a = *job->a;
    const int panels = (a.n + FREE_COLUMNS - 1) / FREE_COLUMNS;
    int panel = 0, panel_end = panels, row = 0, row_end = rows_of(a);
    if (job->way == PRODUCT_COLUMNS)
        team_share(panels, panels >= 2 * size ? 2 : 1, rank, size, &panel, &panel_end);
    if (job->way == PRODUCT_ROWS)
        team_share(rows_of(a), 1, rank, size, &row, &row_end);
    const int col = panel * FREE_COLUMNS;
    const int col_end = panel_end == panels ? a.n : panel_end * FREE_COLUMNS;
    for (int g = 0; g < a.batch && col < col_end; g++) {
        const int begin = std::max(row, a.segments ? a.segments[g] : g * a.m);
        const int end = std::min(row_end, a.segments ? a.segments[g + 1] : (g + 1) * a.m);
        if (begin >= end)
            continue;
        const matmul_args p = part_of(a, g, begin, end, col, col_end);
        free_worker_multiply(current->workers[static_cast<size_t>(rank)], &p);
    }
}

int run_product(struct device *dev, const matmul_args &a, int way)
{
    product_job job = {&a, way};
    if (way == PRODUCT_OURS)
        return current->base->matmul(dev, &a);
    if (way == PRODUCT_ALONE)
        product_share(&job, 0, 1);
    else
        team_run(dev->team, product_share, &job);
    return 0;
}

constexpr double worth_alone = 4e6; // operations: up to these, one thread may be enough

int product(struct device *dev, const matmul_args &a)
{
    const int rows = rows_of(a);
    if (a.accumulate || a.plain || rows == 0 || a.n == 0)
        return current->base->matmul(dev, &a);
    const bool alone = 2.0 * rows * a.n * a.k <= worth_alone;
    const key k = {
        free_choice_bucket(rows), a.batch, a.segments != nullptr, a.k, a.n, a.a_type, a.c_type};
    call &c = find_call(current->products, k, [&] {
        std::vector<int> ways = {PRODUCT_OURS};
        if (current->phase <= FREE_TRY_WAYS)
            ways.insert(ways.end(), {PRODUCT_COLUMNS, PRODUCT_ROWS});
        if (current->phase <= FREE_TRY_WAYS && alone)
            ways.push_back(PRODUCT_ALONE);
        return ways;
    });
    if (current->phase == FREE_TRY_PARTS)
        return run_product(dev, a, PRODUCT_COLUMNS + c.turn++ % (alone ? 3 : 2));
    return run_timed(c, [&](int way) { return run_product(dev, a, way); });
}

// ---- attention

float as_float(uint32_t bits)
{
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

uint32_t as_bits(float x)
{
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

float widen(float x) { return x; }
float widen(uint16_t x) { return as_float(static_cast<uint32_t>(x) << 16); }
void put(float &to, float x) { to = x; }
void put(uint16_t &to, float x)
{
    to = static_cast<uint16_t>((as_bits(x) + 0x7fff + (as_bits(x) >> 16 & 1)) >> 16);
}

// out[n] of two parts of the keys, by the logarithms of their sums; returns that of both.
template <class T> float put_together(T *out, const T *x, const T *y, const float lse[2], size_t n)
{
    const float most = std::max(lse[0], lse[1]);
    float w0 = std::exp(lse[0] - most), w1 = std::exp(lse[1] - most);
    const float inverse = 1 / (w0 + w1);
    w0 *= inverse;
    w1 *= inverse;
    for (size_t i = 0; i < n; i++)
        put(out[i], w0 * widen(x[i]) + w1 * widen(y[i]));
    return most - std::log(inverse);
}

// Every sequence as two, of the first and the second half of its blocks.
int run_halves(struct device *dev, const attention_args &a)
{
    const size_t H = static_cast<size_t>(a.shape.H), size = dtype_size(a.type);
    const size_t q = H * static_cast<size_t>(a.shape.Dk), Dv = static_cast<size_t>(a.shape.Dv);
    const size_t n = static_cast<size_t>(a.num_seqs);
    free_table &t = *current;
    t.q.resize(std::max(t.q.size(), 2 * n * q));
    t.out.resize(std::max(t.out.size(), 2 * n * H * Dv));
    t.lse.resize(std::max(t.lse.size(), 2 * n * H));
    std::vector<attention_seq> seqs;
    for (size_t i = 0; i < n; i++) {
        const attention_seq &s = a.seqs[i];
        const int first = (s.pos / ATTENTION_BLOCK + 1) / 2; // blocks of the first half
        const int at = static_cast<int>(2 * i), keys = first * ATTENTION_BLOCK;
        seqs.push_back({at, 1, keys - 1, s.block});
        seqs.push_back({at + 1, 1, s.pos - keys, s.block + first});
        for (size_t half = 0; half < 2; half++)
            std::memcpy(reinterpret_cast<char *>(t.q.data()) + (2 * i + half) * q * size,
                        element(a.q, static_cast<size_t>(s.query) * q, a.type), q * size);
    }
    attention_args halves = a;
    halves.q = t.q.data();
    halves.seqs = seqs.data();
    halves.num_seqs = halves.T = 2 * a.num_seqs;
    halves.out = t.out.data();
    halves.lse = t.lse.data();
    const int rc = t.base->attention(dev, &halves);
    for (size_t i = 0; i < n * H; i++) {
        const size_t at = 2 * (i / H) * H + i % H; // of the first half
        const size_t row = static_cast<size_t>(a.seqs[i / H].query) * H + i % H, to = row * Dv;
        const size_t x = at * Dv, y = (at + H) * Dv;
        const float both[2] = {t.lse[at], t.lse[at + H]};
        const float *wide = t.out.data();
        const uint16_t *narrow = reinterpret_cast<const uint16_t *>(wide);
        const float sum = a.type == DTYPE_F32 ? put_together(static_cast<float *>(a.out) + to,
                                                             wide + x, wide + y, both, Dv)
                                              : put_together(static_cast<uint16_t *>(a.out) + to,
                                                             narrow + x, narrow + y, both, Dv);
        if (a.lse)
            a.lse[row] = sum;
    }
    return rc;
}

int attention(struct device *dev, const attention_args &a)
{
    bool single = a.num_seqs > 0;
    int keys = 0;
    for (int i = 0; i < a.num_seqs; i++) {
        single = single && a.seqs[i].len == 1 && a.seqs[i].pos >= ATTENTION_BLOCK;
        keys = std::max(keys, a.seqs[i].pos + a.seqs[i].len);
    }
    if (current->phase == FREE_TRY_PARTS)
        return current->base->attention(dev, &a);
    const key k = {free_choice_bucket(a.T),
                   a.num_seqs,
                   keys / ATTENTION_BLOCK,
                   single,
                   a.shape.H,
                   a.shape.Dk,
                   a.type};
    call &c = find_call(current->attentions, k, [&] {
        std::vector<int> ways = {ATTENTION_OURS};
        if (current->phase == FREE_TRY_WAYS && a.type == DTYPE_BF16 && dev->isa != DEVICE_AVX512)
            ways.push_back(ATTENTION_WIDENED);
        if (current->phase == FREE_TRY_WAYS && single)
            ways.push_back(ATTENTION_HALVES);
        return ways;
    });
    return run_timed(c, [&](int way) {
        if (way == ATTENTION_HALVES)
            return run_halves(dev, a);
        return (way == ATTENTION_OURS ? current->base : current->widened->k)->attention(dev, &a);
    });
}

// ---- latent attention: the products with a matrix of each head, before and after it

constexpr int many_rows = 65; // from there on it may be expanded

void begin_latent(const matmul_args &queries)
{
    latent &l = current->under_way;
    const key k = {free_choice_bucket(queries.m), queries.batch, queries.k, queries.n,
                   queries.a_type};
    l.form = &find_call(current->forms, k, [&] {
        std::vector<int> ways = {FORM_ABSORBED};
        if (queries.m >= many_rows && current->phase <= FREE_TRY_FORMS)
            ways.push_back(FORM_EXPANDED);
        return ways;
    });
    l.open = true;
    l.attended = false;
    l.seconds = 0;
    l.way = current->phase < FREE_TRY_FORMS ? FORM_ABSORBED : free_choice_next(&l.form->way);
    l.queries = queries;
}

// The sequences of one query are the first; they stay absorbed.
int run_expanded(struct device *dev, const latent &l, const matmul_args &outputs)
{
    int single = 0;
    while (single < l.attention.num_seqs && l.attention.seqs[single].len == 1)
        single++;
    if (single > 0) {
        matmul_args first = l.queries, last = outputs;
        attention_args middle = l.attention;
        first.m = last.m = middle.num_seqs = middle.T = single;
        product(dev, first);
        attention(dev, middle);
        product(dev, last);
    }
    return free_expansion_run(current->expansion, &l.queries, &l.attention, single, &outputs);
}

template <class F> int latent_step(F step)
{
    const double start = free_clock();
    const int rc = step();
    current->under_way.seconds += free_clock() - start;
    return rc;
}

int end_latent(struct device *dev, const matmul_args &outputs)
{
    latent &l = current->under_way;
    const int rc = latent_step([&] {
        return l.way == FORM_EXPANDED ? run_expanded(dev, l, outputs) : product(dev, outputs);
    });
    if (current->phase == FREE_TRY_FORMS && l.form->way.best < 0) {
        free_choice_add(&l.form->way, l.way, l.seconds);
        current->tried++;
    }
    l.open = false;
    return rc;
}

int free_matmul(struct device *dev, const matmul_args *a)
{
    latent &l = current->under_way;
    if (a->batch == 1 || a->segments)
        return product(dev, *a);
    if (l.open && l.attended)
        return end_latent(dev, *a);
    begin_latent(*a);
    if (l.way == FORM_EXPANDED)
        return 0;
    return latent_step([&] { return product(dev, *a); });
}

int free_attention(struct device *dev, const attention_args *a)
{
    latent &l = current->under_way;
    if (!l.open)
        return attention(dev, *a);
    l.attended = true;
    l.attention = *a;
    if (l.way == FORM_EXPANDED)
        return 0;
    return latent_step([&] { return attention(dev, *a); });
}

std::map<key, call> sorted(const table &calls) { return {calls.begin(), calls.end()}; }

} // namespace

int free_table_open(struct device *dev)
{
    if (!device_has_isa(DEVICE_AVX512) || dev->isa < DEVICE_AVX512)
        return -1;
    current = new free_table;
    current->dev = dev;
    current->base = dev->k;
    current->kernels = *dev->k;
    current->kernels.matmul = free_matmul;
    current->kernels.attention = free_attention;
    device_open(&current->widened, dev->team, DEVICE_AVX512);
    current->weights = free_weights_open();
    for (int i = 0; i < team_size(dev->team); i++)
        current->workers.push_back(free_worker_open(dev, current->weights));
    current->expansion = free_expansion_open(dev, current->workers.data());
    return 0;
}

void free_table_close(void)
{
    free_expansion_close(&current->expansion);
    for (free_worker *&w : current->workers)
        free_worker_close(&w);
    free_weights_close(&current->weights);
    device_free(&current->widened);
    delete current;
    current = nullptr;
}

const struct kernels *free_table_kernels(void) { return &current->kernels; }

void free_table_begin(enum free_phase phase)
{
    current->phase = phase;
    if (phase == FREE_TRY_WAYS)
        for (free_worker *w : current->workers)
            free_worker_settle(w);
    if (phase == FREE_TRY_FORMS)
        for (auto *calls : {&current->products, &current->attentions})
            for (auto &item : *calls)
                free_choice_settle(&item.second.way);
    if (phase == FREE_CHOSEN)
        for (auto &item : current->forms)
            free_choice_settle(&item.second.way);
}

long free_table_tries(void)
{
    long n = current->tried;
    for (const free_worker *w : current->workers)
        n += free_worker_tries(w);
    return n;
}

long free_table_created(void) { return created_by_all(); }

void free_table_print(void)
{
    for (const auto &item : sorted(current->products)) {
        const key &k = item.first;
        std::printf("product  rows %5d  %2d %s  k %4d  n %5d  %s->%s", k[0], k[1],
                    k[2] ? "experts" : "alike  ", k[3], k[4], k[5] ? "bf16" : "f32",
                    k[6] ? "bf16" : "f32");
        free_choice_print(&item.second.way, product_names);
    }
    for (const auto &item : sorted(current->attentions)) {
        const key &k = item.first;
        std::printf("attention  rows %5d  sequences %3d  blocks %d", k[0], k[1], k[2]);
        free_choice_print(&item.second.way, attention_names);
    }
    for (const auto &item : sorted(current->forms)) {
        std::printf("latent attention  rows %5d", item.first[0]);
        free_choice_print(&item.second.way, form_names);
    }
    for (const free_worker *w : current->workers)
        free_worker_print(w);
}
