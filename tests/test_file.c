// SPDX-License-Identifier: Apache-2.0
// Files are whole or absent, packed streams are read whole or refused, directories appear at once.
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

struct place {
    char dir[64];
    char *file; // a path in dir, made anew by at()
};

static int make_place(void **state)
{
    struct place *p = mem_alloc0(sizeof *p);
    strcpy(p->dir, "/tmp/test_file.XXXXXX");
    *state = p;
    return mkdtemp(p->dir) ? 0 : -1;
}

static int remove_place(void **state)
{
    struct place *p = *state;
    const int rc = dir_remove_all(p->dir);
    assert_false(dir_exists(p->dir));
    free(p->file);
    free(p);
    return rc;
}

// Valid until the next call.
static const char *at(struct place *p, const char *name)
{
    free(p->file);
    p->file = path_join(p->dir, name);
    return p->file;
}

static void put(struct place *p, const char *name, const void *data, size_t len)
{
    if (file_write_atomic(at(p, name), data, len) != 0)
        fail_msg("%s", err_message());
}

static int count_entries(const char *dir)
{
    char **names = NULL;
    assert_int_equal(dir_list(&names, dir, ERR_DATA), 0);
    int count = 0;
    while (names[count])
        count++;
    free(names);
    return count;
}

static void what_is_written_is_read(void **state)
{
    struct place *p = *state;
    put(p, "a", "one\0two", 7);
    put(p, "a", "three", 5);
    struct strbuf b = {0};
    strbuf_puts(&b, "<");
    assert_int_equal(file_read(&b, at(p, "a"), 5, ERR_DATA), 0);
    assert_string_equal(b.data, "<three");
    put(p, "empty", NULL, 0);
    assert_int_equal(file_read(&b, at(p, "empty"), 0, ERR_DATA), 0);
    assert_int_equal(b.len, 6);
    assert_int_equal(count_entries(p->dir), 2); // no temporary file stays
    strbuf_free(&b);
}

static void a_fault_names_the_file_and_leaves_the_buffer(void **state)
{
    struct place *p = *state;
    struct strbuf b = {0};
    strbuf_puts(&b, "kept");
    assert_int_equal(file_read(&b, at(p, "none"), 0, ERR_MODEL), ERR_MODEL);
    assert_non_null(strstr(err_message(), "none\": No such file"));
    assert_int_equal(file_read(&b, p->dir, 0, ERR_DATA), ERR_DATA);
    assert_non_null(strstr(err_message(), "a directory"));
    put(p, "six", "sixsix", 6);
    assert_int_equal(file_read(&b, at(p, "six"), 5, ERR_DATA), ERR_DATA);
    assert_non_null(strstr(err_message(), "larger than 5 bytes"));
    assert_string_equal(b.data, "kept");
    assert_int_equal(file_write_atomic(at(p, "no/such"), "", 0), ERR_WRITE);
    strbuf_free(&b);
}

static void a_failed_write_leaves_the_old_file_and_nothing_else(void **state)
{
    struct place *p = *state;
    assert_int_equal(mkdir(at(p, "target"), 0777), 0);
    assert_int_equal(file_write_atomic(at(p, "target"), "x", 1), ERR_WRITE);
    assert_int_equal(count_entries(p->dir), 1);
}

static void pack_gzip(struct place *p, const char *name, const char *mode, const char *text)
{
    gzFile gz = gzopen(at(p, name), mode);
    assert_non_null(gz);
    assert_int_equal(gzwrite(gz, text, (unsigned)strlen(text)), strlen(text));
    assert_int_equal(gzclose(gz), Z_OK);
}

