// SPDX-License-Identifier: Apache-2.0
// The part of CUDA's runtime that the kernels' side uses: one device, whose memory is a region of
// addresses that the host may touch only through the copies.
#include <csignal>
#include <cuda_runtime.h>
#include <map>
#include <sys/mman.h>
#include <unistd.h>

#ifdef EMUL_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n)   ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

namespace
{

constexpr size_t REGION = size_t(8) << 30; // addresses; pages are taken when touched
constexpr size_t ALIGN = 256;              // of an allocation, and the gap after it
constexpr int POISON = 0xff;
constexpr unsigned int MAX_THREADS = 1024, MAX_GRID_YZ = 65535;
constexpr size_t SHARED_DEFAULT = 48 * 1024, SHARED_MAX = 163 * 1024; // of sm_80
constexpr size_t SHARED_MAX_HOPPER = 227 * 1024;

// The architecture played: sm_80, or CUDA_EMUL_ARCH (90).
int arch()
{
    static const char *const text = getenv("CUDA_EMUL_ARCH");
    return text ? atoi(text) : 80;
}

size_t shared_max() { return arch() == 90 ? SHARED_MAX_HOPPER : SHARED_MAX; }

struct device_state {
    char *base = nullptr;
    size_t page = 4096, high = 0;  // high: bytes that were ever given out
    std::map<size_t, size_t> used; // offset and bytes
    std::map<const void *, size_t> shared_allowed;
    cudaError_t last = cudaSuccess;
    emul_graph *capture = nullptr; // under way
    bool capture_broken = false;
};

device_state &device()
{
    static device_state d;
    return d;
}

cudaError_t failed(cudaError_t error) { return device().last = error; }

cudaError_t outside_of_capture()
{
    if (!device().capture)
        return cudaSuccess;
    device().capture_broken = true;
    return failed(cudaErrorStreamCaptureUnsupported);
}

void on_fault(int number, siginfo_t *info, void *)
{
    const device_state &d = device();
    const char *p = static_cast<const char *>(info->si_addr);
    if (p >= d.base && p < d.base + REGION) {
        const char text[] = "cuda_emul: device memory was touched by the host, or past its end\n";
        (void)!write(2, text, sizeof text - 1);
    }
    signal(number, SIG_DFL); // the instruction faults again
}

void reserve_region(device_state &d)
{
    d.page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void *p = mmap(nullptr, REGION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("cuda_emul: the memory of the device");
        abort();
    }
    d.base = static_cast<char *>(p);
    ASAN_POISON_MEMORY_REGION(d.base, REGION);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
}

// While one exists, device memory may be touched.
struct opened {
    opened() { protect(PROT_READ | PROT_WRITE); }
    ~opened() { protect(PROT_NONE); }
    static void protect(int how)
    {
        const device_state &d = device();
        const size_t bytes = (d.high + d.page - 1) / d.page * d.page;
        if (bytes > 0 && mprotect(d.base, bytes, how) != 0)
            abort();
    }
};

// Whether p .. p + bytes lies in one allocation.
bool on_device(const void *p, size_t bytes)
{
    const device_state &d = device();
    const char *c = static_cast<const char *>(p);
    if (!d.base || c < d.base || c >= d.base + REGION)
        return false;
    const size_t at = static_cast<size_t>(c - d.base);
    auto next = d.used.upper_bound(at);
    if (next == d.used.begin())
        return false;
    --next;
    return at + bytes <= next->first + next->second;
}

bool on_host(const void *p)
{
    const device_state &d = device();
    const char *c = static_cast<const char *>(p);
    return !d.base || c < d.base || c >= d.base + REGION;
}

} // namespace

const char *cudaGetErrorName(cudaError_t error)
{
    return error == cudaSuccess ? "cudaSuccess" : "cudaError";
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorInvalidValue:
        return "invalid argument";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInvalidConfiguration:
        return "invalid configuration argument";
    case cudaErrorInsufficientDriver:
        return "CUDA driver version is insufficient";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
        return "operation failed due to a previous error during capture";
    }
    return "unrecognized error code";
}

cudaError_t cudaGetLastError() { return std::exchange(device().last, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return device().last; }

struct emul_stream {
    int unused;
};

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int)
{
    *stream = new emul_stream();
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    delete stream;
    return cudaSuccess;
}
// What a capture forbids ends it without a graph.
cudaError_t cudaStreamSynchronize(cudaStream_t) { return outside_of_capture(); }

struct emul_graph {
    std::vector<std::function<cudaError_t()>> work;
};

