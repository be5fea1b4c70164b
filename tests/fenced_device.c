// SPDX-License-Identifier: Apache-2.0
#include "tests/fenced_device.h"

#include "base/error.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// Theory of operation. Two ranges of addresses of the same size: `base`, which nobody may touch and
// whose addresses are the device's, and `storage`, which holds the bytes at the same offsets.
// Kernels and memory functions get their arguments with every pointer moved from the first range to
// the second.
enum { GRAIN = 64, BLOCKS_MAX = 1024 };
static const size_t range_bytes = (size_t)1 << 30;

struct block {
    size_t at, size; // in the ranges
    size_t wanted;   // bytes that were asked for
    bool live;
};

struct fenced {
    struct device dev; // first: a struct device * of it is a struct fenced *
    struct device_memory memory;
    const struct kernels *inner;
    char *base, *storage;
    size_t used, limit;
    struct block blocks[BLOCKS_MAX]; // [num_blocks] by address, without gaps up to `used`
    int num_blocks;
};

static struct fenced *of(struct device *dev) { return (struct fenced *)(void *)dev; }

static bool inside(const struct fenced *f, const void *p)
{
    return (const char *)p >= f->base && (const char *)p < f->base + f->used;
}

static void require(bool ok, const char *call, const char *what, int index)
{
    if (ok)
        return;
    fprintf(stderr, "fenced device: %s: pointer %d is not %s\n", call, index, what);
    abort();
}

// The storage of an address of the device; NULL stays NULL.
static void *storage_of(const struct fenced *f, const void *p, const char *call, int index)
{
    if (!p)
        return NULL;
    require(inside(f, p), call, "the device's", index);
    return f->storage + ((const char *)p - f->base);
}

// Moves n pointers, given by their addresses, to the storage.
static void move_pointers(const struct fenced *f, const char *call, void *const *fields, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const void *p;
        memcpy(&p, fields[i], sizeof p);
        p = storage_of(f, p, call, (int)i);
        memcpy(fields[i], &p, sizeof p);
    }
}

// ---- memory

// NaN, or -1.
static void fill(const struct fenced *f, const struct block *b)
{
    memset(f->storage + b->at, 0xff, b->size);
}

// A released block that is not much too large, or a new one; NULL when there is no room.
static struct block *find_block(struct fenced *f, size_t size)
{
    for (int i = 0; i < f->num_blocks; i++) {
        struct block *b = &f->blocks[i];
        if (!b->live && b->size >= size && b->size / 2 <= size)
            return b;
    }
    if (f->num_blocks == BLOCKS_MAX || size > range_bytes - f->used)
        return NULL;
    struct block *b = &f->blocks[f->num_blocks++];
    *b = (struct block){.at = f->used, .size = size};
    f->used += size;
    return b;
}

size_t fenced_bytes(const struct device *dev)
{
    const struct fenced *f = (const struct fenced *)(const void *)dev;
    size_t bytes = 0;
    for (int i = 0; i < f->num_blocks; i++)
        bytes += f->blocks[i].live ? f->blocks[i].wanted : 0;
    return bytes;
}

void fenced_limit(struct device *dev, size_t bytes) { of(dev)->limit = bytes; }

static int fenced_alloc(struct device *dev, void **out, size_t bytes)
{
    struct fenced *f = of(dev);
    const bool fits = bytes <= range_bytes && fenced_bytes(dev) + bytes <= f->limit;
    struct block *b = fits ? find_block(f, (bytes / GRAIN + 1) * GRAIN) : NULL;
    if (!b) {
        dev->refused = bytes;
        return err_set(ERR_ENV, "there is no memory for %zu bytes", bytes);
    }
    b->live = true;
    b->wanted = bytes;
    fill(f, b);
    *out = f->base + b->at;
    return 0;
}

static void fenced_release(struct device *dev, void *p)
{
    struct fenced *f = of(dev);
    struct block *b = f->blocks, *end = b + f->num_blocks;
    while (b < end && (!b->live || f->base + b->at != p))
        b++;
    require(b < end, "release", "a block of the device", 0);
    fill(f, b);
    b->live = false;
    for (; f->num_blocks > 0 && !f->blocks[f->num_blocks - 1].live; f->num_blocks--) {
        const struct block *last = &f->blocks[f->num_blocks - 1];
        f->used = last->at;
    }
}

static int fenced_upload(struct device *dev, void *to, const void *from_host, size_t bytes)
{
    const struct fenced *f = of(dev);
    require(!inside(f, from_host), "upload", "the host's", 1);
    if (bytes > 0)
        memcpy(storage_of(f, to, "upload", 0), from_host, bytes);
    return 0;
}

