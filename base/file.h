// SPDX-License-Identifier: Apache-2.0
// Files that are either whole or absent. Paths are UTF-8 or bytes; nothing here follows a caller's
// shell conventions.
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "base/str.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Appends the whole file to out. Errors (with `code`): missing, a directory, unreadable, larger
// than max bytes (0: no limit).
int file_read(struct strbuf *out, const char *path, size_t max, int code);

// The same, unpacked when the name ends in .gz or .zst; a truncated stream is an error. max bounds
// the unpacked size.
int file_read_unpacked(struct strbuf *out, const char *path, size_t max, int code);

// Writes path by way of a temporary file in the same directory: write, fsync, rename, fsync of the
// directory.
int file_write_atomic(const char *path, const void *data, size_t len);

// A read-only mapping of a file, for weights. Zero-length files map to data == NULL.
struct file_map {
    const uint8_t *data;
    size_t size;
};
int file_map_open(struct file_map *out, const char *path, int code);
void file_map_close(struct file_map *m);
// Bytes [begin, begin + n) of the file take no memory of the process until they are read again.
void file_map_forget(const struct file_map *m, size_t begin, size_t n);

bool file_exists(const char *path);
bool dir_exists(const char *path);
int dir_make_all(const char *path);   // like mkdir -p
int dir_remove_all(const char *path); // like rm -rf; absent is fine
// Copies the files of a directory that has no others into one that exists.
int dir_copy_files(const char *from, const char *to);
int file_sync(const char *path); // fsync of a file or directory
// Makes `to` appear at once: fsyncs every file of the directory `from` and itself, renames it,
// fsyncs the parent. `to` must not exist.
int dir_commit(const char *from, const char *to);
// Names of the entries of a directory (without . and ..), sorted by bytes; NULL-terminated array,
// one free() for all of it.
int dir_list(char ***out, const char *path, int code);

char *path_join(const char *a, const char *b); // "a/b", b alone when absolute; free()

// Zstandard in memory, and the hash that checkpoints carry (XXH3-128 as 32 hex digits and a
// terminator).
int zstd_pack(struct strbuf *out, const void *data, size_t len, int level);
void hash_hex(char out[33], const void *data, size_t len);

#endif
