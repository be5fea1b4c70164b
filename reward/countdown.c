// SPDX-License-Identifier: Apache-2.0
#include "reward/countdown.h"

#include <assert.h>
#include <ctype.h>

int countdown_moves(struct countdown_move out[COUNTDOWN_MOVES_MAX], const int *numbers, int n)
{
    assert(n <= PUZZLE_NUMBERS_MAX);
    int count = 0;
    for (int i = 0; i < n; i++) {
        for (int j = i + 1; j < n; j++) {
            const int x = numbers[i], y = numbers[j], hi = x > y ? x : y, lo = x > y ? y : x;
            if (x + y <= COUNTDOWN_VALUE_MAX)
                out[count++] = (struct countdown_move){'+', x, y, x + y, i, j};
            out[count++] = (struct countdown_move){'-', hi, lo, hi - lo, i, j};
            if (x * y <= COUNTDOWN_VALUE_MAX)
                out[count++] = (struct countdown_move){'*', x, y, x * y, i, j};
            if (lo != 0 && hi % lo == 0)
                out[count++] = (struct countdown_move){'/', hi, lo, hi / lo, i, j};
        }
    }
    return count;
}

void countdown_apply(int *out, const int *numbers, int n, const struct countdown_move *m)
{
    int count = 0;
    out[count++] = m->z;
    for (int k = 0; k < n; k++)
        if (k != m->i && k != m->j)
            out[count++] = numbers[k];
}

// The last two numbers, without building a position.
static bool pair_makes(int x, int y, int target)
{
    const int hi = x > y ? x : y, lo = x > y ? y : x;
    return x + y == target || hi - lo == target || x * y == target ||
           (lo != 0 && hi % lo == 0 && hi / lo == target);
}

bool countdown_reachable(const int *numbers, int n, int target)
{
    if (target < 0 || target > COUNTDOWN_VALUE_MAX)
        return false;
    if (n == 1)
        return numbers[0] == target;
    if (n == 2)
        return pair_makes(numbers[0], numbers[1], target);
    struct countdown_move moves[COUNTDOWN_MOVES_MAX];
    const int count = countdown_moves(moves, numbers, n);
    for (int k = 0; k < count; k++) {
        int rest[PUZZLE_NUMBERS_MAX];
        countdown_apply(rest, numbers, n, &moves[k]);
        if (countdown_reachable(rest, n - 1, target))
            return true;
    }
    return false;
}

static int64_t gcd(int64_t a, int64_t b)
{
    while (b != 0) {
        const int64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

// num / den in lowest terms; false when den is 0 or a sign cannot be turned.
static bool fraction_make(struct fraction *out, int64_t num, int64_t den)
{
    if (den == 0 || num == INT64_MIN || den == INT64_MIN)
        return false;
    const int64_t g = gcd(num < 0 ? -num : num, den < 0 ? -den : den);
    *out = (struct fraction){(den < 0 ? -num : num) / g, (den < 0 ? -den : den) / g};
    return true;
}

// x op y; false on division by zero and when 64 bits do not hold it.
static bool fraction_apply(struct fraction *out, struct fraction x, char op, struct fraction y)
{
    int64_t a, b, num, den;
    if (op == '*' || op == '/') {
        if (op == '/')
            y = (struct fraction){y.den, y.num};
        return !__builtin_mul_overflow(x.num, y.num, &num) &&
               !__builtin_mul_overflow(x.den, y.den, &den) && fraction_make(out, num, den);
    }
    if (__builtin_mul_overflow(x.num, y.den, &a) || __builtin_mul_overflow(y.num, x.den, &b) ||
        __builtin_mul_overflow(x.den, y.den, &den))
        return false;
    return !(op == '+' ? __builtin_add_overflow(a, b, &num) : __builtin_sub_overflow(a, b, &num)) &&
           fraction_make(out, num, den);
}

static bool fraction_equals(struct fraction x, int64_t target)
{
    return x.den == 1 && x.num == target;
}

bool fractions_reachable(const struct fraction *numbers, int n, int64_t target)
{
    assert(n <= PUZZLE_NUMBERS_MAX);
    if (n == 1)
        return fraction_equals(numbers[0], target);
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) {
            if (i == j)
                continue;
            struct fraction rest[PUZZLE_NUMBERS_MAX];
            int count = 1;
            for (int k = 0; k < n; k++)
                if (k != i && k != j)
                    rest[count++] = numbers[k];
            for (const char *op = i < j ? "+-*/" : "-/"; *op != '\0'; op++)
                if (fraction_apply(&rest[0], numbers[i], *op, numbers[j]) &&
                    fractions_reachable(rest, count, target))
                    return true;
        }
    }
    return false;
}

