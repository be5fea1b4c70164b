// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"
#include "kernels/cuda/cuda.cuh"
#include "kernels/device_cuda.h"
#include <cstdio>
#include <cstdlib>
#include <cxxabi.h>

// ---- errors

int cuda_fail(const struct device *dev, cudaError_t error, const char *what)
{
    return err_set(ERR_ENV, "GPU %d: %s: %s", dev->cuda->index, what, cudaGetErrorString(error));
}

int cuda_fail_launch(const struct device *dev, cudaError_t error, const void *kernel)
{
    const char *name = nullptr;
    if (cudaFuncGetName(&name, kernel) != cudaSuccess || !name)
        name = "a kernel";
    char *plain = abi::__cxa_demangle(name, nullptr, nullptr, nullptr);
    const int rc = cuda_fail(dev, error, plain ? plain : name);
    free(plain);
    return rc;
}

// A failure that is not sticky must not be reported again by the next launch.
static int checked(const struct device *dev, cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return 0;
    (void)cudaGetLastError();
    return cuda_fail(dev, error, what);
}

// ---- memory

static int fail_alloc(struct device *dev, cudaError_t error, size_t bytes)
{
    if (error != cudaErrorMemoryAllocation)
        return checked(dev, error, "memory");
    (void)cudaGetLastError();
    size_t available = 0, total = 0;
    (void)cudaMemGetInfo(&available, &total);
    dev->refused = bytes;
    return err_set(ERR_ENV, "GPU %d: out of memory: %.1f MiB wanted, %.1f of %.1f MiB are free",
                   dev->cuda->index, static_cast<double>(bytes) / 1048576.0,
                   static_cast<double>(available) / 1048576.0,
                   static_cast<double>(total) / 1048576.0);
}

static int cuda_alloc(struct device *dev, void **out, size_t bytes)
{
    void *p = nullptr;
    const cudaError_t error = cudaMalloc(&p, bytes > 0 ? bytes : 1);
    if (error != cudaSuccess)
        return fail_alloc(dev, error, bytes);
    *out = p;
    return 0;
}

static void cuda_release(struct device *dev, void *p)
{
    (void)dev;
    (void)cudaFree(p);
}

static int cuda_sync(struct device *dev)
{
    return checked(dev, cudaStreamSynchronize(dev->cuda->stream), "kernels");
}

// Copies of pageable memory are staged by the driver; they are over when the stream has passed
// them.
static int copy_and_wait(struct device *dev, void *to, const void *from, size_t bytes,
                         cudaMemcpyKind kind, const char *what)
{
    if (bytes == 0)
        return 0;
    const int rc = checked(dev, cudaMemcpyAsync(to, from, bytes, kind, dev->cuda->stream), what);
    return rc != 0 ? rc : checked(dev, cudaStreamSynchronize(dev->cuda->stream), what);
}

static int cuda_upload(struct device *dev, void *to, const void *from, size_t bytes)
{
    return copy_and_wait(dev, to, from, bytes, cudaMemcpyHostToDevice, "copy to the GPU");
}

static int cuda_download(struct device *dev, void *to, const void *from, size_t bytes)
{
    return copy_and_wait(dev, to, from, bytes, cudaMemcpyDeviceToHost, "copy from the GPU");
}

static int cuda_copy(struct device *dev, void *to, const void *from, size_t bytes)
{
    if (bytes == 0)
        return 0;
    return checked(
        dev, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, dev->cuda->stream), "copy");
}

static int cuda_zero(struct device *dev, void *p, size_t bytes)
{
    if (bytes == 0)
        return 0;
    return checked(dev, cudaMemsetAsync(p, 0, bytes, dev->cuda->stream), "zeroing");
}

int cuda_scratch_bytes(struct device *dev, enum cuda_scratch_use use, void **out, size_t bytes)
{
    struct cuda_scratch *s = &dev->cuda->scratch[use];
    if (s->bytes < bytes) {
        // cudaFree waits for the kernels that still use the old buffer.
        (void)cudaFree(s->data);
        *s = {};
        const size_t room = bytes + bytes / 4;
        const int rc = cuda_alloc(dev, &s->data, room);
        if (rc != 0)
            return rc;
        s->bytes = room;
    }
    *out = s->data;
    return 0;
}

// ---- recording: a graph, with the scratch buffers that its kernels use

struct cuda_record {
    cudaGraphExec_t graph;
    const void *scratch[SCRATCH_USES];
};

static int cuda_record_begin(struct device *dev)
{
    return checked(dev, cudaStreamBeginCapture(dev->cuda->stream, cudaStreamCaptureModeThreadLocal),
                   "recording");
}

static int cuda_record_end(struct device *dev, void **out)
{
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    cudaError_t error = cudaStreamEndCapture(dev->cuda->stream, &graph);
    if (error == cudaSuccess && out)
        error = cudaGraphInstantiate(&ready, graph, 0);
    if (graph)
        (void)cudaGraphDestroy(graph);
    if (!out) {
        (void)cudaGetLastError(); // what failed in between was reported there
        return 0;
    }
    if (error != cudaSuccess)
        return checked(dev, error, "recording");
    struct cuda_record *r = static_cast<struct cuda_record *>(mem_alloc0(sizeof *r));
    r->graph = ready;
    for (int i = 0; i < SCRATCH_USES; i++)
        r->scratch[i] = dev->cuda->scratch[i].data;
    *out = r;
    return 0;
}

