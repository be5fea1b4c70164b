// SPDX-License-Identifier: Apache-2.0
#include "policy/safetensors.h"

#include "base/error.h"
#include "base/json.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER_MAX 100000000 // bytes, the limit of the format's own library

static const struct {
    const char *name;
    size_t size;
} dtypes[] = {
    [TENSOR_BOOL] = {"BOOL", 1},       [TENSOR_U8] = {"U8", 1},
    [TENSOR_I8] = {"I8", 1},           [TENSOR_F8_E5M2] = {"F8_E5M2", 1},
    [TENSOR_F8_E4M3] = {"F8_E4M3", 1}, [TENSOR_I16] = {"I16", 2},
    [TENSOR_U16] = {"U16", 2},         [TENSOR_F16] = {"F16", 2},
    [TENSOR_BF16] = {"BF16", 2},       [TENSOR_I32] = {"I32", 4},
    [TENSOR_U32] = {"U32", 4},         [TENSOR_F32] = {"F32", 4},
    [TENSOR_F64] = {"F64", 8},         [TENSOR_I64] = {"I64", 8},
    [TENSOR_U64] = {"U64", 8},
};
#define NUM_DTYPES ((int)(sizeof dtypes / sizeof dtypes[0]))

const char *tensor_dtype_name(enum tensor_dtype t) { return dtypes[t].name; }

size_t tensor_dtype_size(enum tensor_dtype t) { return dtypes[t].size; }

int64_t tensor_count(const struct tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) {
        n *= t->shape[i];
    }
    return n;
}

// ---- reading

struct header {
    const struct json_doc *doc;
    const char *name; // of the file, for errors
    int code;
    const uint8_t *data; // of the buffer after the header
    size_t size;
};

static int read_dtype(const struct header *h, struct tensor *t, const struct json *v)
{
    const char *s = json_string(json_get(v, "dtype"));
    for (int i = 0; s && i < NUM_DTYPES; i++) {
        if (!strcmp(s, dtypes[i].name)) {
            t->dtype = (enum tensor_dtype)i;
            return 0;
        }
    }
    struct strbuf known = {0};
    for (int i = 0; i < NUM_DTYPES; i++) {
        strbuf_printf(&known, "%s%s", i ? ", " : "", dtypes[i].name);
    }
    err_set(h->code, "%s: tensor \"%s\" has %s%.40s%s; the format has %s", h->name, t->name,
            s ? "the unknown dtype \"" : "no dtype", s ? s : "", s ? "\"" : "", known.data);
    strbuf_free(&known);
    return h->code;
}

// The product of the dimensions times the size of an element must be the bytes of the tensor.
static int read_shape(const struct header *h, struct tensor *t, const struct json *v)
{
    const struct json *shape = json_get(v, "shape");
    size_t bytes = dtypes[t->dtype].size;
    if (json_type(shape) != JSON_ARRAY || json_count(shape) > TENSOR_RANK_MAX) {
        return err_set(h->code, "%s: tensor \"%s\": \"shape\" is not a list of at most %d sizes",
                       h->name, t->name, TENSOR_RANK_MAX);
    }
    for (const struct json *d = json_first(shape); d; d = json_next(d)) {
        if (!json_int(h->doc, d, 0, INT64_MAX, &t->shape[t->rank])) {
            return err_set(h->code, "%s: tensor \"%s\": dimension %d is not a size", h->name,
                           t->name, t->rank);
        }
        if (__builtin_mul_overflow(bytes, (size_t)t->shape[t->rank++], &bytes)) {
            return err_set(h->code, "%s: tensor \"%s\": the size overflows", h->name, t->name);
        }
    }
    if (bytes != t->size) {
        return err_set(h->code, "%s: tensor \"%s\": its shape makes %zu bytes, its offsets %zu",
                       h->name, t->name, bytes, t->size);
    }
    return 0;
}