// Reads `name` cut after each of some lengths: all but the whole is an error.
static void check_cuts(struct place *p, const char *name, const char *expected)
{
    struct strbuf whole = {0}, text = {0};
    assert_int_equal(file_read(&whole, at(p, name), 0, ERR_DATA), 0);
    const char *suffix = strrchr(name, '.');
    char cut_name[32];
    snprintf(cut_name, sizeof cut_name, "cut%s", suffix);
    for (size_t len = 0; len < whole.len; len++) {
        put(p, cut_name, whole.data, len);
        if (file_read_unpacked(&text, at(p, cut_name), 0, ERR_DATA) != ERR_DATA)
            fail_msg("%s cut to %zu of %zu bytes was read", name, len, whole.len);
        assert_int_equal(text.len, 0);
    }
    assert_int_equal(file_read_unpacked(&text, at(p, name), 0, ERR_DATA), 0);
    assert_string_equal(text.data, expected);
    whole.data[whole.len / 2] ^= 0x40;
    put(p, cut_name, whole.data, whole.len);
    assert_int_equal(file_read_unpacked(&text, at(p, cut_name), 0, ERR_DATA), ERR_DATA);
    strbuf_append(&whole, "rubbish", 7);
    whole.data[(whole.len - 7) / 2] ^= 0x40;
    put(p, cut_name, whole.data, whole.len);
    assert_int_equal(file_read_unpacked(&text, at(p, cut_name), 0, ERR_DATA), ERR_DATA);
    strbuf_free(&whole);
    strbuf_free(&text);
}

static void packed_files_are_read_whole_or_refused(void **state)
{
    struct place *p = *state;
    const char *text =
        "{\"a\":1}\n{\"a\":2}\n{\"a\":3, \"text\": \"something that packs packs packs\"}\n";
    pack_gzip(p, "a.gz", "wb9", text);
    check_cuts(p, "a.gz", text);
    struct strbuf packed = {0};
    assert_int_equal(zstd_pack(&packed, text, strlen(text), 3), 0);
    put(p, "a.zst", packed.data, packed.len);
    check_cuts(p, "a.zst", text);
    strbuf_free(&packed);
    struct strbuf plain = {0};
    put(p, "a.txt", text, strlen(text));
    assert_int_equal(file_read_unpacked(&plain, at(p, "a.txt"), 0, ERR_DATA), 0);
    assert_string_equal(plain.data, text);
    strbuf_free(&plain);
}

static void appended_members_and_frames_are_read_in_turn(void **state)
{
    struct place *p = *state;
    pack_gzip(p, "two.gz", "wb", "one,");
    pack_gzip(p, "two.gz", "ab", "two");
    struct strbuf text = {0}, packed = {0};
    assert_int_equal(file_read_unpacked(&text, at(p, "two.gz"), 0, ERR_DATA), 0);
    assert_string_equal(text.data, "one,two");
    assert_int_equal(zstd_pack(&packed, "three,", 6, 1) | zstd_pack(&packed, "", 0, 1), 0);
    assert_int_equal(zstd_pack(&packed, "four", 4, 19), 0);
    put(p, "two.zst", packed.data, packed.len);
    strbuf_clear(&text);
    assert_int_equal(file_read_unpacked(&text, at(p, "two.zst"), 0, ERR_DATA), 0);
    assert_string_equal(text.data, "three,four");
    strbuf_free(&packed);
    strbuf_free(&text);
}

static void unpacking_stops_at_the_limit(void **state)
{
    struct place *p = *state;
    const size_t len = (size_t)40 << 20;
    char *zeros = mem_alloc0(len);
    struct strbuf packed = {0}, text = {0};
    assert_int_equal(zstd_pack(&packed, zeros, len, 1), 0);
    put(p, "bomb.zst", packed.data, packed.len);
    assert_int_equal(file_read_unpacked(&text, at(p, "bomb.zst"), 1 << 20, ERR_DATA), ERR_DATA);
    assert_non_null(strstr(err_message(), "larger than 1048576 bytes"));
    assert_true(text.cap < (size_t)8 << 20);
    assert_int_equal(file_read_unpacked(&text, at(p, "bomb.zst"), len, ERR_DATA), 0);
    assert_int_equal(text.len, len);
    strbuf_free(&packed);
    strbuf_free(&text);
    free(zeros);
}

