// SPDX-License-Identifier: Apache-2.0
// GPUs as devices. Their memory is plain device memory (never managed), so what lies in it is
// reached by the functions of device_memory alone. A GPU needs compute capability 8.0 or newer.
#ifndef KERNELS_DEVICE_CUDA_H
#define KERNELS_DEVICE_CUDA_H

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

// The GPU `index`, as CUDA counts them; team: of the host, borrowed. ERR_ENV, and the message says
// why, when there is no such GPU, its driver is too old, or this build has no CUDA.
int device_open_cuda(struct device **out, struct team *team, int index);

// GPUs that CUDA finds; 0 when there is none or this build has no CUDA, and err_message says why.
int device_cuda_count(void);

struct device_cuda_info {
    char name[128];
    int arch; // 10 * major + minor of the compute capability
    int num_sms;
    size_t memory, memory_free; // bytes
    size_t cache;               // bytes of L2
    int driver, runtime;        // versions of CUDA, 1000 * major + 10 * minor
};
int device_cuda_info(struct device_cuda_info *out, int index);

#ifdef __cplusplus
}
#endif

#endif