static int read_offsets(const struct header *h, struct tensor *t, const struct json *v)
{
    const struct json *offsets = json_get(v, "data_offsets");
    int64_t begin, end;
    if (json_type(offsets) != JSON_ARRAY || json_count(offsets) != 2 ||
        !json_int(h->doc, json_first(offsets), 0, INT64_MAX, &begin) ||
        !json_int(h->doc, json_next(json_first(offsets)), 0, INT64_MAX, &end)) {
        return err_set(h->code, "%s: tensor \"%s\": \"data_offsets\" is not a pair of offsets",
                       h->name, t->name);
    }
    if (end < begin) {
        return err_set(h->code,
                       "%s: tensor \"%s\" ends at byte %lld of the data, before it begins "
                       "at %lld",
                       h->name, t->name, (long long)end, (long long)begin);
    }
    if ((uint64_t)end > h->size) {
        return err_set(h->code,
                       "%s: tensor \"%s\" ends at byte %lld of the data: expected as many bytes "
                       "after the header, got %zu; the file is truncated",
                       h->name, t->name, (long long)end, h->size);
    }
    t->data = h->data + begin;
    t->size = (size_t)(end - begin);
    return 0;
}

static int read_tensor(const struct header *h, struct tensor *t, const struct json *v)
{
    if (json_type(v) != JSON_OBJECT) {
        return err_set(h->code, "%s: tensor \"%s\" is %s, expected an object", h->name, t->name,
                       json_type_name(json_type(v)));
    }
    int rc = read_dtype(h, t, v);
    if (rc == 0) {
        rc = read_offsets(h, t, v);
    }
    return rc == 0 ? read_shape(h, t, v) : rc;
}

static int read_metadata(const struct header *h, struct safetensors *s, const struct json *v)
{
    if (json_type(v) != JSON_OBJECT) {
        return err_set(h->code, "%s: \"__metadata__\" is not an object", h->name);
    }
    s->metadata = ARENA_ARRAY(&s->arena, const char *, 2 * json_count(v));
    for (const struct json *m = json_first(v); m; m = json_next(m)) {
        const char *text = json_string(m), *key = json_key(m);
        if (!text) {
            return err_set(h->code, "%s: \"__metadata__\": \"%s\" is not a string", h->name, key);
        }
        const char **pair = s->metadata + 2 * s->num_metadata++;
        pair[0] = arena_strndup(&s->arena, key, strlen(key));
        pair[1] = arena_strndup(&s->arena, text, strlen(text));
    }
    return 0;
}

static int by_place(const void *pa, const void *pb)
{
    const struct tensor *a = pa, *b = pb;
    const uint8_t *x = a->data, *y = b->data;
    if (x != y) {
        return x < y ? -1 : 1;
    }
    return a->size < b->size ? -1 : a->size > b->size;
}

static int by_name(const void *pa, const void *pb)
{
    return strcmp(((const struct tensor *)pa)->name, ((const struct tensor *)pb)->name);
}

// Tensors fill the buffer: each begins where the one before it ends, the last ends with the file.
static int check_places(const struct header *h, struct safetensors *s)
{
    size_t at = 0;
    qsort(s->tensors, (size_t)s->count, sizeof *s->tensors, by_place);
    for (int i = 0; i < s->count; i++) {
        const struct tensor *t = &s->tensors[i];
        size_t begin = (size_t)((const uint8_t *)t->data - h->data);
        if (begin != at) {
            return err_set(h->code, "%s: tensor \"%s\" begins at byte %zu, %s", h->name, t->name,
                           begin, begin < at ? "inside the one before it" : "after a hole");
        }
        at += t->size;
    }
    if (at != h->size) {
        return err_set(h->code, "%s: %zu bytes follow the last tensor", h->name, h->size - at);
    }
    return 0;
}

static int read_header(const struct header *h, struct safetensors *s, const struct json *root)
{
    if (json_type(root) != JSON_OBJECT) {
        return err_set(h->code, "%s: the header is %s, expected an object", h->name,
                       json_type_name(json_type(root)));
    }
    int rc = 0;
    s->tensors = ARENA_ARRAY(&s->arena, struct tensor, json_count(root));
    for (const struct json *v = json_first(root); v && rc == 0; v = json_next(v)) {
        const char *key = json_key(v);
        if (!strcmp(key, "__metadata__")) {
            rc = read_metadata(h, s, v);
        } else {
            struct tensor *t = &s->tensors[s->count++];
            t->name = arena_strndup(&s->arena, key, strlen(key));
            rc = read_tensor(h, t, v);
        }
    }
    if (rc == 0) {
        rc = check_places(h, s);
    }
    if (rc == 0) {
        qsort(s->tensors, (size_t)s->count, sizeof *s->tensors, by_name);
    }
    return rc;
}