static void a_mapping_shows_the_file(void **state)
{
    struct place *p = *state;
    put(p, "m", "mapped", 6);
    struct file_map m = {0};
    assert_int_equal(file_map_open(&m, at(p, "m"), ERR_MODEL), 0);
    assert_int_equal(m.size, 6);
    assert_memory_equal(m.data, "mapped", 6);
    file_map_close(&m);
    file_map_close(&m);
    put(p, "m", "", 0);
    assert_int_equal(file_map_open(&m, at(p, "m"), ERR_MODEL), 0);
    assert_true(m.data == NULL && m.size == 0);
    assert_int_equal(file_map_open(&m, at(p, "none"), ERR_MODEL), ERR_MODEL);
}

// Bytes of the process that are in memory, now. Counted in its page tables: /proc/self/statm lags.
static size_t resident(void)
{
    char line[256];
    size_t kib = 0;
    FILE *f = fopen("/proc/self/smaps_rollup", "r");
    assert_non_null(f);
    while (kib == 0 && fgets(line, sizeof line, f))
        (void)sscanf(line, "Rss: %zu kB", &kib);
    fclose(f);
    assert_true(kib > 0);
    return kib << 10;
}

static void what_is_forgotten_of_a_mapping_takes_no_memory_and_is_still_there(void **state)
{
    struct place *p = *state;
    enum { SIZE = (8 << 20) + 100, ELSE = 1 << 18 }; // ELSE: what the program may take meanwhile
    char *bytes = mem_alloc(SIZE);
    struct file_map m = {0};
    for (int i = 0; i < SIZE; i++)
        bytes[i] = (char)(i * 7 + (i >> 12));
    put(p, "m", bytes, SIZE);
    assert_int_equal(file_map_open(&m, at(p, "m"), ERR_MODEL), 0);
    assert_memory_equal(m.data, bytes, SIZE);
    const size_t before = resident();
    file_map_forget(&m, 1 << 20, 6 << 20);
    assert_true(before + ELSE >= resident() + (6 << 20));
    file_map_forget(&m, 5, m.size - 5);
    assert_true(before + ELSE >= resident() + SIZE);
    assert_memory_equal(m.data, bytes, SIZE);
    file_map_close(&m);
    put(p, "m", "", 0);
    assert_int_equal(file_map_open(&m, at(p, "m"), ERR_MODEL), 0);
    file_map_forget(&m, 0, 0);
    free(bytes);
}

static void directories_are_made_listed_and_removed(void **state)
{
    struct place *p = *state;
    assert_int_equal(dir_make_all(at(p, "a/b//c/")), 0);
    assert_int_equal(dir_make_all(at(p, "a/b/c")), 0);
    put(p, "a/Z", "", 0);
    put(p, "a/.y", "", 0);
    assert_int_equal(dir_make_all(at(p, "a/Z/x")), ERR_WRITE);
    char **names = NULL;
    assert_int_equal(dir_list(&names, at(p, "a"), ERR_DATA), 0);
    static const char *const expected[] = {".y", "Z", "b"};
    for (int i = 0; i < 3; i++)
        assert_string_equal(names[i], expected[i]);
    assert_null(names[3]);
    free(names);
    assert_int_equal(dir_list(&names, at(p, "none"), ERR_DATA), ERR_DATA);
    assert_true(file_exists(at(p, "a/Z")) && !dir_exists(at(p, "a/Z")) && !file_exists(at(p, "a")));
    // A link is removed, not what it points to.
    put(p, "outside", "x", 1);
    char *link = path_join(p->dir, "a/b/link");
    assert_int_equal(symlink(p->dir, link), 0);
    free(link);
    assert_int_equal(dir_remove_all(at(p, "a")), 0);
    assert_int_equal(dir_remove_all(at(p, "a")), 0);
    assert_true(file_exists(at(p, "outside")) && !dir_exists(at(p, "a")));
}

