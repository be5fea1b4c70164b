// SPDX-License-Identifier: Apache-2.0
// What the kernels use of CUDA C++ and its runtime, for a host compiler: see emul.h. What is not
// here is not allowed in a kernel without a reason (float atomics, approximate functions).
#ifndef TESTS_CUDA_EMUL_CUDA_RUNTIME_H
#define TESTS_CUDA_EMUL_CUDA_RUNTIME_H

#include "tests/cuda_emul/emul.h"
#include <algorithm>
#include <cassert>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>
#include <utility>
#include <vector>

// ---- words of the language

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n)    __attribute__((aligned(n)))
// One block runs at a time. Without the address sanitizer, which watches over static arrays but not
// over a section, all of it lies in one place and is poisoned before every block.
#ifdef EMUL_ASAN
#define __shared__ static
#else
#define __shared__ static __attribute__((section("cuda_shared")))
#endif

// ---- vector types

#define EMUL_VECTOR(base, name, align)                                                             \
    struct name##1 { base x; };                                                                    \
    struct alignas(2 * align) name##2 { base x, y; };                                              \
    struct name##3 { base x, y, z; };                                                              \
    struct alignas(4 * align > 16 ? 16 : 4 * align) name##4 { base x, y, z, w; };                  \
    inline name##2 make_##name##2(base x, base y) { return {x, y}; }                               \
    inline name##3 make_##name##3(base x, base y, base z) { return {x, y, z}; }                    \
    inline name##4 make_##name##4(base x, base y, base z, base w) { return {x, y, z, w}; }
EMUL_VECTOR(float, float, 4)
EMUL_VECTOR(int, int, 4)
EMUL_VECTOR(unsigned int, uint, 4)
EMUL_VECTOR(double, double, 8)
EMUL_VECTOR(short, short, 2)
EMUL_VECTOR(unsigned short, ushort, 2)
EMUL_VECTOR(signed char, char, 1)
EMUL_VECTOR(unsigned char, uchar, 1)
#undef EMUL_VECTOR

struct dim3 {
    unsigned int x, y, z;
    constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1)
        : x(x_), y(y_), z(z_)
    {
    }
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// ---- errors and the runtime

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901
};
const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();

typedef struct emul_stream *cudaStream_t;
typedef struct emul_event *cudaEvent_t;
enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
constexpr unsigned int cudaStreamNonBlocking = 1;
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);

// Between begin and end of a capture, launches, copies within the device and memsets are kept
// instead of being done.
typedef struct emul_graph *cudaGraph_t;
typedef struct emul_graph *cudaGraphExec_t;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);

cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream);

struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount, l2CacheSize;
    size_t totalGlobalMem, sharedMemPerBlockOptin;
};
enum cudaDeviceAttr {
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
    cudaDevAttrMultiProcessorCount = 16
};
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int index);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int index);
cudaError_t cudaDeviceGetAttribute(int *out, cudaDeviceAttr attribute, int index);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);

enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value);
cudaError_t cudaFuncGetName(const char **name, const void *function);

enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    struct {
        int programmaticStreamSerializationAllowed;
    } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned int numAttrs;
};

namespace emul
{
// Checks the limits of a GPU; then runs.
cudaError_t launch(const cudaLaunchConfig_t &config, const void *kernel, void (*call)(void *),
                   void *args);
// Does the work, or keeps it for the graph that is being captured.
cudaError_t now_or_captured(std::function<cudaError_t()> work);
} // namespace emul

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Params...),
                               Args &&...args)
{
    struct closure {
        void (*kernel)(Params...);
        std::tuple<Params...> args;
    } c = {kernel, std::tuple<Params...>(std::forward<Args>(args)...)};
    const auto call = [](void *p) {
        const closure &self = *static_cast<const closure *>(p);
        std::apply(self.kernel, self.args); // by value: each thread has its own
    };
    const cudaLaunchConfig_t how = *config;
    return emul::now_or_captured([=]() mutable {
        return emul::launch(how, reinterpret_cast<const void *>(kernel), call, &c);
    });
}

// ---- barriers

#define EMUL_SITE(name)                                                                            \
    emul::site { file, line, name }
#define EMUL_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMUL_AT)
{
    emul::barrier(EMUL_SITE("__syncthreads"), emul::vote::none, 0);
}
inline int __syncthreads_or(int x, EMUL_AT)
{
    return emul::barrier(EMUL_SITE("__syncthreads_or"), emul::vote::any, x);
}
inline int __syncthreads_and(int x, EMUL_AT)
{
    return emul::barrier(EMUL_SITE("__syncthreads_and"), emul::vote::all, x);
}
inline int __syncthreads_count(int x, EMUL_AT)
{
    return emul::barrier(EMUL_SITE("__syncthreads_count"), emul::vote::count, x);
}