static int fenced_download(struct device *dev, void *to_host, const void *from, size_t bytes)
{
    const struct fenced *f = of(dev);
    require(!inside(f, to_host), "download", "the host's", 0);
    if (bytes > 0)
        memcpy(to_host, storage_of(f, from, "download", 1), bytes);
    return 0;
}

static int fenced_copy(struct device *dev, void *to, const void *from, size_t bytes)
{
    const struct fenced *f = of(dev);
    if (bytes > 0)
        memcpy(storage_of(f, to, "copy", 0), storage_of(f, from, "copy", 1), bytes);
    return 0;
}

static int fenced_zero(struct device *dev, void *p, size_t bytes)
{
    if (bytes > 0)
        memset(storage_of(of(dev), p, "zero", 0), 0, bytes);
    return 0;
}

static int fenced_available(struct device *dev, size_t *bytes)
{
    *bytes = of(dev)->limit - fenced_bytes(dev);
    return 0;
}

// ---- kernels: a row names the slot, its arguments, and every pointer in them

#define FENCED(slot, args, ...)                                                                    \
    static int fenced_##slot(struct device *dev, const struct args *given)                         \
    {                                                                                              \
        struct args a = *given;                                                                    \
        void *const fields[] = {__VA_ARGS__};                                                      \
        move_pointers(of(dev), #slot, fields, sizeof fields / sizeof *fields);                     \
        return of(dev)->inner->slot(dev, &a);                                                      \
    }

// clang-format off
FENCED(matmul_pack, pack_args, &a.b, &a.out)
FENCED(matmul, matmul_args, &a.a, &a.b, &a.c, &a.segments)
FENCED(matmul_grad, matmul_grad_args, &a.dy, &a.x, &a.dw, &a.segments)
FENCED(embed, embed_args, &a.table, &a.ids, &a.out)
FENCED(embed_grad, embed_grad_args, &a.dout, &a.ids, &a.dtable)
FENCED(rmsnorm, rmsnorm_args, &a.x, &a.add, &a.sum, &a.w, &a.y, &a.rstd)
FENCED(rmsnorm_grad, rmsnorm_grad_args, &a.x, &a.w, &a.rstd, &a.dy, &a.dx, &a.dw)
FENCED(rope, rope_args, &a.x, &a.y, &a.cos, &a.sin, &a.position)
FENCED(swiglu, swiglu_args, &a.gate_up, &a.h)
FENCED(swiglu_grad, swiglu_grad_args, &a.gate_up, &a.dh, &a.dgate_up)
FENCED(add, add_args, &a.x, &a.y)
FENCED(convert, convert_args, &a.x, &a.y)
FENCED(attention_grad, attention_grad_args,
       &a.q, &a.kv, &a.out, &a.lse, &a.dout, &a.dq, &a.dkv, &a.seqs)
FENCED(kv_store, kv_store_args, &a.rows, &a.place, &a.pages)
FENCED(heads, heads_args,
       &a.x, &a.q_norm, &a.k_norm, &a.cos, &a.sin, &a.position, &a.q, &a.kv)
FENCED(heads_grad, heads_grad_args,
       &a.x, &a.q_norm, &a.k_norm, &a.cos, &a.sin, &a.position, &a.dq, &a.dkv, &a.dx, &a.dq_norm, &a.dk_norm)
FENCED(moe_route, moe_route_args, &a.logits, &a.bias, &a.scores, &a.experts, &a.weights)
FENCED(moe_route_grad, moe_route_grad_args,
       &a.scores, &a.weights, &a.dweights, &a.experts, &a.dlogits)
FENCED(moe_balance, moe_balance_args, &a.scores, &a.experts, &a.seqs, &a.loss, &a.dlogits)
FENCED(moe_sort, moe_sort_args, &a.experts, &a.segments, &a.slot, &a.pair)
FENCED(moe_gather, moe_gather_args, &a.x, &a.pair, &a.xs)
FENCED(moe_gather_grad, moe_gather_grad_args, &a.dxs, &a.slot, &a.dx)
FENCED(moe_combine, moe_combine_args, &a.ys, &a.weights, &a.slot, &a.y)
FENCED(moe_combine_grad, moe_combine_grad_args,
       &a.ys, &a.weights, &a.dy, &a.slot, &a.dys, &a.dweights)
FENCED(linear_logprob, linear_logprob_args,
       &a.hidden, &a.w, &a.token, &a.tau, &a.logprob, &a.entropy)
FENCED(linear_logprob_grad, linear_logprob_grad_args,
       &a.hidden, &a.w, &a.w_t, &a.token, &a.tau, &a.dlogprob, &a.dentropy, &a.dhidden, &a.dw)
FENCED(sample, sample_args, &a.logits, &a.rows, &a.token, &a.logprob, &a.entropy, &a.truncated)
FENCED(sum_squares, sum_squares_args, &a.x, &a.out)
FENCED(adamw, adamw_args, &a.p, &a.m, &a.v, &a.g)
// clang-format on

// The table of blocks holds pointers as well.
static int fenced_attention(struct device *dev, const struct attention_args *given)
{
    const struct fenced *f = of(dev);
    struct attention_args a = *given;
    void *const fields[] = {&a.q, &a.kv_blocks, &a.seqs, &a.out, &a.lse};
    move_pointers(f, "attention", fields, sizeof fields / sizeof *fields);
    int num_blocks = 0;
    for (int i = 0; i < a.num_seqs; i++) {
        const struct attention_seq *s = &a.seqs[i];
        const int end = s->block + (s->pos + s->len + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK;
        num_blocks = s->len > 0 && end > num_blocks ? end : num_blocks;
    }
    const void **blocks = mem_array0((size_t)num_blocks, sizeof *blocks);
    for (int i = 0; i < num_blocks; i++)
        blocks[i] = storage_of(f, a.kv_blocks[i], "attention: block", i);
    a.kv_blocks = blocks;
    const int rc = f->inner->attention(dev, &a);
    free(blocks);
    return rc;
}

static size_t fenced_matmul_packed_size(const struct device *dev, int k, int n)
{
    return ((const struct fenced *)(const void *)dev)->inner->matmul_packed_size(dev, k, n);
}

static const struct kernels fenced_kernels = {
    .matmul_packed_size = fenced_matmul_packed_size,
    .matmul_pack = fenced_matmul_pack,
    .matmul = fenced_matmul,
    .matmul_grad = fenced_matmul_grad,
    .embed = fenced_embed,
    .embed_grad = fenced_embed_grad,
    .rmsnorm = fenced_rmsnorm,
    .rmsnorm_grad = fenced_rmsnorm_grad,
    .rope = fenced_rope,
    .swiglu = fenced_swiglu,
    .swiglu_grad = fenced_swiglu_grad,
    .add = fenced_add,
    .convert = fenced_convert,
    .attention = fenced_attention,
    .attention_grad = fenced_attention_grad,
    .kv_store = fenced_kv_store,
    .heads = fenced_heads,
    .heads_grad = fenced_heads_grad,
    .moe_route = fenced_moe_route,
    .moe_route_grad = fenced_moe_route_grad,
    .moe_balance = fenced_moe_balance,
    .moe_sort = fenced_moe_sort,
    .moe_gather = fenced_moe_gather,
    .moe_gather_grad = fenced_moe_gather_grad,
    .moe_combine = fenced_moe_combine,
    .moe_combine_grad = fenced_moe_combine_grad,
    .linear_logprob = fenced_linear_logprob,
    .linear_logprob_grad = fenced_linear_logprob_grad,
    .sample = fenced_sample,
    .sum_squares = fenced_sum_squares,
    .adamw = fenced_adamw,
};

// ---- opening

static char *reserve(int access)
{
    void *p = mmap(NULL, range_bytes, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

int fenced_open(struct device **out, struct team *team, enum device_isa isa)
{
    struct device *inner = NULL;
    const int rc = device_open(&inner, team, isa);
    if (rc != 0)
        return rc;
    struct fenced *f = mem_alloc0(sizeof *f);
    f->dev = *inner;
    free(inner); // what it owns moved over
    f->inner = f->dev.k;
    f->dev.k = &fenced_kernels;
    f->dev.reads_plain = false; // as GPUs
    f->memory = *f->dev.memory;
    f->memory.alloc = fenced_alloc;
    f->memory.release = fenced_release;
    f->memory.upload = fenced_upload;
    f->memory.download = fenced_download;
    f->memory.copy = fenced_copy;
    f->memory.zero = fenced_zero;
    f->memory.available = fenced_available;
    f->memory.of_host = false;
    f->dev.memory = &f->memory;
    f->limit = range_bytes;
    f->base = reserve(PROT_NONE);
    f->storage = reserve(PROT_READ | PROT_WRITE);
    if (!f->base || !f->storage) {
        struct device *dev = &f->dev;
        fenced_close(dev);
        device_free(&dev);
        return err_set(ERR_ENV, "there are no addresses for a fenced device");
    }
    *out = &f->dev;
    return 0;
}

void fenced_close(struct device *dev)
{
    if (!dev || dev->memory->alloc != fenced_alloc)
        return;
    struct fenced *f = of(dev);
    if (f->num_blocks > 0) {
        fprintf(stderr, "fenced device: memory was not released\n");
        abort();
    }
    if (f->base)
        munmap(f->base, range_bytes);
    if (f->storage)
        munmap(f->storage, range_bytes);
    f->base = f->storage = NULL;
}
