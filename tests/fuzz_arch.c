// SPDX-License-Identifier: Apache-2.0
// Input: a config.json. What is accepted has sizes that can be counted, and is read back the same
// after it was written.
#include "base/error.h"
#include "policy/rope.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int holds)
{
    if (!holds) {
        abort();
    }
}

static int parse(struct arch *a, const char *text, size_t len)
{
    struct json_doc *doc = NULL;
    int rc = json_parse(&doc, text, len, 0, "config.json", 1, ERR_MODEL);
    if (rc == 0) {
        rc = arch_from_json(a, doc, json_root(doc), "config.json", ERR_MODEL);
    }
    json_free(&doc);
    return rc;
}

static void write_arch(struct strbuf *out, const struct arch *a)
{
    struct json_writer w = {.out = out};
    arch_to_json(&w, a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arch a, again;
    if (parse(&a, (const char *)data, size)) {
        return 0;
    }
    check(arch_num_parameters(&a, false) >= arch_num_parameters(&a, true));
    check(arch_num_parameters(&a, true) > 0);
    check(a.E == 0 || (a.K <= a.E && a.E % a.n_group == 0));
    check(isfinite(rope_softmax_scale(&a)) && isfinite(rope_attention_factor(&a)));
    check(isfinite(rope_frequency(&a, a.Dr / 2 - 1)));
    struct strbuf first = {0}, second = {0};
    write_arch(&first, &a);
    check(parse(&again, first.data, first.len) == 0);
    write_arch(&second, &again);
    check(strcmp(first.data, second.data) == 0);
    strbuf_free(&first);
    strbuf_free(&second);
    return 0;
}