static bool cuda_record_is_usable(const struct device *dev, const void *record)
{
    const struct cuda_record *r = static_cast<const struct cuda_record *>(record);
    for (int i = 0; i < SCRATCH_USES; i++)
        if (r->scratch[i] != dev->cuda->scratch[i].data)
            return false;
    return true;
}

static int cuda_record_launch(struct device *dev, const void *record)
{
    const struct cuda_record *r = static_cast<const struct cuda_record *>(record);
    return checked(dev, cudaGraphLaunch(r->graph, dev->cuda->stream), "replaying");
}

// The graph may be under way.
static void cuda_record_release(struct device *dev, void *record)
{
    struct cuda_record *r = static_cast<struct cuda_record *>(record);
    (void)cudaStreamSynchronize(dev->cuda->stream);
    (void)cudaGraphExecDestroy(r->graph);
    free(r);
}

static const struct device_recorder cuda_recorder = {cuda_record_begin, cuda_record_end,
                                                     cuda_record_is_usable, cuda_record_launch,
                                                     cuda_record_release};

// ---- opening

static void cuda_close(struct device *dev)
{
    struct cuda_state *s = dev->cuda;
    if (!s)
        return;
    if (s->stream)
        (void)cudaStreamSynchronize(s->stream);
    for (struct cuda_scratch &buffer : s->scratch)
        (void)cudaFree(buffer.data);
    if (s->stream)
        (void)cudaStreamDestroy(s->stream);
    free(s);
    dev->cuda = nullptr;
}

static int cuda_available(struct device *dev, size_t *bytes)
{
    size_t total = 0;
    return checked(dev, cudaMemGetInfo(bytes, &total), "memory");
}

static const struct device_memory cuda_memory = {
    cuda_alloc, cuda_release, cuda_upload,    cuda_download, cuda_copy,
    cuda_zero,  cuda_sync,    cuda_available, cuda_close,    false};

void *device_cuda_stream(const struct device *dev) { return dev->cuda->stream; }

int device_cuda_count(void)
{
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0)
        return count;
    (void)cudaGetLastError();
    if (error == cudaErrorInsufficientDriver) {
        int driver = 0, runtime = 0;
        (void)cudaDriverGetVersion(&driver);
        (void)cudaRuntimeGetVersion(&runtime);
        if (driver > 0)
            err_set(ERR_ENV, "the GPU's driver is for CUDA %d.%d; this build needs %d.%d",
                    driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
        else
            err_set(ERR_ENV, "there is no NVIDIA driver");
    } else {
        err_set(ERR_ENV, "CUDA finds no GPU: %s",
                cudaGetErrorString(error == cudaSuccess ? cudaErrorNoDevice : error));
    }
    return 0;
}

int device_cuda_info(struct device_cuda_info *out, int index)
{
    const int count = device_cuda_count();
    if (count == 0)
        return ERR_ENV;
    if (index < 0 || index >= count)
        return err_set(ERR_ENV, "there is no GPU %d; there are %d, counted from 0", index, count);
    cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, index);
    size_t available = 0, total = 0;
    int driver = 0, runtime = 0;
    if (error == cudaSuccess)
        error = cudaSetDevice(index);
    if (error == cudaSuccess)
        error = cudaMemGetInfo(&available, &total);
    if (error == cudaSuccess)
        error = cudaDriverGetVersion(&driver);
    if (error == cudaSuccess)
        error = cudaRuntimeGetVersion(&runtime);
    if (error != cudaSuccess) {
        (void)cudaGetLastError();
        return err_set(ERR_ENV, "GPU %d: %s", index, cudaGetErrorString(error));
    }
    *out = {};
    snprintf(out->name, sizeof out->name, "%.127s", properties.name);
    out->arch = 10 * properties.major + properties.minor;
    out->num_sms = properties.multiProcessorCount;
    out->memory = total;
    out->memory_free = available;
    out->cache = static_cast<size_t>(properties.l2CacheSize);
    out->driver = driver;
    out->runtime = runtime;
    return 0;
}

static int open_state(struct device *dev, int index)
{
    struct cuda_state *s = dev->cuda;
    int shared = 0;
    cudaError_t error =
        cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking);
    s->shared_max = static_cast<size_t>(shared);
    return checked(dev, error, "opening");
}

int device_open_cuda(struct device **out, struct team *team, int index)
{
    struct device_cuda_info info;
    int rc = device_cuda_info(&info, index);
    if (rc != 0)
        return rc;
    if (info.arch < 80)
        return err_set(ERR_ENV, "GPU %d, %s, has compute capability %d.%d; 8.0 or newer is needed",
                       index, info.name, info.arch / 10, info.arch % 10);
    struct device *dev = static_cast<struct device *>(mem_alloc0(sizeof *dev));
    snprintf(dev->name, sizeof dev->name, "cuda:%d, %s", index, info.name);
    dev->k = &kernels_cuda;
    dev->memory = &cuda_memory;
    dev->recorder = &cuda_recorder;
    dev->team = team;
    dev->isa = device_best_isa();
    dev->cuda = static_cast<struct cuda_state *>(mem_alloc0(sizeof *dev->cuda));
    dev->cuda->index = index;
    dev->cuda->arch = info.arch;
    dev->cuda->num_sms = info.num_sms;
    rc = open_state(dev, index);
    if (rc != 0) {
        device_free(&dev);
        return rc;
    }
    *out = dev;
    return 0;
}
