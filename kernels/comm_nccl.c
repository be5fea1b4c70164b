// SPDX-License-Identifier: Apache-2.0
// Exchanges by NCCL on the memory of GPUs. The library is loaded when ranks use GPUs, so that the
// program starts where there is none.
#include "kernels/comm_transport.h"

#include "base/error.h"
#include "base/mem.h"
#include "kernels/device_cuda.h"

#include <dlfcn.h>
#include <nccl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY "libnccl.so.2"

// What is used of NCCL, under its own names.
#define FUNCTIONS(X)                                                                               \
    X(ncclGetUniqueId)                                                                             \
    X(ncclCommInitRank)                                                                            \
    X(ncclCommDestroy)                                                                             \
    X(ncclCommAbort)                                                                               \
    X(ncclGetErrorString)                                                                          \
    X(ncclGroupStart)                                                                              \
    X(ncclGroupEnd)                                                                                \
    X(ncclSend)                                                                                    \
    X(ncclRecv)

struct nccl_state {
    void *library;
#define FIELD(name) __typeof__(&name) name;
    FUNCTIONS(FIELD)
#undef FIELD
    ncclComm_t comm;
    cudaStream_t stream;
};

static int fault(const struct nccl_state *s, ncclResult_t code, const char *what)
{
    return err_set(ERR_ENV, "NCCL, %s: %s", what, s->ncclGetErrorString(code));
}

// Whether the library and all that is used of it are there.
static bool load(struct nccl_state *s)
{
    s->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (s->library == NULL)
        return false;
    bool all = true;
#define LOAD(name)                                                                                 \
    {                                                                                              \
        void *at = dlsym(s->library, #name);                                                       \
        memcpy(&s->name, &at, sizeof at);                                                          \
        all = all && at != NULL;                                                                   \
    }
    FUNCTIONS(LOAD)
#undef LOAD
    return all;
}

static void unload(struct nccl_state *s)
{
    if (s->library != NULL)
        dlclose(s->library);
    free(s);
}

bool comm_have_nccl(void)
{
    struct nccl_state *s = mem_alloc0(sizeof *s);
    const bool there = load(s);
    unload(s);
    return there;
}

// Waits for the stream, unless a rank fails.
static int wait_stream(struct comm *c)
{
    const struct nccl_state *s = c->device_state;
    for (int turn = 0;; turn++) {
        const cudaError_t state = cudaStreamQuery(s->stream);
        if (state == cudaSuccess)
            return 0;
        if (state != cudaErrorNotReady)
            return err_set(ERR_ENV, "NCCL, exchange: %s", cudaGetErrorString(state));
        const int failed = comm_wait_turn(c, turn);
        if (failed != 0)
            return failed;
    }
}

static int exchange(struct comm *c, const struct comm_part *parts)
{
    const struct nccl_state *s = c->device_state;
    ncclResult_t rc = s->ncclGroupStart();
    for (int r = 0; r < c->size && rc == ncclSuccess; r++) {
        if (r == c->rank)
            continue;
        if (parts[r].send_bytes > 0)
            rc = s->ncclSend(parts[r].send, parts[r].send_bytes, ncclInt8, r, s->comm, s->stream);
        if (parts[r].recv_bytes > 0 && rc == ncclSuccess)
            rc = s->ncclRecv(parts[r].recv, parts[r].recv_bytes, ncclInt8, r, s->comm, s->stream);
    }
    const ncclResult_t ended = s->ncclGroupEnd();
    rc = rc == ncclSuccess ? ended : rc;
    return rc == ncclSuccess ? wait_stream(c) : fault(s, rc, "exchange");
}

static void close_nccl(struct comm *c, bool orderly)
{
    struct nccl_state *s = c->device_state;
    if (orderly)
        s->ncclCommDestroy(s->comm);
    else
        s->ncclCommAbort(s->comm);
    unload(s);
}

static const struct comm_transport transport = {"NCCL", exchange, close_nccl};

static int join(struct comm *c, struct nccl_state *s)
{
    ncclUniqueId id = {0};
    ncclResult_t rc = c->rank == 0 ? s->ncclGetUniqueId(&id) : ncclSuccess;
    if (rc != ncclSuccess)
        return fault(s, rc, "start");
    const int failed = comm_broadcast(c, &id, sizeof id, 0);
    if (failed != 0)
        return failed;
    rc = s->ncclCommInitRank(&s->comm, c->size, id, c->rank);
    return rc == ncclSuccess ? 0 : fault(s, rc, "start");
}

// Newer NCCLs serve ranks that share a GPU when this variable of theirs says so; those that do not
// know it fail at the start.
static bool may_share_gpu(void)
{
    const char *says = getenv("NCCL_MULTI_RANK_GPU_ENABLE");
    return says != NULL && strcmp(says, "0") != 0;
}

// Whether two ranks compute on one GPU.
static int share_gpu(struct comm *c, bool *shared)
{
    struct {
        char host[128], bus[32];
    } mine = {0}, *all = NULL;
    int index = 0, same = 0;
    gethostname(mine.host, sizeof mine.host - 1);
    if (cudaGetDevice(&index) != cudaSuccess ||
        cudaDeviceGetPCIBusId(mine.bus, sizeof mine.bus, index) != cudaSuccess)
        return err_set(ERR_ENV, "the GPU's place on the bus is not known");
    size_t *offset = mem_array0((size_t)c->size + 1, sizeof *offset);
    const int rc = comm_gather(c, COMM_CONTROL, &mine, sizeof mine, (void **)&all, offset);
    for (int r = 0; r < c->size && rc == 0; r++)
        same += memcmp(&all[r], &mine, sizeof mine) == 0;
    free(offset);
    free(all);
    *shared = same > 1;
    return rc != 0 ? rc : comm_any(c, shared);
}

int comm_open_nccl(struct comm *c, struct device *dev, const char **how)
{
    bool shared = false;
    int rc = share_gpu(c, &shared);
    if (rc != 0 || (shared && !may_share_gpu())) {
        *how = "way of the host: ranks share a GPU";
        return rc;
    }
    struct nccl_state *s = mem_alloc0(sizeof *s);
    bool missing = !load(s);
    rc = comm_any(c, &missing); // all ranks, or none
    if (rc != 0 || missing) {
        unload(s);
        *how = "way of the host: NCCL (" LIBRARY ") is not there on every machine";
        return rc;
    }
    s->stream = device_cuda_stream(dev);
    rc = join(c, s);
    if (rc != 0) {
        unload(s);
        return rc;
    }
    c->on_device = &transport;
    c->device_state = s;
    *how = transport.name;
    return 0;
}