int safetensors_parse(struct safetensors **out, const uint8_t *data, size_t size, const char *name,
                      int code)
{
    uint64_t len = 0;
    if (size < 8) {
        return err_set(code, "%s: expected a header's length in 8 bytes, got %zu bytes", name,
                       size);
    }
    for (int i = 0; i < 8; i++) {
        len |= (uint64_t)data[i] << (8 * i);
    }
    if (len > HEADER_MAX) {
        return err_set(code, "%s: a header of %llu bytes is over the limit of %d", name,
                       (unsigned long long)len, HEADER_MAX);
    }
    if (len > size - 8) {
        return err_set(
            code, "%s: expected %llu bytes of header, got a file of %zu bytes; it is truncated",
            name, (unsigned long long)len + 8, size);
    }
    struct json_doc *doc = NULL;
    int rc = json_parse(&doc, (const char *)data + 8, (size_t)len, 0, name, 1, code);
    if (rc) {
        return rc;
    }
    struct safetensors *s = mem_alloc0(sizeof *s);
    struct header h = {doc, name, code, data + 8 + len, size - 8 - (size_t)len};
    rc = read_header(&h, s, json_root(doc));
    json_free(&doc);
    if (rc) {
        safetensors_free(&s);
        return rc;
    }
    *out = s;
    return 0;
}

int safetensors_open(struct safetensors **out, const char *path, int code)
{
    struct file_map map;
    int rc = file_map_open(&map, path, code);
    if (rc) {
        return rc;
    }
    struct safetensors *s = NULL;
    rc = safetensors_parse(&s, map.data, map.size, path, code);
    if (rc) {
        file_map_close(&map);
        return rc;
    }
    s->map = map;
    *out = s;
    return 0;
}

void safetensors_free(struct safetensors **s)
{
    if (s && *s) {
        file_map_close(&(*s)->map);
        arena_free(&(*s)->arena);
        free(*s);
        *s = NULL;
    }
}

const struct tensor *safetensors_find(const struct safetensors *s, const char *name)
{
    struct tensor key = {.name = name};
    return s->count ? bsearch(&key, s->tensors, (size_t)s->count, sizeof key, by_name) : NULL;
}

const char *safetensors_metadata(const struct safetensors *s, const char *key)
{
    for (int i = 0; i < s->num_metadata; i++) {
        if (!strcmp(s->metadata[2 * i], key)) {
            return s->metadata[2 * i + 1];
        }
    }
    return NULL;
}

static float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023;
    float f;
    if (exponent == 0) { // zero or subnormal: fraction 2^-24
        f = (float)fraction * 0x1p-24f;
        return sign ? -f : f;
    }
    uint32_t bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    memcpy(&f, &bits, sizeof f);
    return f;
}

// E4M3 of the OCP 8-bit floating point specification (revision 1.0, 5.2): a sign, 4 bits of
// exponent with bias 7, 3 of fraction; no infinities, and only all ones below the sign is NaN.
static float e4m3_to_float(uint8_t v)
{
    const int exponent = v >> 3 & 15, fraction = v & 7;
    float f =
        exponent == 0 ? ldexpf((float)fraction, -9) : ldexpf((float)(8 + fraction), exponent - 10);
    if ((v & 127) == 127) {
        f = NAN;
    }
    return v & 128 ? -f : f;
}

static void widen_e4m3(float *out, const uint8_t *bytes, size_t n)
{
    float values[256];
    for (int v = 0; v < 256; v++) {
        values[v] = e4m3_to_float((uint8_t)v);
    }
    for (size_t i = 0; i < n; i++) {
        out[i] = values[bytes[i]];
    }
}

bool tensor_to_floats(float *out, const struct tensor *t)
{
    size_t n = t->size / dtypes[t->dtype].size;
    const uint8_t *bytes = t->data;
    if (t->dtype == TENSOR_F32) {
        if (n) {
            memcpy(out, t->data, t->size);
        }
        return true;
    }
    if (t->dtype == TENSOR_F8_E4M3) {
        widen_e4m3(out, bytes, n);
        return true;
    }
    if (t->dtype != TENSOR_BF16 && t->dtype != TENSOR_F16) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t v = (uint16_t)(bytes[2 * i] | bytes[2 * i + 1] << 8);
        uint32_t wide = (uint32_t)v << 16;
        if (t->dtype == TENSOR_F16) {
            out[i] = half_to_float(v);
        } else {
            memcpy(&out[i], &wide, sizeof wide);
        }
    }
    return true;
}

