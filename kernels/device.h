// SPDX-License-Identifier: Apache-2.0
// A device: the memory and the kernels of one processor, and the team of threads that runs them.
// Used by one thread at a time. What a kernel reads and writes lies in the device's memory; on a
// CPU that is host memory, so code that goes through the functions here works on either.
#ifndef KERNELS_DEVICE_H
#define KERNELS_DEVICE_H

#include "kernels/kernels.h"
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// Instruction sets of the CPU variants. DEVICE_REFERENCE is the plain definition of every
// operation. AVX512BF16 and AMX differ from AVX512 in products of bfloat16 alone: dot products of
// pairs, or products of tiles, instead of widened multiply-adds.
enum device_isa {
    DEVICE_REFERENCE,
    DEVICE_AVX2,
    DEVICE_AVX512,
    DEVICE_AVX512BF16,
    DEVICE_AMX,
    DEVICE_BEST
};

// Memory of a device. Operations are ordered with the device's kernels; upload and download are
// over when they return. An alloc that the device has no room for is ERR_ENV, and device.refused
// says how much it was.
struct device_memory {
    int (*alloc)(struct device *, void **out, size_t bytes); // 64-byte aligned, not initialised
    void (*release)(struct device *, void *p);
    int (*upload)(struct device *, void *to, const void *from_host, size_t bytes);
    int (*download)(struct device *, void *to_host, const void *from, size_t bytes);
    int (*copy)(struct device *, void *to, const void *from, size_t bytes);
    int (*zero)(struct device *, void *p, size_t bytes);
    int (*sync)(struct device *); // waits for the kernels; a launch's late failure shows here
    // (optional) Bytes of the machine, or of a GPU those that are free; without it a cache takes
    // what it asks for.
    int (*available)(struct device *, size_t *bytes);
    void (*close)(struct device *); // frees what the device holds for itself
    bool of_host; // (optional) the memory is the host's, which may use it as its own
};

// Records what kernels and copies within the device are put on it between begin and end, instead of
// doing it. For replay.h.
struct device_recorder {
    int (*begin)(struct device *);
    int (*end)(struct device *, void **out); // out NULL: what was recorded is dropped
    // Whether the memory that the device keeps for itself is where it was.
    bool (*is_usable)(const struct device *, const void *record);
    int (*launch)(struct device *, const void *record); // does it all, in order with the rest
    void (*release)(struct device *, void *record);
};

struct device {
    char name[144]; // "avx512"; "cuda:0, NVIDIA H200"
    const struct kernels *k;
    const struct device_memory *memory;
    const struct device_recorder *recorder; // NULL: the device cannot record
    struct team *team;                      // borrowed; NULL: the calling thread alone
    enum device_isa isa;                    // of a CPU; on a GPU, of the host's side
    bool reads_plain;                       // takes matmul_args.plain
    size_t refused; // bytes of the last alloc that there was no room for; 0: there was for all
    struct device_scratch *scratch; // of a CPU: one growing buffer per rank, owned
    struct cuda_state *cuda;        // of a GPU (cuda/cuda.cuh), owned; NULL on a CPU
};

// ERR_ENV when the CPU lacks the instruction set. DEVICE_BEST: device_best_isa's.
int device_open(struct device **out, struct team *team, enum device_isa isa);
void device_free(struct device **dev);
const char *device_isa_name(enum device_isa isa); // "avx512"
bool device_has_isa(enum device_isa isa);         // whether this CPU can run it
// The fastest that this CPU can run: AVX512BF16 only where its dot products were measured to beat
// multiply-adds.
enum device_isa device_best_isa(void);

// Elements of a packed [k,n] matrix on this device.
size_t matmul_packed_size(const struct device *dev, int k, int n);

#ifdef __cplusplus
}
#endif

#endif