namespace emul
{

struct no_frame {
};
inline void nothing(unsigned int, void *const *) {}

template <typename T> struct shuffle_frame {
    T in, out;
    int from; // lane
    site at;
};
template <typename T> void shuffle_op(unsigned int mask, void *const *frames)
{
    for (int l = 0; l < 32; l++) {
        if (!frames[l])
            continue;
        shuffle_frame<T> &f = *static_cast<shuffle_frame<T> *>(frames[l]);
        if (!(mask >> f.from & 1))
            fail(f.at, "a shuffle reads a lane that is not in the mask");
        f.out = static_cast<shuffle_frame<T> *>(frames[f.from])->in;
    }
}
template <typename T> T shuffle(const site &at, unsigned int mask, T x, int from)
{
    shuffle_frame<T> f = {x, x, from, at};
    collective(at, mask, shuffle_op<T>, &f);
    return f.out;
}

// Reductions: out = op over the lanes, the same for each.
template <typename T> struct reduce_frame {
    T in, out;
};
template <typename T, T (*join)(T, T)> void reduce_op(unsigned int, void *const *frames)
{
    T sum = T();
    bool first = true;
    for (int l = 0; l < 32; l++)
        if (frames[l]) {
            const T x = static_cast<reduce_frame<T> *>(frames[l])->in;
            sum = first ? x : join(sum, x);
            first = false;
        }
    for (int l = 0; l < 32; l++)
        if (frames[l])
            static_cast<reduce_frame<T> *>(frames[l])->out = sum;
}
template <typename T, T (*join)(T, T)> T reduce(const site &at, unsigned int mask, T x)
{
    reduce_frame<T> f = {x, x};
    collective(at, mask, reduce_op<T, join>, &f);
    return f.out;
}
template <typename T> T join_add(T a, T b) { return a + b; }
template <typename T> T join_min(T a, T b) { return a < b ? a : b; }
template <typename T> T join_max(T a, T b) { return a > b ? a : b; }
template <typename T> T join_or(T a, T b) { return a | b; }
template <typename T> T join_and(T a, T b) { return a & b; }

template <typename T> void match_op(unsigned int, void *const *frames)
{
    typedef std::pair<T, unsigned int> frame;
    for (int l = 0; l < 32; l++)
        for (int m = 0; frames[l] && m < 32; m++)
            if (frames[m] &&
                static_cast<frame *>(frames[m])->first == static_cast<frame *>(frames[l])->first)
                static_cast<frame *>(frames[l])->second |= 1u << m;
}

} // namespace emul

inline void __syncwarp(unsigned int mask = 0xffffffffu, EMUL_AT)
{
    emul::no_frame f;
    emul::collective(EMUL_SITE("__syncwarp"), mask, emul::nothing, &f);
}

// Lanes are counted in segments of `width`; a source outside its segment is the lane itself.
template <typename T> T __shfl_sync(unsigned int mask, T x, int from, int width = 32, EMUL_AT)
{
    const int base = emul::lane() / width * width;
    return emul::shuffle(EMUL_SITE("__shfl_sync"), mask, x, base + (from & (width - 1)));
}
template <typename T> T __shfl_xor_sync(unsigned int mask, T x, int bits, int width = 32, EMUL_AT)
{
    const int lane = emul::lane(), end = lane / width * width + width;
    return emul::shuffle(EMUL_SITE("__shfl_xor_sync"), mask, x,
                         (lane ^ bits) < end ? lane ^ bits : lane);
}
template <typename T>
T __shfl_up_sync(unsigned int mask, T x, unsigned int by, int width = 32, EMUL_AT)
{
    const int lane = emul::lane(), from = lane - static_cast<int>(by);
    return emul::shuffle(EMUL_SITE("__shfl_up_sync"), mask, x,
                         from < lane / width * width ? lane : from);
}
template <typename T>
T __shfl_down_sync(unsigned int mask, T x, unsigned int by, int width = 32, EMUL_AT)
{
    const int lane = emul::lane(), from = lane + static_cast<int>(by);
    return emul::shuffle(EMUL_SITE("__shfl_down_sync"), mask, x,
                         from >= lane / width * width + width ? lane : from);
}