// ---- writing

static void put_header(struct strbuf *out, const struct tensor *tensors, int count,
                       const char *const *metadata, int num_metadata)
{
    struct json_writer w = {.out = out};
    size_t at = 0;
    json_begin_object(&w);
    if (num_metadata > 0) {
        json_put_key(&w, "__metadata__");
        json_begin_object(&w);
        for (int i = 0; i < num_metadata; i++) {
            json_put_key(&w, metadata[2 * i]);
            json_put_string(&w, metadata[2 * i + 1]);
        }
        json_end_object(&w);
    }
    for (int i = 0; i < count; i++) {
        const struct tensor *t = &tensors[i];
        json_put_key(&w, t->name);
        json_begin_object(&w);
        json_put_key(&w, "dtype");
        json_put_string(&w, dtypes[t->dtype].name);
        json_put_key(&w, "shape");
        json_begin_array(&w);
        for (int d = 0; d < t->rank; d++) {
            json_put_int(&w, t->shape[d]);
        }
        json_end_array(&w);
        json_put_key(&w, "data_offsets");
        json_begin_array(&w);
        json_put_int(&w, (int64_t)at);
        json_put_int(&w, (int64_t)(at += t->size));
        json_end_array(&w);
        json_end_object(&w);
    }
    json_end_object(&w);
    while (out->len % 8) {
        strbuf_putc(out, ' ');
    }
}

static bool write_all(int fd, const void *data, size_t len)
{
    const uint8_t *p = data;
    while (len > 0) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        }
    }
    return true;
}

static int write_error(const char *path)
{
    return err_set(ERR_WRITE, "%s: %s", path, strerror(errno));
}

static size_t largest_size(const struct tensor *tensors, int count)
{
    size_t most = 0;
    for (int i = 0; i < count; i++) {
        most = tensors[i].size > most ? tensors[i].size : most;
    }
    return most;
}

// The tensors' bytes, those of a device one tensor at a time by way of the host.
static int write_tensors(int fd, const char *path, struct device *dev, const struct tensor *tensors,
                         int count)
{
    void *host = dev ? mem_alloc(largest_size(tensors, count)) : NULL;
    int rc = 0;
    for (int i = 0; i < count && rc == 0; i++) {
        const struct tensor *t = &tensors[i];
        rc = dev ? dev->memory->download(dev, host, t->data, t->size) : 0;
        if (rc == 0 && !write_all(fd, dev ? host : t->data, t->size)) {
            rc = write_error(path);
        }
    }
    free(host);
    return rc;
}

// Header and tensors to an open file, which is then on the disk.
static int write_file(int fd, const char *path, const struct strbuf *header, struct device *dev,
                      const struct tensor *tensors, int count)
{
    uint8_t len[8];
    for (int i = 0; i < 8; i++) {
        len[i] = (uint8_t)((uint64_t)header->len >> (8 * i));
    }
    if (!write_all(fd, len, sizeof len) || !write_all(fd, header->data, header->len)) {
        return write_error(path);
    }
    int rc = write_tensors(fd, path, dev, tensors, count);
    return rc || fsync(fd) == 0 ? rc : write_error(path);
}

int safetensors_write(const char *path, struct device *dev, const struct tensor *tensors, int count,
                      const char *const *metadata, int num_metadata)
{
    struct strbuf temporary = {0}, header = {0};
    struct tensor *sorted = mem_array0((size_t)count, sizeof *sorted);
    for (int i = 0; i < count; i++) {
        assert(tensors[i].dtype == TENSOR_F32);
        sorted[i] = tensors[i];
    }
    qsort(sorted, (size_t)count, sizeof *sorted, by_name);
    put_header(&header, sorted, count, metadata, num_metadata);
    strbuf_printf(&temporary, "%s.tmp", path);

    int fd = open(temporary.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int rc = fd < 0 ? write_error(path) : write_file(fd, path, &header, dev, sorted, count);
    if (fd >= 0 && close(fd) && rc == 0) {
        rc = write_error(path);
    }
    if (rc == 0 && rename(temporary.data, path)) {
        rc = write_error(path);
    }
    if (rc && fd >= 0) {
        unlink(temporary.data);
    }
    free(sorted);
    strbuf_free(&header);
    strbuf_free(&temporary);
    return rc;
}
