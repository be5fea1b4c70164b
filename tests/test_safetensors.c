// SPDX-License-Identifier: Apache-2.0
// Tensor files: everything wrong with one is refused before it is used, and what is written keeps
// its bytes.
#include "tests/model_fixture.h"

// A file of the given header and `size` bytes of data; free() the result.
static uint8_t *file_of(const char *header, size_t data_size, size_t *size)
{
    size_t len = strlen(header);
    *size = 8 + len + data_size;
    uint8_t *bytes = mem_alloc0(*size);
    for (int i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)((uint64_t)len >> (8 * i));
    }
    memcpy(bytes + 8, header, len);
    return bytes;
}

static int parse(const char *header, size_t data_size)
{
    size_t size;
    uint8_t *bytes = file_of(header, data_size, &size);
    struct safetensors *s = NULL;
    int rc = safetensors_parse(&s, bytes, size, "model.safetensors", ERR_MODEL);
    safetensors_free(&s);
    free(bytes);
    return rc;
}

#define TENSOR(name, dtype, shape, begin, end)                                                     \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end   \
    "]}"

static void sound_files_are_read(void **state)
{
    (void)state;
    size_t size;
    uint8_t *bytes =
        file_of("{\"__metadata__\":{\"format\":\"pt\",\"k\":\"v\"}," TENSOR(
                    "b", "F32", "[2,3]", "0", "24") "," TENSOR("a", "U8", "[0]", "24",
                                                               "24") "," TENSOR("c", "I64", "[]",
                                                                                "24", "32") "}   ",
                32, &size);
    struct safetensors *s = NULL;
    assert_ok(safetensors_parse(&s, bytes, size, "file", ERR_MODEL));
    assert_int_equal(s->count, 3);
    assert_string_equal(s->tensors[0].name, "a");
    const struct tensor *b = safetensors_find(s, "b");
    assert_int_equal(b->rank, 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(tensor_count(b), 6);
    assert_int_equal(tensor_count(safetensors_find(s, "c")), 1);
    assert_int_equal(tensor_count(safetensors_find(s, "a")), 0);
    assert_null(safetensors_find(s, "d"));
    assert_string_equal(safetensors_metadata(s, "k"), "v");
    assert_null(safetensors_metadata(s, "x"));
    safetensors_free(&s);
    free(bytes);
    assert_ok(parse("{}", 0));
}

static void bad_headers_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *message;
    } cases[] = {
        {"[]", 0, "an array"},
        {"{} x", 0, "model.safetensors:1: "},
        {"{\"a\":3}", 0, "\"a\" is a number"},
        {"{" TENSOR("a", "F32", "[2]", "0", "8") "," TENSOR("a", "F32", "[2]", "8", "16") "}", 16,
         "the key \"a\" appears twice in one object (its values begin at bytes 5 and 58)"},
        {"{" TENSOR("a", "F32", "[2]", "0", "8") "," TENSOR("b", "F32", "[2]", "4", "12") "}", 12,
         "inside the one before"},
        {"{" TENSOR("a", "F32", "[2]", "0", "8") "," TENSOR("b", "F32", "[2]", "12", "20") "}", 20,
         "after a hole"},
        {"{" TENSOR("a", "F32", "[2]", "4", "12") "}", 12, "after a hole"},
        {"{" TENSOR("a", "F32", "[2]", "0", "8") "}", 9, "1 bytes follow"},
        {"{" TENSOR("a", "F32", "[2]", "0", "8") "}", 7,
         "tensor \"a\" ends at byte 8 of the data: expected as many bytes after the header, got 7"},
        {"{" TENSOR("a", "F32", "[2]", "8", "0") "}", 8,
         "tensor \"a\" ends at byte 0 of the data, before it begins at 8"},
        {"{" TENSOR("a", "F32", "[3]", "0", "8") "}", 8, "12 bytes, its offsets 8"},
        {"{" TENSOR("a", "F32", "[-2]", "0", "8") "}", 8, "dimension 0"},
        {"{" TENSOR("a", "F32", "[2.0]", "0", "8") "}", 8, "dimension 0"},
        {"{" TENSOR("a", "F32", "[1,1e300]", "0", "8") "}", 8, "dimension 1"},
        {"{" TENSOR("a", "F32", "[4294967296,4294967296]", "0", "8") "}", 8, "overflows"},
        {"{" TENSOR("a", "F32", "[1,1,1,1,1,1,1,1,2]", "0", "8") "}", 8, "at most 8"},
        {"{" TENSOR("a", "F31", "[2]", "0", "8") "}", 8,
         "unknown dtype \"F31\"; the format has BOOL, U8, I8, F8_E5M2, F8_E4M3, I16, U16, F16, "
         "BF16"},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "no dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "\"shape\""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "\"data_offsets\""},
        {"{" TENSOR("a", "F32", "[2]", "0", "8.0") "}", 8, "\"data_offsets\""},
        {"{\"__metadata__\":{\"step\":3}}", 0, "\"step\" is not a string"},
        {"{\"__metadata__\":3}", 0, "not an object"},
        {"{\"a\xff\":3}", 0, "UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(parse(cases[i].header, cases[i].data), ERR_MODEL);
        if (!strstr(err_message(), cases[i].message) ||
            !strstr(err_message(), "model.safetensors")) {
            fail_msg("case %zu says: %s", i, err_message());
        }
    }
}