inline unsigned int __ballot_sync(unsigned int mask, int x, EMUL_AT)
{
    return emul::reduce<unsigned int, emul::join_or>(EMUL_SITE("__ballot_sync"), mask,
                                                     x ? 1u << emul::lane() : 0u);
}
inline int __any_sync(unsigned int mask, int x, EMUL_AT)
{
    return emul::reduce<int, emul::join_or>(EMUL_SITE("__any_sync"), mask, x != 0);
}
inline int __all_sync(unsigned int mask, int x, EMUL_AT)
{
    return emul::reduce<int, emul::join_and>(EMUL_SITE("__all_sync"), mask, x != 0);
}
#define EMUL_REDUCE(T, op)                                                                         \
    inline T __reduce_##op##_sync(unsigned int mask, T x, EMUL_AT)                                 \
    {                                                                                              \
        return emul::reduce<T, emul::join_##op>(EMUL_SITE("__reduce_" #op "_sync"), mask, x);      \
    }
EMUL_REDUCE(int, min)
EMUL_REDUCE(int, max)
EMUL_REDUCE(unsigned int, add)
EMUL_REDUCE(unsigned int, min)
EMUL_REDUCE(unsigned int, max)
EMUL_REDUCE(unsigned int, or)
EMUL_REDUCE(unsigned int, and)
#undef EMUL_REDUCE
inline int __reduce_add_sync(unsigned int mask, int x, EMUL_AT)
{
    return static_cast<int>(__reduce_add_sync(mask, static_cast<unsigned int>(x), file, line));
}
template <typename T> unsigned int __match_any_sync(unsigned int mask, T x, EMUL_AT)
{
    std::pair<T, unsigned int> f(x, 0);
    emul::collective(EMUL_SITE("__match_any_sync"), mask, emul::match_op<T>, &f);
    return f.second;
}
inline unsigned int __activemask() = delete; // what it gives depends on scheduling

// ---- memory

inline void __threadfence() {}
inline void __threadfence_block() {}
template <typename T> T __ldg(const T *p) { return *p; }
template <typename T> T __ldcg(const T *p) { return *p; }
template <typename T> T __ldcs(const T *p) { return *p; }
template <typename T> T __ldca(const T *p) { return *p; }
template <typename T> void __stcg(T *p, T x) { *p = x; }
template <typename T> void __stcs(T *p, T x) { *p = x; }
template <typename T> void __stwt(T *p, T x) { *p = x; }

// Atomics on integers alone: a sum of floats would depend on its order.
#define EMUL_ATOMIC(T)                                                                             \
    inline T atomicAdd(T *p, T x) { return std::exchange(*p, *p + x); }                            \
    inline T atomicSub(T *p, T x) { return std::exchange(*p, *p - x); }                            \
    inline T atomicExch(T *p, T x) { return std::exchange(*p, x); }                                \
    inline T atomicMin(T *p, T x) { return std::exchange(*p, *p < x ? *p : x); }                   \
    inline T atomicMax(T *p, T x) { return std::exchange(*p, *p > x ? *p : x); }                   \
    inline T atomicAnd(T *p, T x) { return std::exchange(*p, *p & x); }                            \
    inline T atomicOr(T *p, T x) { return std::exchange(*p, *p | x); }                             \
    inline T atomicXor(T *p, T x) { return std::exchange(*p, *p ^ x); }                            \
    inline T atomicCAS(T *p, T old, T x) { return std::exchange(*p, *p == old ? x : *p); }
EMUL_ATOMIC(int)
EMUL_ATOMIC(unsigned int)
EMUL_ATOMIC(unsigned long long)
#undef EMUL_ATOMIC

// ---- arithmetic

template <typename To, typename From> inline To emul_bits(From x)
{
    static_assert(sizeof(To) == sizeof(From), "");
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}
inline int __float_as_int(float x) { return emul_bits<int>(x); }
inline unsigned int __float_as_uint(float x) { return emul_bits<unsigned int>(x); }
inline float __int_as_float(int x) { return emul_bits<float>(x); }
inline float __uint_as_float(unsigned int x) { return emul_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emul_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emul_bits<double>(x); }
inline int __popc(unsigned int x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned int>(x)); }
inline int __clzll(long long x)
{
    return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned int __umulhi(unsigned int a, unsigned int b)
{
    return static_cast<unsigned int>(static_cast<uint64_t>(a) * b >> 32);
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(rintf(x)); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float exp10f(float x) { return powf(10.0f, x); }
inline void __trap() { emul::fail({"__trap", 0, "__trap"}, "a kernel gave up"); }

using std::isfinite;
using std::isinf;
using std::isnan;
#define EMUL_MIN_MAX(T)                                                                            \
    inline T min(T a, T b) { return a < b ? a : b; }                                               \
    inline T max(T a, T b) { return a > b ? a : b; }
EMUL_MIN_MAX(int)
EMUL_MIN_MAX(unsigned int)
EMUL_MIN_MAX(long)
EMUL_MIN_MAX(unsigned long)
EMUL_MIN_MAX(long long)
EMUL_MIN_MAX(unsigned long long)
#undef EMUL_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

#endif
