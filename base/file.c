// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include "base/error.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zlib.h>
#include <zstd.h>

#define CHUNK ((size_t)128 << 10)

// Sets the message `"PATH": what errno says`.
static int fault(int code, const char *path)
{
    return err_set(code, "\"%s\": %s", path, strerror(errno));
}

static int fault_too_large(int code, const char *path, size_t max)
{
    return err_set(code, "\"%s\": larger than %zu bytes", path, max);
}

static int open_to_read(int *out, struct stat *st, const char *path, int code)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fault(code, path);
    int rc = 0;
    if (fstat(fd, st) != 0)
        rc = fault(code, path);
    else if (S_ISDIR(st->st_mode))
        rc = err_set(code, "\"%s\": a directory, not a file", path);
    if (rc) {
        close(fd);
        return rc;
    }
    *out = fd;
    return 0;
}

static int read_all(struct strbuf *out, int fd, const char *path, size_t max, int code)
{
    const size_t before = out->len;
    for (;;) {
        const ssize_t n = read(fd, strbuf_reserve(out, CHUNK), CHUNK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fault(code, path);
        if (n == 0)
            return 0;
        out->len += (size_t)n;
        if (max && out->len - before > max)
            return fault_too_large(code, path, max);
    }
}

static void truncate_to(struct strbuf *b, size_t len)
{
    b->len = len;
    if (b->data)
        b->data[len] = '\0';
}

int file_read(struct strbuf *out, const char *path, size_t max, int code)
{
    int fd;
    struct stat st;
    int rc = open_to_read(&fd, &st, path, code);
    if (rc)
        return rc;
    const size_t before = out->len;
    const bool sized = S_ISREG(st.st_mode) && st.st_size > 0;
    if (sized && max && (size_t)st.st_size > max) {
        rc = fault_too_large(code, path, max);
    } else {
        strbuf_reserve(out, sized ? (size_t)st.st_size + CHUNK : 0);
        rc = read_all(out, fd, path, max, code);
    }
    close(fd);
    truncate_to(out, rc ? before : out->len);
    return rc;
}

// The members of a gzip file, one after another, as gunzip reads them (RFC 1952, section 2.2).
static int unpack_gzip(struct strbuf *out, const struct strbuf *in, const char *path, size_t max,
                       int code)
{
    z_stream z = {0};
    if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
        die_out_of_memory(sizeof z);
    const size_t before = out->len;
    int status = Z_OK, rc = 0;
    size_t at = 0;
    while (!rc && !(at == in->len && status == Z_STREAM_END)) {
        if (status == Z_STREAM_END)
            inflateReset(&z);
        const size_t left = in->len - at;
        const uInt give = (uInt)(left < INT_MAX ? left : INT_MAX);
        z.next_in = (Bytef *)in->data + at;
        z.avail_in = give;
        z.next_out = (Bytef *)strbuf_reserve(out, CHUNK);
        z.avail_out = CHUNK;
        status = inflate(&z, Z_NO_FLUSH);
        at += give - z.avail_in;
        out->len += CHUNK - z.avail_out;
        if (status == Z_BUF_ERROR)
            rc = err_set(code, "\"%s\": the gzip stream is truncated", path);
        else if (status != Z_OK && status != Z_STREAM_END)
            rc =
                err_set(code, "\"%s\": not a gzip stream, or a corrupt one, at byte %zu", path, at);
        else if (max && out->len - before > max)
            rc = fault_too_large(code, path, max);
    }
    inflateEnd(&z);
    return rc;
}

static int unpack_zstd(struct strbuf *out, const struct strbuf *packed, const char *path,
                       size_t max, int code)
{
    ZSTD_DCtx *z = ZSTD_createDCtx();
    if (!z)
        die_out_of_memory(CHUNK);
    const size_t before = out->len;
    ZSTD_inBuffer in = {packed->data, packed->len, 0};
    size_t pending = 1; // 0 at the end of a frame with its output flushed
    int rc = 0;
    while (!rc && !(in.pos == in.size && pending == 0)) {
        const size_t had = in.pos;
        ZSTD_outBuffer chunk = {strbuf_reserve(out, CHUNK), CHUNK, 0};
        pending = ZSTD_decompressStream(z, &chunk, &in);
        if (ZSTD_isError(pending)) {
            rc = err_set(code, "\"%s\": not a zstd stream, or a corrupt one, near byte %zu: %s",
                         path, in.pos, ZSTD_getErrorName(pending));
            break;
        }
        out->len += chunk.pos;
        if (pending && in.pos == had && chunk.pos == 0)
            rc = err_set(code, "\"%s\": the zstd stream is truncated", path);
        else if (max && out->len - before > max)
            rc = fault_too_large(code, path, max);
    }
    ZSTD_freeDCtx(z);
    return rc;
}

static bool ends_with(const char *s, const char *suffix)
{
    const size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

int file_read_unpacked(struct strbuf *out, const char *path, size_t max, int code)
{
    const bool gzip = ends_with(path, ".gz");
    if (!gzip && !ends_with(path, ".zst"))
        return file_read(out, path, max, code);
    struct strbuf packed = {0};
    // What does not compress grows, by far less than an eighth and a chunk.
    const size_t max_packed = max && max < SIZE_MAX / 2 ? max + max / 8 + CHUNK : 0;
    int rc = file_read(&packed, path, max_packed, code);
    if (rc)
        return rc;
    const size_t before = out->len;
    strbuf_reserve(out, 0);
    rc = gzip ? unpack_gzip(out, &packed, path, max, code)
              : unpack_zstd(out, &packed, path, max, code);
    strbuf_free(&packed);
    truncate_to(out, rc ? before : out->len);
    return rc;
}

static int write_all(int fd, const void *data, size_t len)
{
    const char *bytes = data;
    while (len) {
        const ssize_t n = write(fd, bytes, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        bytes += n;
        len -= (size_t)n;
    }
    return 0;
}

static char *parent_of(const char *path)
{
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    while (len && path[len - 1] != '/')
        len--;
    while (len > 1 && path[len - 1] == '/')
        len--;
    return len ? mem_strndup(path, len) : mem_strdup(".");
}

static int sync_parent(const char *path)
{
    char *parent = parent_of(path);
    const int rc = file_sync(parent);
    free(parent);
    return rc;
}

// Creates a file beside path, under a name that no other writer uses.
static int create_beside(int *out_fd, char **out_name, const char *path)
{
    for (;;) {
        uint64_t salt;
        if (getrandom(&salt, sizeof salt, 0) != (ssize_t)sizeof salt)
            return fault(ERR_WRITE, path);
        struct strbuf name = {0};
        strbuf_printf(&name, "%s.tmp-%016llx", path, (unsigned long long)salt);
        const int fd = open(name.data, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0) {
            *out_fd = fd;
            *out_name = strbuf_take(&name);
            return 0;
        }
        strbuf_free(&name);
        if (errno != EEXIST)
            return fault(ERR_WRITE, path);
    }
}

int file_write_atomic(const char *path, const void *data, size_t len)
{
    int fd = -1;
    char *name = NULL;
    int rc = create_beside(&fd, &name, path);
    if (rc)
        return rc;
    const bool written = write_all(fd, data, len) == 0 && fsync(fd) == 0;
    const int why = errno;
    const bool closed = close(fd) == 0;
    if (!written)
        errno = why;
    if (!written || !closed || rename(name, path) != 0) {
        rc = fault(ERR_WRITE, path);
        unlink(name);
    }
    free(name);
    return rc ? rc : sync_parent(path);
}

int file_map_open(struct file_map *out, const char *path, int code)
{
    int fd;
    struct stat st;
    int rc = open_to_read(&fd, &st, path, code);
    if (rc)
        return rc;
    struct file_map m = {.size = (size_t)st.st_size};
    if (m.size) {
        void *p = mmap(NULL, m.size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            rc = fault(code, path);
        m.data = p;
    }
    close(fd);
    if (!rc)
        *out = m;
    return rc;
}

void file_map_close(struct file_map *m)
{
    if (m->data)
        munmap((void *)(uintptr_t)m->data, m->size);
    *m = (struct file_map){0};
}

void file_map_forget(const struct file_map *m, size_t begin, size_t n)
{
    const size_t around = (size_t)64 << 10; // Linux maps up to so much around a byte that is read
    const size_t from = (begin > around ? begin - around : 0) / around * around;
    const size_t to = n + around < m->size - begin ? begin + n + around : m->size;
    if (m->data)
        (void)madvise((void *)(uintptr_t)(m->data + from), to - from, MADV_DONTNEED);
}

bool file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

bool dir_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int dir_make_all(const char *path)
{
    char *made = mem_strdup(path);
    int rc = 0;
    for (char *p = made + (*made == '/'); !rc; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        const char end = *p;
        *p = '\0';
        if (*made && mkdir(made, 0777) != 0 && (errno != EEXIST || !dir_exists(made)))
            rc = fault(ERR_WRITE, made);
        *p = end;
        if (!end)
            break;
    }
    free(made);
    return rc;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *walk)
{
    (void)st, (void)kind, (void)walk;
    return remove(path) == 0 || errno == ENOENT ? 0 : fault(ERR_WRITE, path);
}

// nftw's own failure is -1, which no callback of ours returns.
static int walk_tree(const char *path, __nftw_func_t visit)
{
    const int rc = nftw(path, visit, 32, FTW_DEPTH | FTW_PHYS);
    return rc == -1 ? fault(ERR_WRITE, path) : rc;
}

int dir_remove_all(const char *path)
{
    struct stat st;
    if (lstat(path, &st) != 0 && errno == ENOENT)
        return 0;
    return walk_tree(path, remove_entry);
}

int file_sync(const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fault(ERR_WRITE, path);
    const int rc = fsync(fd) == 0 ? 0 : fault(ERR_WRITE, path);
    close(fd);
    return rc;
}

static int sync_entry(const char *path, const struct stat *st, int kind, struct FTW *walk)
{
    (void)walk;
    return kind == FTW_DP || S_ISREG(st->st_mode) ? file_sync(path) : 0;
}

static int rename_new(const char *from, const char *to)
{
    const int rc = renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
    if (rc == 0 || (errno != EINVAL && errno != ENOSYS))
        return rc;
    // The file system cannot refuse to replace: look first.
    struct stat st;
    if (lstat(to, &st) == 0) {
        errno = EEXIST;
        return -1;
    }
    return rename(from, to);
}

int dir_commit(const char *from, const char *to)
{
    if (!dir_exists(from))
        return err_set(ERR_WRITE, "\"%s\": not a directory", from);
    const int rc = walk_tree(from, sync_entry);
    if (rc)
        return rc;
    if (rename_new(from, to) != 0)
        return fault(ERR_WRITE, to);
    return sync_parent(to);
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int dir_list(char ***out, const char *path, int code)
{
    DIR *dir = opendir(path);
    if (!dir)
        return fault(code, path);
    struct strbuf names = {0}; // each with its terminator
    size_t count = 0;
    const struct dirent *entry;
    while (errno = 0, (entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        strbuf_append(&names, entry->d_name, strlen(entry->d_name) + 1);
        count++;
    }
    const int rc = errno ? fault(code, path) : 0;
    closedir(dir);
    if (!rc) {
        char **list = mem_alloc((count + 1) * sizeof *list + names.len);
        char *text = (char *)(list + count + 1);
        if (names.len)
            memcpy(text, names.data, names.len);
        for (size_t i = 0; i < count; i++, text += strlen(text) + 1)
            list[i] = text;
        list[count] = NULL;
        qsort(list, count, sizeof *list, by_bytes);
        *out = list;
    }
    strbuf_free(&names);
    return rc;
}

static int copy_file(const char *from, const char *to)
{
    struct file_map map;
    int rc = file_map_open(&map, from, ERR_WRITE);
    if (rc)
        return rc;
    rc = file_write_atomic(to, map.data, map.size);
    file_map_close(&map);
    return rc;
}

int dir_copy_files(const char *from, const char *to)
{
    char **names;
    int rc = dir_list(&names, from, ERR_WRITE);
    if (rc)
        return rc;
    for (int i = 0; names[i] && !rc; i++) {
        char *source = path_join(from, names[i]), *target = path_join(to, names[i]);
        rc = copy_file(source, target);
        free(source);
        free(target);
    }
    free(names);
    return rc;
}

char *path_join(const char *a, const char *b)
{
    const size_t n = strlen(a);
    if (*b == '/' || n == 0)
        return mem_strdup(b);
    struct strbuf path = {0};
    strbuf_puts(&path, a);
    if (a[n - 1] != '/')
        strbuf_putc(&path, '/');
    strbuf_puts(&path, b);
    return strbuf_take(&path);
}

int zstd_pack(struct strbuf *out, const void *data, size_t len, int level)
{
    ZSTD_CCtx *z = ZSTD_createCCtx();
    if (!z)
        die_out_of_memory(CHUNK);
    ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, level);
    ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1);
    const size_t room = ZSTD_compressBound(len);
    const size_t n = ZSTD_compress2(z, strbuf_reserve(out, room), room, data, len);
    ZSTD_freeCCtx(z);
    if (ZSTD_isError(n))
        return err_set(ERR_ENV, "zstd: %s", ZSTD_getErrorName(n));
    out->len += n;
    out->data[out->len] = '\0';
    return 0;
}

void hash_hex(char out[33], const void *data, size_t len)
{
    const XXH128_hash_t h = XXH3_128bits(data, len);
    snprintf(out, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
}