static void the_files_of_a_directory_are_copied(void **state)
{
    struct place *p = *state;
    struct strbuf text = {0};
    assert_int_equal(dir_make_all(at(p, "from")), 0);
    put(p, "from/one", "1", 1);
    put(p, "from/none", "", 0);
    assert_int_equal(dir_make_all(at(p, "to")), 0);
    put(p, "to/one", "old", 3);
    char *from = path_join(p->dir, "from");
    assert_int_equal(dir_copy_files(from, at(p, "to")), 0);
    assert_int_equal(file_read(&text, at(p, "to/one"), 0, ERR_DATA), 0);
    assert_string_equal(text.data, "1");
    assert_true(file_exists(at(p, "to/none")));
    assert_int_equal(dir_copy_files(from, at(p, "nowhere")), ERR_WRITE);
    assert_int_equal(dir_copy_files(at(p, "nowhere"), from), ERR_WRITE);
    assert_int_equal(dir_make_all(at(p, "from/folder")), 0);
    assert_int_equal(dir_copy_files(from, at(p, "to")), ERR_WRITE);
    strbuf_free(&text);
    free(from);
}

static void a_committed_directory_appears_at_once_and_never_replaces(void **state)
{
    struct place *p = *state;
    char *to = path_join(p->dir, "done");
    assert_int_equal(dir_make_all(at(p, "part/sub")), 0);
    put(p, "part/sub/f", "1", 1);
    assert_int_equal(dir_commit(at(p, "part"), to), 0);
    assert_true(file_exists(at(p, "done/sub/f")) && !dir_exists(at(p, "part")));
    assert_int_equal(dir_make_all(at(p, "part")), 0);
    assert_int_equal(dir_commit(at(p, "part"), to), ERR_WRITE);
    assert_non_null(strstr(err_message(), "File exists"));
    assert_true(file_exists(at(p, "done/sub/f")) && dir_exists(at(p, "part")));
    assert_int_equal(dir_commit(at(p, "none"), to), ERR_WRITE);
    free(to);
}

static void paths_are_joined(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"a", "/b", "/b"}, {"", "b", "b"}, {"/", "b", "/b"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *joined = path_join(cases[i][0], cases[i][1]);
        assert_string_equal(joined, cases[i][2]);
        free(joined);
    }
}

// As `xxhsum -H2` prints them.
static void hashes_are_xxh3_128(void **state)
{
    (void)state;
    char hex[33];
    hash_hex(hex, "", 0);
    assert_string_equal(hex, "99aa06d3014798d86001c324468d497f");
    hash_hex(hex, "gradus", 6);
    assert_string_equal(hex, "6e06f5a8d77f2930d94d7e5f1856ad43");
}

#define IN_A_PLACE(test) cmocka_unit_test_setup_teardown(test, make_place, remove_place)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_A_PLACE(what_is_written_is_read),
        IN_A_PLACE(a_fault_names_the_file_and_leaves_the_buffer),
        IN_A_PLACE(a_failed_write_leaves_the_old_file_and_nothing_else),
        IN_A_PLACE(packed_files_are_read_whole_or_refused),
        IN_A_PLACE(appended_members_and_frames_are_read_in_turn),
        IN_A_PLACE(unpacking_stops_at_the_limit),
        IN_A_PLACE(a_mapping_shows_the_file),
        IN_A_PLACE(what_is_forgotten_of_a_mapping_takes_no_memory_and_is_still_there),
        IN_A_PLACE(directories_are_made_listed_and_removed),
        IN_A_PLACE(the_files_of_a_directory_are_copied),
        IN_A_PLACE(a_committed_directory_appears_at_once_and_never_replaces),
        cmocka_unit_test(paths_are_joined),
        cmocka_unit_test(hashes_are_xxh3_128),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
