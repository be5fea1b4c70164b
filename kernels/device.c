// SPDX-License-Identifier: Apache-2.0
#include "kernels/device.h"
#include "base/error.h"
#include "base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/probe.h"
#include "kernels/cpu/reference.h"
#include "kernels/cpu/scratch.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

bool device_has_isa(enum device_isa isa)
{
    switch (isa) {
    case DEVICE_AVX2:
        return probe_avx2();
    case DEVICE_AVX512:
        return probe_avx512();
    case DEVICE_AVX512BF16:
        return probe_avx512bf16();
    case DEVICE_AMX:
        return probe_amx();
    case DEVICE_REFERENCE:
    case DEVICE_BEST:
    default:
        return true;
    }
}

enum device_isa device_best_isa(void)
{
    if (device_has_isa(DEVICE_AMX))
        return DEVICE_AMX;
    if (device_has_isa(DEVICE_AVX512BF16) && probe_dots_pay())
        return DEVICE_AVX512BF16;
    if (device_has_isa(DEVICE_AVX512))
        return DEVICE_AVX512;
    return device_has_isa(DEVICE_AVX2) ? DEVICE_AVX2 : DEVICE_REFERENCE;
}

static const struct kernels *table_of(enum device_isa isa)
{
#if defined(__x86_64__)
    static const struct kernels *const tables[] = {
        &reference_kernels, &kernels_avx2, &kernels_avx512, &kernels_avx512bf16, &kernels_amx};
    return tables[isa];
#else
    (void)isa;
    return &reference_kernels;
#endif
}

// ---- memory of a CPU device: the host's

#define CACHE_LINE ((size_t)64)
#define HUGE_PAGE  ((size_t)2 << 20) // bytes

// Whatever fills a huge page asks for them: reading all weights once a step in pages of 4 KiB costs
// the walks through the page tables.
static int host_alloc(struct device *dev, void **out, size_t bytes)
{
    const bool large = bytes >= HUGE_PAGE;
    void *p = NULL;
    if (posix_memalign(&p, large ? HUGE_PAGE : CACHE_LINE, bytes ? bytes : CACHE_LINE)) {
        dev->refused = bytes;
        return err_set(ERR_ENV, "there is no memory for %zu bytes", bytes);
    }
    if (large)
        (void)madvise(p, bytes, MADV_HUGEPAGE); // a kernel without them gives small ones
    *out = p;
    return 0;
}

static void host_release(struct device *dev, void *p)
{
    (void)dev;
    free(p);
}

static int host_copy(struct device *dev, void *to, const void *from, size_t bytes)
{
    (void)dev;
    if (bytes > 0)
        memcpy(to, from, bytes);
    return 0;
}

static int host_zero(struct device *dev, void *p, size_t bytes)
{
    (void)dev;
    if (bytes > 0)
        memset(p, 0, bytes);
    return 0;
}

static int host_sync(struct device *dev)
{
    (void)dev;
    return 0;
}

static int host_available(struct device *dev, size_t *bytes)
{
    (void)dev;
    *bytes = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    return 0;
}

static void host_close(struct device *dev) { scratch_free(&dev->scratch); }

static const struct device_memory host_memory = {
    .alloc = host_alloc,
    .release = host_release,
    .upload = host_copy,
    .download = host_copy,
    .copy = host_copy,
    .zero = host_zero,
    .sync = host_sync,
    .available = host_available,
    .close = host_close,
    .of_host = true,
};

// ---- opening

const char *device_isa_name(enum device_isa isa)
{
    static const char *const names[] = {"reference", "avx2", "avx512", "avx512bf16", "amx", "best"};
    return names[isa];
}

int device_open(struct device **out, struct team *team, enum device_isa isa)
{
    if (!device_has_isa(isa))
        return err_set(ERR_ENV,
                       "this CPU, or this build, does not have the instructions of \"%s\"; the "
                       "best are \"%s\"",
                       device_isa_name(isa), device_isa_name(device_best_isa()));
    struct device *dev = mem_alloc0(sizeof(*dev));
    dev->isa = isa == DEVICE_BEST ? device_best_isa() : isa;
    dev->team = team;
    snprintf(dev->name, sizeof dev->name, "%s", device_isa_name(dev->isa));
    dev->k = table_of(dev->isa);
    dev->reads_plain = true;
    dev->memory = &host_memory;
    dev->scratch = scratch_create(team_size(team));
    *out = dev;
    return 0;
}

void device_free(struct device **dev)
{
    if (!dev || !*dev)
        return;
    (*dev)->memory->close(*dev);
    free(*dev);
    *dev = NULL;
}

size_t matmul_packed_size(const struct device *dev, int k, int n)
{
    return dev->k->matmul_packed_size(dev, k, n);
}
