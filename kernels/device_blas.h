// SPDX-License-Identifier: Apache-2.0
// A dense product by the GPU vendor's own library (cuBLASLt), to compare ours with. It is loaded
// when it is first asked for; nothing else needs it.
#ifndef KERNELS_DEVICE_BLAS_H
#define KERNELS_DEVICE_BLAS_H

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

struct device_blas;

// Of C [m,n] = A [m,k] B^T, B [n,k], all dense and of one type; sums are float32 (no TF32). ERR_ENV
// where dev is no GPU, or the library is not found or refuses.
int device_blas_open(struct device_blas **out, struct device *dev, int m, int n, int k,
                     enum dtype type);
int device_blas_product(struct device_blas *blas, const void *a, const void *b, void *c);
void device_blas_close(struct device_blas **blas);

#ifdef __cplusplus
}
#endif

#endif