static void nesting_does_not_exhaust_the_stack(void **state)
{
    (void)state;
    enum { DEPTH = 100000 };
    char *text = mem_alloc0(DEPTH + 1);
    memset(text, '[', DEPTH);
    assert_int_equal(parse(text, 0), ERR_MODEL);
    free(text);
}

static void lengths_of_headers_are_checked_before_use(void **state)
{
    (void)state;
    static const struct {
        uint64_t length;
        const char *message;
    } cases[] = {
        {1ull << 63, "over the limit of 100000000"},
        {UINT64_MAX, "over the limit of 100000000"},
        {0, "f:1: "},
        {1, "f:1: "},
        {3, "expected 11 bytes of header, got a file of 10 bytes"},
        {100000001, "a header of 100000001 bytes is over the limit of 100000000"},
        {99999999, "expected 100000007 bytes of header, got a file of 10 bytes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[10] = {0};
        struct safetensors *s = NULL;
        for (int j = 0; j < 8; j++) {
            bytes[j] = (uint8_t)(cases[i].length >> (8 * j));
        }
        assert_int_equal(safetensors_parse(&s, bytes, sizeof bytes, "f", ERR_MODEL), ERR_MODEL);
        assert_null(s);
        if (!strstr(err_message(), cases[i].message)) {
            fail_msg("length %zu says: %s", i, err_message());
        }
    }
}

static void a_file_cut_at_any_byte_is_refused(void **state)
{
    (void)state;
    size_t size;
    uint8_t *bytes = file_of("{" TENSOR("a", "F32", "[2]", "0", "8") "}", 8, &size);
    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *part =
            mem_alloc(cut); // its own allocation, so that a sanitizer sees a read past it
        struct safetensors *s = NULL;
        memcpy(part, bytes, cut);
        assert_int_equal(safetensors_parse(&s, part, cut, "f", ERR_MODEL), ERR_MODEL);
        assert_non_null(strstr(err_message(), "expected"));
        assert_non_null(strstr(err_message(), "got"));
        free(part);
    }
    free(bytes);
}

