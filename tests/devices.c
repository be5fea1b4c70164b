// SPDX-License-Identifier: Apache-2.0
#include "tests/devices.h"

#include "base/error.h"
#include "base/mem.h"
#include "kernels/device_cuda.h"
#include "tests/fenced_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int here(int out[TEST_DEVICES_MAX])
{
    int n = 0;
    for (int isa = DEVICE_REFERENCE; isa < DEVICE_BEST; isa++)
        if (device_has_isa((enum device_isa)isa))
            out[n++] = isa;
    out[n++] = DEVICE_FENCED;
    if (device_cuda_count() > 0)
        out[n++] = DEVICE_GPU;
    return n;
}

int test_devices(int out[TEST_DEVICES_MAX])
{
    const char *only = getenv("TEST_DEVICES");
    const int n = here(out);
    if (!only)
        return n;
    for (int i = 0; i < n; i++) {
        if (strcmp(test_device_name(out[i]), only) == 0) {
            out[0] = out[i];
            return 1;
        }
    }
    fprintf(stderr, "TEST_DEVICES: there is no device \"%s\" here\n", only);
    abort();
}

const char *test_device_name(int which)
{
    if (which == DEVICE_GPU)
        return "cuda";
    return which == DEVICE_FENCED ? "fenced" : device_isa_name((enum device_isa)which);
}

int test_device_open(struct device **out, struct team *team, int which)
{
    if (which == DEVICE_FENCED)
        return fenced_open(out, team, DEVICE_BEST);
    if (which == DEVICE_GPU)
        return device_open_cuda(out, team, 0);
    return device_open(out, team, (enum device_isa)which);
}

void test_device_close(struct device **dev)
{
    if (dev)
        fenced_close(*dev);
    device_free(dev);
}

static void must(int rc)
{
    if (rc == 0)
        return;
    fprintf(stderr, "device memory: %s\n", err_message());
    abort();
}

void device_get(struct device *dev, void *to_host, const void *from, size_t bytes)
{
    must(dev->memory->download(dev, to_host, from, bytes));
}

void device_put(struct device *dev, void *to, const void *from_host, size_t bytes)
{
    must(dev->memory->upload(dev, to, from_host, bytes));
}

float *device_floats(struct device *dev, const float *from, size_t n)
{
    float *host = mem_floats(n);
    device_get(dev, host, from, n * sizeof *host);
    return host;
}

int *device_ints(struct device *dev, const int *from, size_t n)
{
    int *host = mem_alloc(n * sizeof *host);
    device_get(dev, host, from, n * sizeof *host);
    return host;
}

void *device_new(struct device *dev, const void *from_host, size_t bytes)
{
    void *p = NULL;
    must(dev->memory->alloc(dev, &p, bytes));
    if (from_host)
        device_put(dev, p, from_host, bytes);
    return p;
}
