// SPDX-License-Identifier: Apache-2.0
// Matrix products of bfloat16 beside oneDNN's with packed weights, C [m,n] = A [m,k] B in bfloat16,
// on the same shapes in the same run: blocks of calls of the one and of the other take turns, so
// that what disturbs the machine meets both. Prints the median of each and of their ratios.
//
// usage: onednn [THREADS]
#include "base/team.h"
#include "kernels/device.h"
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dnnl.hpp>
#include <omp.h>
#include <thread>
#include <vector>

namespace
{

constexpr int pairs = 9;               // of blocks
constexpr double block_seconds = 0.03; // of one

double now()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

struct shape {
    int m, n, k;
};

uint16_t rounded(float x)
{
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float widened(uint16_t x)
{
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float y;
    std::memcpy(&y, &bits, sizeof y);
    return y;
}

std::vector<uint16_t> numbers(size_t count)
{
    std::vector<uint16_t> x(count);
    uint32_t state = 1;
    for (uint16_t &v : x) {
        state = state * 1664525u + 1013904223u;
        v = rounded(static_cast<float>(state >> 8) / 16777216.0f - 0.5f);
    }
    return x;
}

// One product of oneDNN: weights reordered once into the layout that it likes best.
class peer
{
  public:
    peer(const shape &s, std::vector<uint16_t> &a, std::vector<uint16_t> &b,
         std::vector<uint16_t> &c)
        : engine(dnnl::engine::kind::cpu, 0), stream(engine)
    {
        using type = dnnl::memory::data_type;
        using tag = dnnl::memory::format_tag;
        const dnnl::memory::desc da({s.m, s.k}, type::bf16, tag::ab);
        const dnnl::memory::desc plain({s.k, s.n}, type::bf16, tag::ab);
        const dnnl::memory::desc any({s.k, s.n}, type::bf16, tag::any);
        const dnnl::memory::desc dc({s.m, s.n}, type::bf16, tag::ab);
        const dnnl::matmul::primitive_desc pd(dnnl::matmul::desc(da, any, dc), engine);
        product = dnnl::matmul(pd);
        weights = dnnl::memory(pd.weights_desc(), engine);
        dnnl::memory from(plain, engine, b.data());
        dnnl::reorder(from, weights).execute(stream, from, weights);
        args = {{DNNL_ARG_SRC, dnnl::memory(da, engine, a.data())},
                {DNNL_ARG_WEIGHTS, weights},
                {DNNL_ARG_DST, dnnl::memory(dc, engine, c.data())}};
        stream.wait();
        info = pd.impl_info_str();
    }
    void run()
    {
        product.execute(stream, args);
        stream.wait();
    }
    const char *implementation() const { return info; }

  private:
    dnnl::engine engine;
    dnnl::stream stream;
    dnnl::matmul product;
    dnnl::memory weights;
    std::unordered_map<int, dnnl::memory> args;
    const char *info;
};

class own
{
  public:
    own(struct device *device, const shape &s, std::vector<uint16_t> &a, std::vector<uint16_t> &b,
        std::vector<uint16_t> &c)
        : dev(device)
    {
        const size_t bytes = matmul_packed_size(dev, s.k, s.n) * sizeof(uint16_t);
        packed = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
        struct pack_args p = {};
        p.b = b.data();
        p.ldb = static_cast<size_t>(s.n);
        p.k = s.k;
        p.n = s.n;
        p.count = 1;
        p.out = packed;
        p.b_type = p.out_type = DTYPE_BF16;
        dev->k->matmul_pack(dev, &p);
        args.a = a.data();
        args.lda = static_cast<size_t>(s.k);
        args.b = packed;
        args.c = c.data();
        args.ldc = static_cast<size_t>(s.n);
        args.m = s.m;
        args.n = s.n;
        args.k = s.k;
        args.batch = 1;
        args.a_type = args.b_type = args.c_type = DTYPE_BF16;
    }
    ~own() { std::free(packed); }
    own(const own &) = delete;
    own &operator=(const own &) = delete;
    void run() { dev->k->matmul(dev, &args); }

  private:
    struct device *dev;
    void *packed;
    struct matmul_args args = {};
};

// Seconds of one call among a block of them, after a rest in which threads of the other side go to
// sleep.
template <class T> double block(T &side, int calls)
{
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    for (int i = 0; i < calls / 10 + 1; i++)
        side.run();
    const double start = now();
    for (int i = 0; i < calls; i++)
        side.run();
    return (now() - start) / calls;
}

double median(std::vector<double> x)
{
    std::sort(x.begin(), x.end());
    return x[x.size() / 2];
}

// Largest difference of the two results, each rounded to bfloat16, by the size of the terms.
double difference(const std::vector<uint16_t> &x, const std::vector<uint16_t> &y, int k)
{
    double most = 0.0;
    for (size_t i = 0; i < x.size(); i++)
        most = std::max(most, std::fabs(static_cast<double>(widened(x[i])) -
                                        static_cast<double>(widened(y[i]))));
    return most / std::sqrt(static_cast<double>(k));
}

void compare(struct device *dev, const shape &s)
{
    const size_t m = static_cast<size_t>(s.m), n = static_cast<size_t>(s.n);
    const size_t k = static_cast<size_t>(s.k);
    std::vector<uint16_t> a = numbers(m * k), b = numbers(k * n), c(m * n), d(m * n);
    peer theirs(s, a, b, c);
    own ours(dev, s, a, b, d);
    theirs.run();
    ours.run();
    const double apart = difference(c, d, s.k);
    const double flops = 2.0 * s.m * s.n * s.k;
    const int calls = static_cast<int>(block_seconds * 200e9 / flops) + 1;
    std::vector<double> t, o, ratio;
    for (int i = 0; i < pairs; i++) {
        t.push_back(block(theirs, calls));
        o.push_back(block(ours, calls));
        ratio.push_back(t.back() / o.back());
    }
    std::printf("%5d %5d %5d  %8.1f  %8.1f  %5.2f  %s%s\n", s.m, s.k, s.n, flops / median(t) / 1e9,
                flops / median(o) / 1e9, median(ratio), theirs.implementation(),
                apart > 0.01 ? "  RESULTS DIFFER" : "");
    std::fflush(stdout);
}

} // namespace

int main(int argc, char **argv)
{
    const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
    struct team *team = nullptr;
    struct device *dev = nullptr;
    if (threads < 1 || team_open(&team, threads) != 0 ||
        device_open(&dev, team, DEVICE_BEST) != 0) {
        std::fprintf(stderr, "usage: onednn [THREADS]\n");
        return 2;
    }
    omp_set_num_threads(threads);
    const dnnl_version_t *v = dnnl_version();
    std::printf("oneDNN %d.%d.%d and %s, %d threads, GFLOP/s\n    m     k     n    oneDNN      "
                "ours  ratio\n",
                v->major, v->minor, v->patch, dev->name, threads);
    const shape shapes[] = {{1, 512, 512},   {4, 512, 512},    {8, 512, 512},     {16, 512, 512},
                            {32, 512, 512},  {64, 512, 512},   {32, 1536, 512},   {64, 2048, 2048},
                            {256, 512, 512}, {1024, 512, 512}, {1024, 1024, 1024}};
    for (const shape &s : shapes)
        compare(dev, s);
    device_free(&dev);
    team_close(&team);
    return 0;
}
