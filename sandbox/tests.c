// SPDX-License-Identifier: Apache-2.0
#include "sandbox/tests.h"

#include "base/mem.h"
#include "sandbox/value.h"
#include "sandbox/wire.h"

#include <stdlib.h>

struct sandbox_tests *tests_new(enum tests_kind kind, int cases)
{
    struct sandbox_tests *t = mem_alloc0(sizeof *t);
    t->kind = kind;
    t->cases = mem_array0((size_t)cases, sizeof *t->cases);
    return t;
}

static size_t keep(struct strbuf *b, const void *bytes, size_t len)
{
    const size_t at = b->len;
    strbuf_append(b, bytes, len);
    return at;
}

struct tests_case *tests_add_stdin(struct sandbox_tests *t, const char *in, size_t in_len,
                                   const char *want, size_t want_len)
{
    struct tests_case *c = &t->cases[t->count++];
    c->in = keep(&t->bytes, in, in_len);
    c->in_len = in_len;
    c->want = keep(&t->bytes, want, want_len);
    c->want_len = want_len;
    return c;
}

bool tests_add_call(struct sandbox_tests *t, const void *args, size_t args_len, const void *result,
                    size_t result_len)
{
    struct strbuf canon = {0};
    bool nan = false, unused = false;
    size_t used = 0;
    const uint8_t *tag = args;
    bool ok = args_len > 0 && tag[0] == WIRE_LIST &&
              value_canonical(&canon, &unused, &used, args, args_len) && used == args_len;
    strbuf_clear(&canon);
    ok = ok && value_canonical(&canon, &nan, &used, result, result_len) && used == result_len;
    if (ok) {
        struct tests_case *c = &t->cases[t->count++];
        strbuf_append(&t->args, args, args_len);
        c->want = keep(&t->bytes, result, result_len);
        c->want_len = result_len;
        c->canon = keep(&t->bytes, canon.data, canon.len);
        c->canon_len = canon.len;
        c->nan = nan;
    }
    strbuf_free(&canon);
    return ok;
}

struct sandbox_tests *sandbox_tests_new_run(const char *input, size_t len)
{
    struct sandbox_tests *t = tests_new(TESTS_RUN, 1);
    (void)tests_add_stdin(t, input, len, "", 0);
    t->count = 0;
    return t;
}

int sandbox_tests_count(const struct sandbox_tests *t) { return t->count; }

void sandbox_tests_free(struct sandbox_tests **tests)
{
    struct sandbox_tests *t = tests != NULL ? *tests : NULL;
    if (t == NULL)
        return;
    free(t->cases);
    strbuf_free(&t->bytes);
    strbuf_free(&t->entry);
    strbuf_free(&t->check);
    strbuf_free(&t->args);
    free(t);
    *tests = NULL;
}