// Theory of operation: recursive descent over sum := product (+- product)*, product := factor (*/
// factor)*, factor := - factor | ( sum ) | number. Every number must be one of those not used yet.
// A fault empties the text, so that everything returns.
struct expression {
    const char *at, *end;
    int64_t unused[PUZZLE_NUMBERS_MAX];
    int num_unused;
    int depth;
    bool ok;
};

enum { EXPRESSION_DEPTH_MAX = 32 };

static char peek(struct expression *e)
{
    while (e->at < e->end && (*e->at == ' ' || *e->at == '\t'))
        e->at++;
    return e->at < e->end ? *e->at : '\0';
}

static struct fraction fail(struct expression *e)
{
    e->ok = false;
    e->at = e->end;
    return (struct fraction){0, 1};
}

static struct fraction number(struct expression *e)
{
    int64_t num = 0, den = 1;
    bool point = false;
    const char *start = e->at;
    for (; e->at < e->end && (isdigit((unsigned char)*e->at) || (*e->at == '.' && !point));
         e->at++) {
        if (*e->at == '.') {
            point = true;
        } else if (__builtin_mul_overflow(num, 10, &num) ||
                   __builtin_add_overflow(num, *e->at - '0', &num) ||
                   (point && __builtin_mul_overflow(den, 10, &den))) {
            return fail(e);
        }
    }
    struct fraction f;
    if (e->at == start || *start == '.' || !fraction_make(&f, num, den))
        return fail(e);
    for (int i = 0; i < e->num_unused; i++) {
        if (fraction_equals(f, e->unused[i])) {
            e->unused[i] = e->unused[--e->num_unused];
            return f;
        }
    }
    return fail(e);
}

static struct fraction sum(struct expression *e);

static struct fraction factor(struct expression *e)
{
    if (++e->depth > EXPRESSION_DEPTH_MAX)
        return fail(e);
    struct fraction f;
    const char c = peek(e);
    if (c == '-') {
        e->at++;
        f = factor(e);
        f.num = -f.num;
    } else if (c == '(') {
        e->at++;
        f = sum(e);
        if (peek(e) != ')')
            return fail(e);
        e->at++;
    } else {
        f = number(e);
    }
    e->depth--;
    return f;
}

static struct fraction product(struct expression *e)
{
    struct fraction f = factor(e);
    for (char c = peek(e); c == '*' || c == '/'; c = peek(e)) {
        e->at++;
        if (!fraction_apply(&f, f, c, factor(e)))
            return fail(e);
    }
    return f;
}

static struct fraction sum(struct expression *e)
{
    struct fraction f = product(e);
    for (char c = peek(e); c == '+' || c == '-'; c = peek(e)) {
        e->at++;
        if (!fraction_apply(&f, f, c, product(e)))
            return fail(e);
    }
    return f;
}

bool countdown_expression(const char *text, size_t len, const int64_t *numbers, int n,
                          int64_t target)
{
    assert(n <= PUZZLE_NUMBERS_MAX);
    struct expression e = {.at = text, .end = text, .num_unused = n, .ok = true};
    while (e.end < text + len && *e.end != '=')
        e.end++;
    for (int i = 0; i < n; i++)
        e.unused[i] = numbers[i];
    const struct fraction f = sum(&e);
    return e.ok && peek(&e) == '\0' && e.at == e.end && e.num_unused == 0 &&
           fraction_equals(f, target);
}
