// SPDX-License-Identifier: Apache-2.0
#include "kernels/device.h"
#include "base/error.h"
#include "base/mem.h"
#include "kernels/cpu/reference.h"
#include <stdlib.h>

enum device_isa device_best_isa(void) { return DEVICE_REFERENCE; }

const char *device_isa_name(enum device_isa isa)
{
    static const char *const names[] = {"reference", "avx2", "avx512", "best"};
    return names[isa];
}

int device_open(struct device **out, struct team *team, enum device_isa isa)
{
    const enum device_isa best = device_best_isa();
    if (isa != DEVICE_BEST && isa > best)
        return err_set(ERR_ENV, "this CPU does not have the instructions of \"%s\"",
                       device_isa_name(isa));
    struct device *dev = mem_alloc0(sizeof(*dev));
    dev->isa = isa == DEVICE_BEST ? best : isa;
    dev->team = team;
    dev->k = &reference_kernels;
    *out = dev;
    return 0;
}

void device_free(struct device **dev)
{
    if (!dev || !*dev)
        return;
    free(*dev);
    *dev = NULL;
}

size_t matmul_packed_size(const struct device *dev, int k, int n)
{
    (void)dev;
    return (size_t)k * (size_t)n;
}
