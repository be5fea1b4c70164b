// SPDX-License-Identifier: Apache-2.0
#include "sandbox/asserts.h"

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "sandbox/records.h"
#include "sandbox/value.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

// assert_split.py, as numbers.
static const char program[] = {
#include "sandbox/assert_split.inc"
};

void asserts_program(struct slot_program *out, struct asserts_room *room, const char *check,
                     size_t len)
{
    strbuf_puts(&room->entry, "split");
    value_put_container(&room->args, WIRE_LIST, 1);
    value_put_str(&room->args, check, len);
    *out = (struct slot_program){
        .kind = WIRE_JOB_CALLS,
        .source = program,
        .source_len = sizeof program,
        .entry = &room->entry,
        .args = &room->args,
        .calls = 1,
        .input = "",
        .limits = {.cpu_ms = 4000,
                   .wall_ms = 20000,
                   .memory_kib = 262144,
                   .output_kib = 1024,
                   .disk_kib = 1024,
                   .files = 16,
                   .threads = 1},
    };
}

void asserts_room_free(struct asserts_room *room)
{
    strbuf_free(&room->entry);
    strbuf_free(&room->args);
}

// A view of encoded bytes that moves on. The text of tests ran in that process, so the bytes are
// read as hostile ones.
struct view {
    const uint8_t *at;
    size_t len;
};

static bool take_head(struct view *v, char tag, uint32_t *n)
{
    if (v->len < 5 || v->at[0] != tag)
        return false;
    memcpy(n, v->at + 1, sizeof *n);
    v->at += 5;
    v->len -= 5;
    return true;
}

static bool take_value(struct view *v, struct view *value)
{
    struct strbuf canon = {0};
    bool nan = false;
    size_t used = 0;
    const bool ok = value_canonical(&canon, &nan, &used, v->at, v->len);
    strbuf_free(&canon);
    if (!ok)
        return false;
    *value = (struct view){v->at, used};
    v->at += used;
    v->len -= used;
    return true;
}

static struct sandbox_tests *read_calls(struct view v)
{
    uint32_t n;
    struct view entry, args, want;
    if (!take_head(&v, WIRE_TUPLE, &n) || n != 2 || !take_value(&v, &entry) ||
        entry.at[0] != WIRE_STR || !take_head(&v, WIRE_LIST, &n) || n == 0 || n > v.len)
        return NULL;
    struct sandbox_tests *t = tests_new(TESTS_CALLS, (int)n);
    strbuf_append(&t->entry, entry.at + 5, entry.len - 5);
    uint32_t pair;
    bool ok = true;
    for (uint32_t i = 0; i < n && ok; i++)
        ok = take_head(&v, WIRE_TUPLE, &pair) && pair == 2 && take_value(&v, &args) &&
             take_value(&v, &want) && tests_add_call(t, args.at, args.len, want.at, want.len);
    if (!ok || v.len != 0)
        sandbox_tests_free(&t);
    return t;
}

struct sandbox_tests *asserts_read(const struct strbuf *records)
{
    struct record r;
    size_t at = 0;
    if (records_next(&r, &at, (const uint8_t *)records->data, records->len) != 1 ||
        r.kind != WIRE_ANSWER)
        return NULL;
    return read_calls((struct view){r.data, r.len});
}

struct known {
    char key[33]; // hash of the text; first, so that a key alone can be looked up
    struct sandbox_tests *tests;
};

static int known_compare(const void *a, const void *b)
{
    return memcmp(((const struct known *)a)->key, ((const struct known *)b)->key,
                  sizeof((const struct known *)a)->key);
}

bool asserts_cache_get(const struct asserts_cache *c, const struct strbuf *check,
                       const struct sandbox_tests **out)
{
    struct known wanted = {0};
    hash_hex(wanted.key, check->data, check->len);
    struct known *const *found = tfind(&wanted, &c->root, known_compare);
    if (found == NULL)
        return false;
    *out = (*found)->tests;
    return true;
}

void asserts_cache_put(struct asserts_cache *c, const struct strbuf *check,
                       struct sandbox_tests *tests)
{
    struct known *e = mem_alloc0(sizeof *e);
    hash_hex(e->key, check->data, check->len);
    e->tests = tests;
    struct known **at = tsearch(e, &c->root, known_compare);
    if (at == NULL)
        die_out_of_memory(sizeof *e);
    if (*at != e) { // found out twice at once
        sandbox_tests_free(&e->tests);
        free(e);
    }
}

static void known_free(void *p)
{
    struct known *e = p;
    sandbox_tests_free(&e->tests);
    free(e);
}

void asserts_cache_free(struct asserts_cache *c)
{
    tdestroy(c->root, known_free);
    c->root = NULL;
}
