// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"
#include "kernels/cuda/cuda.cuh"
#include "kernels/device_blas.h"
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#define HAVE_HEADER 1
#else
#define HAVE_HEADER 0
#endif

#if HAVE_HEADER

// The library's functions that are used: our name, its name.
#define FUNCTIONS(X)                                                                               \
    X(open, cublasLtCreate)                                                                        \
    X(close, cublasLtDestroy)                                                                      \
    X(product_create, cublasLtMatmulDescCreate)                                                    \
    X(product_destroy, cublasLtMatmulDescDestroy)                                                  \
    X(product_set, cublasLtMatmulDescSetAttribute)                                                 \
    X(layout_create, cublasLtMatrixLayoutCreate)                                                   \
    X(layout_destroy, cublasLtMatrixLayoutDestroy)                                                 \
    X(preference_create, cublasLtMatmulPreferenceCreate)                                           \
    X(preference_destroy, cublasLtMatmulPreferenceDestroy)                                         \
    X(preference_set, cublasLtMatmulPreferenceSetAttribute)                                        \
    X(choose, cublasLtMatmulAlgoGetHeuristic)                                                      \
    X(multiply, cublasLtMatmul)

struct functions {
#define POINTER(name, its) decltype(&its) name;
    FUNCTIONS(POINTER)
#undef POINTER
};

struct device_blas {
    struct device *dev; // borrowed
    void *library;
    functions f;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
    void *workspace;
    size_t workspace_bytes;
};

static int load(struct device_blas *blas)
{
    char name[64];
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    blas->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!blas->library)
        return err_set(ERR_ENV, "cuBLASLt cannot be loaded: %s", dlerror());
#define FIND(ours, its)                                                                            \
    blas->f.ours = reinterpret_cast<decltype(&its)>(dlsym(blas->library, #its));                   \
    if (!blas->f.ours)                                                                             \
        return err_set(ERR_ENV, "%s has no " #its, name);
    FUNCTIONS(FIND)
#undef FIND
    return 0;
}

static int checked(const struct device_blas *blas, cublasStatus_t status, const char *what)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return 0;
    return err_set(ERR_ENV, "GPU %d: cuBLASLt: %s: status %d", blas->dev->cuda->index, what,
                   static_cast<int>(status));
}

// The library counts rows down the columns: our C is its C^T = B A^T.
static int describe(struct device_blas *blas, int m, int n, int k, enum dtype type)
{
    const functions *f = &blas->f;
    const cudaDataType_t element = type == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    const cublasOperation_t transposed = CUBLAS_OP_T, plain = CUBLAS_OP_N;
    cublasStatus_t status = f->product_create(&blas->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = f->product_set(blas->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                sizeof transposed);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = f->product_set(blas->product, CUBLASLT_MATMUL_DESC_TRANSB, &plain, sizeof plain);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = f->layout_create(&blas->a, element, k, n, k);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = f->layout_create(&blas->b, element, k, m, k);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = f->layout_create(&blas->c, element, n, m, n);
    return checked(blas, status, "description");
}

static int choose(struct device_blas *blas)
{
    const functions *f = &blas->f;
    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    cublasStatus_t status = f->preference_create(&preference);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = f->preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                   &blas->workspace_bytes, sizeof blas->workspace_bytes);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = f->choose(blas->handle, blas->product, blas->a, blas->b, blas->c, blas->c,
                           preference, 1, &found, &count);
    if (preference)
        (void)f->preference_destroy(preference);
    if (status == CUBLAS_STATUS_SUCCESS && count == 0)
        status = CUBLAS_STATUS_NOT_SUPPORTED;
    blas->algorithm = found.algo;
    return checked(blas, status, "choice of an algorithm");
}

int device_blas_open(struct device_blas **out, struct device *dev, int m, int n, int k,
                     enum dtype type)
{
    if (!dev->cuda)
        return err_set(ERR_ENV, "cuBLASLt is for GPUs");
    struct device_blas *blas = static_cast<struct device_blas *>(mem_alloc0(sizeof *blas));
    blas->dev = dev;
    blas->workspace_bytes = size_t{32} << 20; // what the library asks for on Hopper
    int rc = load(blas);
    if (rc == 0)
        rc = dev->memory->alloc(dev, &blas->workspace, blas->workspace_bytes);
    if (rc == 0)
        rc = checked(blas, blas->f.open(&blas->handle), "opening");
    if (rc == 0)
        rc = describe(blas, m, n, k, type);
    if (rc == 0)
        rc = choose(blas);
    if (rc != 0) {
        device_blas_close(&blas);
        return rc;
    }
    *out = blas;
    return 0;
}

int device_blas_product(struct device_blas *blas, const void *a, const void *b, void *c)
{
    const float one = 1.0f, zero = 0.0f;
    return checked(blas,
                   blas->f.multiply(blas->handle, blas->product, &one, b, blas->a, a, blas->b,
                                    &zero, c, blas->c, c, blas->c, &blas->algorithm,
                                    blas->workspace, blas->workspace_bytes,
                                    blas->dev->cuda->stream),
                   "product");
}

void device_blas_close(struct device_blas **blas)
{
    struct device_blas *b = *blas;
    if (!b)
        return;
    for (cublasLtMatrixLayout_t layout : {b->a, b->b, b->c})
        if (layout)
            (void)b->f.layout_destroy(layout);
    if (b->product)
        (void)b->f.product_destroy(b->product);
    if (b->handle)
        (void)b->f.close(b->handle);
    if (b->workspace)
        b->dev->memory->release(b->dev, b->workspace);
    if (b->library)
        (void)dlclose(b->library);
    free(b);
    *blas = nullptr;
}

#else

int device_blas_open(struct device_blas **, struct device *, int, int, int, enum dtype)
{
    return err_set(ERR_ENV, "this build has no cuBLASLt");
}

int device_blas_product(struct device_blas *, const void *, const void *, void *)
{
    return err_set(ERR_ENV, "this build has no cuBLASLt");
}

void device_blas_close(struct device_blas **) {}

#endif
