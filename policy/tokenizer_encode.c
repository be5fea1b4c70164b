// SPDX-License-Identifier: Apache-2.0
// From text to ids. Theory of operation, in the order of the `tokenizers` library:
// added tokens that are not normalized are cut out of the text; every stretch between them is
// normalized, and the other added tokens are cut out of that; every stretch that is left goes
// through the stages of the pre-tokenizer, each of which cuts the pieces of the one before; the
// last pieces are merged by BPE, bytes being the first symbols.
#include "base/error.h"
#include "base/mem.h"
#include "policy/tokenizer_parts.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define TEXT_MAX ((size_t)256 << 20)

struct encoder {
    const struct tokenizer *t;
    struct token_list *out;
    struct token_matcher *matcher;
    struct bpe_scratch scratch;
    struct strbuf prefixed; // of the one stage that puts a blank before a piece
};

static bool is_ascii(const char *s, size_t len)
{
    unsigned char any = 0;
    for (size_t i = 0; i < len; i++)
        any |= (unsigned char)s[i];
    return any < 0x80;
}

void tokenizer_normalize(struct strbuf *out, const char *s, size_t len)
{
    if (is_ascii(s, len)) {
        strbuf_append(out, s, len);
        return;
    }
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)len, &composed,
                                      UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    assert(n != UTF8PROC_ERROR_INVALIDUTF8);
    if (n < 0)
        die_out_of_memory(4 * len);
    strbuf_append(out, composed, (size_t)n);
    free(composed);
}

static int split(struct encoder *e, int stage, const char *piece, size_t len)
{
    if (len == 0)
        return 0;
    if (stage == e->t->stage_count) {
        bpe_encode(e->out, &e->t->bpe, &e->scratch, piece, len);
        return 0;
    }
    const struct token_regex *regex = e->t->stages[stage].regex;
    if (!regex) {
        if (piece[0] == ' ')
            return split(e, stage + 1, piece, len);
        strbuf_clear(&e->prefixed);
        strbuf_putc(&e->prefixed, ' ');
        strbuf_append(&e->prefixed, piece, len);
        return split(e, stage + 1, e->prefixed.data, e->prefixed.len);
    }
    struct token_scan scan = {.text = piece, .len = len};
    size_t done = 0, start = 0, end = 0;
    int rc = 0;
    while ((rc = token_regex_next(&start, &end, &scan, regex, e->matcher)) == 1) {
        rc = split(e, stage + 1, piece + done, start - done);
        if (!rc)
            rc = split(e, stage + 1, piece + start, end - start);
        if (rc)
            return rc;
        done = end;
    }
    return rc ? rc : split(e, stage + 1, piece + done, len - done);
}

// The first of the set's [lo, hi), which agree before byte `depth`, whose byte there is at least c.
static int lower_bound(const struct added_set *set, int lo, int hi, size_t depth, int c)
{
    while (lo < hi) {
        int middle = lo + (hi - lo) / 2;
        if ((unsigned char)set->tokens[middle].match[depth] < c)
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo;
}

// The longest added token at the start of s; NULL: none. `match` is terminated, and its terminator
// sorts first.
static const struct added_token *match_added(const struct added_set *set, const char *s, size_t len)
{
    int lo = set->first[(unsigned char)s[0]], hi = set->first[(unsigned char)s[0] + 1];
    const struct added_token *best = NULL;
    for (size_t depth = 1; lo < hi; depth++) {
        if (set->tokens[lo].match_len == depth)
            best = &set->tokens[lo];
        if (depth == len)
            break;
        int c = (unsigned char)s[depth];
        lo = lower_bound(set, lo, hi, depth, c ? c : 1);
        hi = c ? lower_bound(set, lo, hi, depth, c + 1) : lo;
    }
    return best;
}

static bool is_white(utf8proc_int32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

// \w of Unicode TR18: Alphabetic, marks, decimal digits, connectors and joiners.
static bool is_word(utf8proc_int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    bool circled = (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
                   (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NL) || k == UTF8PROC_CATEGORY_PC ||
           c == 0x200C || c == 0x200D || circled;
}

// The character that ends before `at`, or begins there; -1 at the ends of the text. *size: its
// bytes.
static utf8proc_int32_t char_before(const char *s, size_t at, size_t *size)
{
    utf8proc_int32_t c = -1;
    size_t start = at;
    while (start > 0 && ((unsigned char)s[--start] & 0xC0) == 0x80)
        ;
    *size = at - start;
    if (*size > 0)
        utf8proc_iterate((const utf8proc_uint8_t *)s + start, (utf8proc_ssize_t)*size, &c);
    return c;
}

static utf8proc_int32_t char_after(const char *s, size_t len, size_t at, size_t *size)
{
    utf8proc_int32_t c = -1;
    *size = 0;
    if (at < len)
        *size = (size_t)utf8proc_iterate((const utf8proc_uint8_t *)s + at,
                                         (utf8proc_ssize_t)(len - at), &c);
    return c;
}

typedef int stretch_fn(struct encoder *e, const char *s, size_t len);

// Cuts the set's tokens out of s and gives what lies between them to `stretch`.
static int cut_added(struct encoder *e, const struct added_set *set, const char *s, size_t len,
                     stretch_fn *stretch)
{
    size_t done = 0, size = 0;
    for (size_t at = 0; at < len;) {
        const struct added_token *a = match_added(set, s + at, len - at);
        if (!a) {
            at++;
            continue;
        }
        size_t start = at, end = at + a->match_len;
        at = end;
        if (a->single_word &&
            (is_word(char_before(s, start, &size)) || is_word(char_after(s, len, end, &size))))
            continue;
        while (a->lstrip && start > done && is_white(char_before(s, start, &size)))
            start -= size;
        while (a->rstrip && is_white(char_after(s, len, end, &size)))
            end += size;
        if (start > done) {
            int err = stretch(e, s + done, start - done);
            if (err)
                return err;
        }
        token_list_add(e->out, a->id);
        done = end;
    }
    return done < len ? stretch(e, s + done, len - done) : 0;
}

static int encode_pieces(struct encoder *e, const char *s, size_t len)
{
    return split(e, 0, s, len);
}

static int encode_stretch(struct encoder *e, const char *s, size_t len)
{
    if (!e->t->nfc)
        return cut_added(e, &e->t->normalized, s, len, encode_pieces);
    struct strbuf composed = {0};
    tokenizer_normalize(&composed, s, len);
    int err = cut_added(e, &e->t->normalized, composed.data, composed.len, encode_pieces);
    strbuf_free(&composed);
    return err;
}

int tokenizer_encode(struct token_list *out, const struct tokenizer *t, const char *text,
                     size_t len, bool add_special)
{
    if (len > TEXT_MAX)
        return err_set(ERR_DATA, "a text of %zu bytes is longer than the tokenizer takes (%zu)",
                       len, TEXT_MAX);
    size_t valid = utf8_valid_prefix(text, len);
    if (valid < len)
        return err_set(ERR_DATA, "the text is not UTF-8 at byte %zu of %zu", valid, len);
    int count = out->count;
    for (int i = 0; add_special && i < t->before.count; i++)
        token_list_add(out, t->before.ids[i]);
    struct encoder e = {.t = t, .out = out, .matcher = token_matcher_new(len)};
    int err = cut_added(&e, &t->raw, text, len, encode_stretch);
    token_matcher_free(&e.matcher);
    bpe_scratch_free(&e.scratch);
    strbuf_free(&e.prefixed);
    for (int i = 0; add_special && i < t->after.count; i++)
        token_list_add(out, t->after.ids[i]);
    if (err)
        out->count = count;
    return err;
}