cudaError_t emul::now_or_captured(std::function<cudaError_t()> work)
{
    if (!device().capture)
        return work();
    device().capture->work.push_back(std::move(work));
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode)
{
    if (device().capture)
        return failed(cudaErrorStreamCaptureInvalidated);
    device().capture = new emul_graph();
    device().capture_broken = false;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph)
{
    *graph = std::exchange(device().capture, nullptr);
    if (!device().capture_broken)
        return cudaSuccess;
    delete std::exchange(*graph, nullptr);
    return failed(cudaErrorStreamCaptureInvalidated);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    *out = new emul_graph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t)
{
    cudaError_t error = outside_of_capture();
    for (const auto &work : graph->work)
        error = error == cudaSuccess ? work() : error;
    return error;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return cudaGraphDestroy(graph); }

// First fit between the allocations that there are.
cudaError_t cudaMalloc(void **p, size_t bytes)
{
    device_state &d = device();
    if (outside_of_capture() != cudaSuccess)
        return d.last;
    if (!d.base)
        reserve_region(d);
    const size_t room = (bytes + ALIGN - 1) / ALIGN * ALIGN + ALIGN;
    size_t at = 0;
    for (const auto &u : d.used) {
        if (u.first - at >= room)
            break;
        at = (u.first + u.second + ALIGN - 1) / ALIGN * ALIGN + ALIGN;
    }
    if (bytes > REGION || at + room > REGION)
        return failed(cudaErrorMemoryAllocation);
    d.used[at] = bytes;
    d.high = std::max(d.high, at + room);
    ASAN_UNPOISON_MEMORY_REGION(d.base + at, bytes);
    const opened now;
    memset(d.base + at, POISON, bytes);
    *p = d.base + at;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    device_state &d = device();
    if (!p)
        return cudaSuccess;
    const auto found = d.used.find(static_cast<size_t>(static_cast<char *>(p) - d.base));
    if (on_host(p) || found == d.used.end())
        return failed(cudaErrorInvalidValue);
    {
        const opened now;
        memset(p, POISON, found->second);
    }
    ASAN_POISON_MEMORY_REGION(p, found->second);
    d.used.erase(found);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    *p = malloc(bytes);
    return *p ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void *p)
{
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    size_t used = 0;
    for (const auto &u : device().used)
        used += u.second;
    *total = REGION;
    *available = REGION - used;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t)
{
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if ((to_device ? !on_device(to, bytes) : !on_host(to)) ||
        (from_device ? !on_device(from, bytes) : !on_host(from)))
        return failed(cudaErrorInvalidValue);
    if ((!to_device || !from_device) && outside_of_capture() != cudaSuccess)
        return device().last; // pageable memory of the host is waited for
    return emul::now_or_captured([=] {
        const opened now;
        memmove(to, from, bytes);
        return cudaSuccess;
    });
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t)
{
    if (!on_device(p, bytes))
        return failed(cudaErrorInvalidValue);
    return emul::now_or_captured([=] {
        const opened now;
        memset(p, value, bytes);
        return cudaSuccess;
    });
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int index)
{
    return index == 0 ? cudaSuccess : failed(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int index)
{
    *out = {};
    strcpy(out->name, "emulation");
    out->major = arch() / 10;
    out->minor = arch() % 10;
    out->multiProcessorCount = 4; // few, so that loops over a grid run more than once
    out->totalGlobalMem = REGION;
    out->sharedMemPerBlockOptin = shared_max();
    return cudaSetDevice(index);
}
cudaError_t cudaDeviceGetAttribute(int *out, cudaDeviceAttr attribute, int index)
{
    *out = attribute == cudaDevAttrMultiProcessorCount ? 4 : static_cast<int>(shared_max());
    return cudaSetDevice(index);
}
cudaError_t cudaDriverGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value)
{
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess;
    if (value < 0 || static_cast<size_t>(value) > shared_max())
        return failed(cudaErrorInvalidValue);
    device().shared_allowed[function] = static_cast<size_t>(value);
    return cudaSuccess;
}

cudaError_t cudaFuncGetName(const char **, const void *) { return cudaErrorInvalidValue; }

cudaError_t emul::launch(const cudaLaunchConfig_t &config, const void *kernel, void (*call)(void *),
                         void *args)
{
    const dim3 g = config.gridDim, b = config.blockDim;
    const auto found = device().shared_allowed.find(kernel);
    const size_t allowed = found == device().shared_allowed.end()
                               ? SHARED_DEFAULT
                               : std::max(SHARED_DEFAULT, found->second);
    const size_t threads = size_t(b.x) * b.y * b.z;
    if (threads == 0 || threads > MAX_THREADS || b.z > 64 || g.x == 0 || g.x > INT_MAX ||
        g.y == 0 || g.y > MAX_GRID_YZ || g.z == 0 || g.z > MAX_GRID_YZ)
        return failed(cudaErrorInvalidConfiguration);
    if (config.dynamicSmemBytes > allowed)
        return failed(cudaErrorInvalidValue);
    const opened now;
    emul::run({{g.x, g.y, g.z}, {b.x, b.y, b.z}, config.dynamicSmemBytes, call, args});
    return cudaSuccess;
}