static void halves_widen_exactly(void **state)
{
    (void)state;
    static const struct {
        enum tensor_dtype dtype;
        uint16_t bits;
        float value;
    } cases[] = {
        {TENSOR_BF16, 0x3f80, 1.0f},    {TENSOR_BF16, 0xc049, -3.140625f},
        {TENSOR_F16, 0x3c00, 1.0f},     {TENSOR_F16, 0xc248, -3.140625f},
        {TENSOR_F16, 0x0001, 0x1p-24f}, {TENSOR_F16, 0x83ff, -0x1.ff8p-15f},
        {TENSOR_F16, 0x7bff, 65504.0f}, {TENSOR_F16, 0x0400, 0x1p-14f},
        {TENSOR_F16, 0x7c00, INFINITY}, {TENSOR_F16, 0x8000, -0.0f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[3] = {0, (uint8_t)cases[i].bits, (uint8_t)(cases[i].bits >> 8)};
        struct tensor t = {"x", cases[i].dtype, 1, {1}, bytes + 1, 2}; // at an odd address
        float value = 7;
        assert_true(tensor_to_floats(&value, &t));
        assert_same_bits("widened", &value, &cases[i].value, 1);
    }
    struct tensor t = {"x", TENSOR_F8_E5M2, 1, {0}, NULL, 0};
    assert_false(tensor_to_floats(NULL, &t));
}

// The landmarks of E4M3 in the OCP 8-bit floating point specification (revision 1.0, table 2), and
// what lies between them: eight steps to each power of two.
static void float8_widens_as_the_specification_says(void **state)
{
    (void)state;
    uint8_t codes[256];
    float value[256];
    for (int i = 0; i < 256; i++) {
        codes[i] = (uint8_t)i;
    }
    struct tensor t = {"x", TENSOR_F8_E4M3, 1, {256}, codes, 256};
    assert_true(tensor_to_floats(value, &t));
    assert_true(value[0x00] == 0 && !signbit(value[0x00]) && value[0x80] == 0);
    assert_true(signbit(value[0x80]));
    assert_true(value[0x01] == 0x1p-9f);          // the least subnormal
    assert_true(value[0x07] == 0.875f * 0x1p-6f); // the largest
    assert_true(value[0x08] == 0x1p-6f);          // the least normal
    assert_true(value[0x38] == 1.0f);
    assert_true(value[0x7e] == 448.0f); // the largest
    assert_true(isnan(value[0x7f]) && isnan(value[0xff]));
    for (int i = 0x08; i < 0x7e; i++) {
        const float step = ldexpf(1, i / 8 - 10);
        assert_true(value[i + 1] - value[i] == step);
        assert_true(value[i | 0x80] == -value[i]);
    }
}

static void a_written_file_is_read_back_and_written_again_with_its_bytes(void **state)
{
    (void)state;
    char *dir = temporary_dir(), *path = path_join(dir, "x.safetensors");
    const float data[] = {1, 2, 3, 4, 5, 6};
    const struct tensor tensors[] = {
        {"experts.2", TENSOR_F32, 2, {2, 2}, data, 16},
        {"experts.10", TENSOR_F32, 1, {2}, data + 4, 8},
    };
    const char *metadata[] = {"format", "pt"};
    struct strbuf first = {0}, second = {0};
    struct safetensors *s = NULL;
    assert_ok(safetensors_write(path, NULL, tensors, 2, metadata, 1));
    assert_ok(file_read(&first, path, 0, ERR_MODEL));
    assert_ok(safetensors_open(&s, path, ERR_MODEL));
    assert_string_equal(s->tensors[0].name, "experts.10"); // by name, as the library orders them
    assert_memory_equal(s->tensors[1].data, data, 16);
    assert_int_equal((uint8_t)first.data[0] % 8, 0); // data begin at a multiple of 8
    char *again = path_join(dir, "y.safetensors");
    assert_ok(safetensors_write(again, NULL, s->tensors, s->count, s->metadata, s->num_metadata));
    assert_ok(file_read(&second, again, 0, ERR_MODEL));
    assert_int_equal(first.len, second.len);
    assert_memory_equal(first.data, second.data, first.len);
    safetensors_free(&s);
    assert_int_equal(safetensors_write("/nonexistent/x", NULL, tensors, 2, NULL, 0), ERR_WRITE);
    assert_ok(dir_remove_all(dir));
    strbuf_free(&first);
    strbuf_free(&second);
    free(again);
    free(path);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sound_files_are_read),
        cmocka_unit_test(bad_headers_are_refused),
        cmocka_unit_test(nesting_does_not_exhaust_the_stack),
        cmocka_unit_test(lengths_of_headers_are_checked_before_use),
        cmocka_unit_test(a_file_cut_at_any_byte_is_refused),
        cmocka_unit_test(halves_widen_exactly),
        cmocka_unit_test(float8_widens_as_the_specification_says),
        cmocka_unit_test(a_written_file_is_read_back_and_written_again_with_its_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
