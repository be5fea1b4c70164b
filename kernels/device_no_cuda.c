// SPDX-License-Identifier: Apache-2.0
// Stands for device_cuda.cu and device_blas.cu in a build without CUDA.
#include "base/error.h"
#include "kernels/device_blas.h"
#include "kernels/device_cuda.h"

static int no_cuda(void) { return err_set(ERR_ENV, "this build has no CUDA"); }

int device_open_cuda(struct device **out, struct team *team, int index)
{
    (void)out, (void)team, (void)index;
    return no_cuda();
}

int device_cuda_count(void)
{
    no_cuda();
    return 0;
}

int device_cuda_info(struct device_cuda_info *out, int index)
{
    (void)out, (void)index;
    return no_cuda();
}

int device_blas_open(struct device_blas **out, struct device *dev, int m, int n, int k,
                     enum dtype type)
{
    (void)out, (void)dev, (void)m, (void)n, (void)k, (void)type;
    return no_cuda();
}

int device_blas_product(struct device_blas *blas, const void *a, const void *b, void *c)
{
    (void)blas, (void)a, (void)b, (void)c;
    return no_cuda();
}

void device_blas_close(struct device_blas **blas) { (void)blas; }
