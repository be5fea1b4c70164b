// SPDX-License-Identifier: Apache-2.0
#include "reward/steps.h"

#include "reward/countdown.h"
#include "reward/split.h"

#include <assert.h>
#include <ctype.h>
#include <gmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LEFT_MAX = 64,          // numbers of one written list
    NUMBER_LENGTH_MAX = 64, // characters of one number
    QUOTE_MAX = 60          // characters of a step that an explanation quotes
};

// A written list of numbers. All LEFT_MAX are initialised.
struct numbers {
    mpq_t at[LEFT_MAX];
    int n;
};

struct chain {
    enum puzzle_rules rules;
    int64_t target;
    struct numbers left, written; // after the last parsed step; of the step being read
    mpq_t a, b, c, value;         // of the step being read
    bool all_valid;
};

// ---- reading

struct text {
    const char *at, *end;
};

static void skip_blanks(struct text *t)
{
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\t' || *t->at == '\r'))
        t->at++;
}

static bool take(struct text *t, char c)
{
    if (t->at == t->end || *t->at != c)
        return false;
    t->at++;
    return true;
}

static bool take_word(struct text *t, const char *word)
{
    const size_t len = strlen(word);
    if ((size_t)(t->end - t->at) < len || memcmp(t->at, word, len) != 0)
        return false;
    t->at += len;
    return true;
}

// Appends the digits at t to s; how many there were.
static int take_digits(struct text *t, char *s, int *len)
{
    int n = 0;
    for (; t->at < t->end && isdigit((unsigned char)*t->at) && *len < NUMBER_LENGTH_MAX; n++)
        s[(*len)++] = *t->at++;
    return n;
}

// What a number may look like.
enum number_form { NUMBER_NATURAL, NUMBER_DECIMAL, NUMBER_FRACTION };

// Reads a number at t into out and sets *decimal when it has a point. On false, t may have moved. A
// slash belongs to the number only when a digit follows it and the form allows fractions.
static bool take_number(mpq_t out, bool *decimal, struct text *t, enum number_form form)
{
    char s[2 * NUMBER_LENGTH_MAX + 4]; // digits, "/1" and the zeros of the decimals
    int len = 0, decimals = 0;
    if (form != NUMBER_NATURAL && take(t, '-'))
        s[len++] = '-';
    const int digits = take_digits(t, s, &len);
    if (digits == 0 || (form == NUMBER_NATURAL && digits > 1 && s[0] == '0'))
        return false;
    if (form != NUMBER_NATURAL && t->end - t->at > 1 && *t->at == '.' &&
        isdigit((unsigned char)t->at[1])) {
        t->at++;
        decimals = take_digits(t, s, &len);
        *decimal = true;
    }
    s[len++] = '/';
    if (form == NUMBER_FRACTION && t->end - t->at > 1 && *t->at == '/' &&
        isdigit((unsigned char)t->at[1])) {
        t->at++;
        take_digits(t, s, &len);
    } else {
        s[len++] = '1';
    }
    if (len >= NUMBER_LENGTH_MAX || (t->at < t->end && isdigit((unsigned char)*t->at)))
        return false;
    for (int i = 0; i < decimals; i++)
        s[len++] = '0';
    s[len] = '\0';
    if (mpq_set_str(out, s, 10) != 0 || mpz_sgn(mpq_denref(out)) == 0)
        return false;
    mpq_canonicalize(out);
    return true;
}

// The step being read: its operator, and whether it has a decimal point among a, b, c.
struct step {
    char op;
    bool decimal;
};

static bool read_left(struct numbers *out, struct text *t, enum number_form form)
{
    out->n = 0;
    for (skip_blanks(t); !take(t, ')'); skip_blanks(t)) {
        bool decimal;
        if (out->n == LEFT_MAX || !take_number(out->at[out->n], &decimal, t, form))
            return false;
        out->n++;
    }
    return true;
}

// Reads "a op b = c (left: ...)" into c->a, c->b, c->c and c->written. first_form: of a.
static bool read_step_as(struct chain *c, struct step *s, struct text t,
                         enum number_form first_form, enum number_form form)
{
    s->decimal = false;
    skip_blanks(&t);
    if (!take_number(c->a, &s->decimal, &t, first_form))
        return false;
    skip_blanks(&t);
    if (t.at == t.end || strchr("+-*/", *t.at) == NULL || *t.at == '\0')
        return false;
    s->op = *t.at++;
    skip_blanks(&t);
    if (!take_number(c->b, &s->decimal, &t, form))
        return false;
    skip_blanks(&t);
    if (!take(&t, '='))
        return false;
    skip_blanks(&t);
    if (!take_number(c->c, &s->decimal, &t, form))
        return false;
    skip_blanks(&t);
    if (!take_word(&t, "(left:") || !read_left(&c->written, &t, form))
        return false;
    skip_blanks(&t);
    return t.at == t.end;
}

// "10/6 = ..." is 10 divided by 6, "10/6 * 3 = ..." starts with a fraction: what works is what was
// meant.
static bool read_step(struct chain *c, struct step *s, const char *text, size_t len)
{
    const struct text t = {text, text + len};
    if (c->rules == PUZZLE_INTEGER)
        return read_step_as(c, s, t, NUMBER_NATURAL, NUMBER_NATURAL);
    return read_step_as(c, s, t, NUMBER_FRACTION, NUMBER_FRACTION) ||
           read_step_as(c, s, t, NUMBER_DECIMAL, NUMBER_FRACTION);
}

// ---- judging

// Takes the first x out of the list (its order is lost).
static bool numbers_remove(struct numbers *l, const mpq_t x)
{
    for (int i = 0; i < l->n; i++) {
        if (mpq_equal(l->at[i], x)) {
            mpq_swap(l->at[i], l->at[--l->n]);
            return true;
        }
    }
    return false;
}

static int numbers_find(const struct numbers *l, const mpq_t x)
{
    int count = 0;
    for (int i = 0; i < l->n; i++)
        count += mpq_equal(l->at[i], x) != 0;
    return count;
}

static bool numbers_equal(const struct numbers *x, const struct numbers *y)
{
    if (x->n != y->n)
        return false;
    for (int i = 0; i < x->n; i++)
        if (numbers_find(x, x->at[i]) != numbers_find(y, x->at[i]))
            return false;
    return true;
}

static bool within_rules(const struct chain *c, char op)
{
    if (c->rules == PUZZLE_RATIONAL)
        return true;
    return (op != '-' || mpq_cmp(c->a, c->b) >= 0) && mpz_cmp_ui(mpq_denref(c->value), 1) == 0 &&
           mpz_cmp_ui(mpq_numref(c->value), COUNTDOWN_VALUE_MAX) <= 0;
}

static bool arithmetic_ok(struct chain *c, const struct step *s)
{
    switch (s->op) {
    case '+':
        mpq_add(c->value, c->a, c->b);
        break;
    case '-':
        mpq_sub(c->value, c->a, c->b);
        break;
    case '*':
        mpq_mul(c->value, c->a, c->b);
        break;
    default:
        if (mpq_sgn(c->b) == 0)
            return false;
        mpq_div(c->value, c->a, c->b);
    }
    if (!within_rules(c, s->op))
        return false;
    if (mpq_equal(c->value, c->c))
        return true;
    mpq_sub(c->value, c->value, c->c);
    mpq_abs(c->value, c->value);
    return s->decimal && mpq_cmp_ui(c->value, 5, 1000) <= 0;
}

// Whether `written` is `left` without a and b and with c. Leaves `left` undefined.
static bool left_ok(struct chain *c)
{
    if (!numbers_remove(&c->left, c->a) || !numbers_remove(&c->left, c->b))
        return false;
    mpq_set(c->left.at[c->left.n++], c->c);
    return numbers_equal(&c->left, &c->written);
}

// Only asked of lists that valid steps led to, so of at most PUZZLE_NUMBERS_MAX numbers.
static bool reachable(const struct chain *c)
{
    int integers[PUZZLE_NUMBERS_MAX];
    struct fraction fractions[PUZZLE_NUMBERS_MAX];
    for (int i = 0; i < c->left.n; i++) {
        const mpq_t *x = &c->left.at[i];
        if (!mpz_fits_slong_p(mpq_numref(*x)) || !mpz_fits_slong_p(mpq_denref(*x)))
            return false;
        fractions[i] = (struct fraction){mpz_get_si(mpq_numref(*x)), mpz_get_si(mpq_denref(*x))};
        integers[i] = (int)fractions[i].num;
    }
    return c->rules == PUZZLE_INTEGER ? countdown_reachable(integers, c->left.n, (int)c->target)
                                      : fractions_reachable(fractions, c->left.n, c->target);
}

static bool puzzle_ok(const struct reward_puzzle *p)
{
    if (p->num_numbers < 1 || p->num_numbers > PUZZLE_NUMBERS_MAX)
        return false;
    bool small = p->target >= 0 && p->target <= COUNTDOWN_VALUE_MAX;
    for (int i = 0; i < p->num_numbers; i++)
        small = small && p->numbers[i] >= 0 && p->numbers[i] <= COUNTDOWN_VALUE_MAX;
    return small || p->rules == PUZZLE_RATIONAL;
}

static void numbers_init(struct numbers *l)
{
    for (int i = 0; i < LEFT_MAX; i++)
        mpq_init(l->at[i]);
}

static void numbers_clear(struct numbers *l)
{
    for (int i = 0; i < LEFT_MAX; i++)
        mpq_clear(l->at[i]);
}

// The position before the first step.
static void chain_start(struct chain *c, const struct reward_puzzle *p)
{
    c->rules = p->rules;
    c->target = p->target;
    c->all_valid = true;
    c->left.n = p->num_numbers;
    for (int i = 0; i < p->num_numbers; i++)
        mpq_set_si(c->left.at[i], p->numbers[i], 1);
}

static struct chain *chain_new(void)
{
    struct chain *c = mem_alloc0(sizeof(*c));
    numbers_init(&c->left);
    numbers_init(&c->written);
    mpq_inits(c->a, c->b, c->c, c->value, NULL);
    return c;
}

bool chain_open(struct chain **out, const struct reward_puzzle *p)
{
    if (!puzzle_ok(p))
        return false;
    *out = chain_new();
    chain_start(*out, p);
    return true;
}

void chain_free(struct chain **c)
{
    if (*c == NULL)
        return;
    numbers_clear(&(*c)->left);
    numbers_clear(&(*c)->written);
    mpq_clears((*c)->a, (*c)->b, (*c)->c, (*c)->value, NULL);
    free(*c);
    *c = NULL;
}

struct step_labels chain_step(struct chain *c, const char *text, size_t len)
{
    struct step_labels l = {0};
    struct step s;
    if (!read_step(c, &s, text, len)) {
        c->all_valid = false;
        return l;
    }
    l.parsed = true;
    l.arith_ok = arithmetic_ok(c, &s);
    l.left_ok = left_ok(c);
    l.valid = l.arith_ok && l.left_ok;
    c->all_valid = c->all_valid && l.valid;
    const struct numbers swap = c->left;
    c->left = c->written;
    c->written = swap;
    l.reachable = c->all_valid && reachable(c);
    return l;
}

bool chain_done(const struct chain *c)
{
    return c->all_valid && c->left.n == 1 && mpz_cmp_ui(mpq_denref(c->left.at[0]), 1) == 0 &&
           mpz_cmp_si(mpq_numref(c->left.at[0]), c->target) == 0;
}

bool step_has_form(const char *text, size_t len, enum puzzle_rules rules)
{
    struct chain *c = chain_new();
    struct step s;
    c->rules = rules;
    const bool ok = read_step(c, &s, text, len);
    chain_free(&c);
    return ok;
}

// ---- the scorer

// Whether the line is "Answer: ..."; *out is what follows.
static bool answer_line(struct text *out, const char *line, size_t len)
{
    struct text t = {line, line + len};
    skip_blanks(&t);
    if (!take_word(&t, "Answer:"))
        return false;
    *out = t;
    return true;
}

static const char *step_fault(const struct step_labels *l)
{
    return !l->parsed     ? "is not of the form 'a op b = c (left: ...)'"
           : !l->arith_ok ? "has a wrong result"
           : !l->left_ok  ? "uses or leaves the wrong numbers"
                          : "leaves the target out of reach";
}

static void explain(struct reward_result *out, int index, const char *text, size_t len,
                    const struct step_labels *l)
{
    struct strbuf quoted = {0};
    strbuf_put_visible(&quoted, text,
                       utf8_complete_prefix(text, len < QUOTE_MAX ? len : QUOTE_MAX));
    snprintf(out->reason, sizeof(out->reason), "step %d '%.80s' %s", index + 1,
             quoted.len > 0 ? quoted.data : "", step_fault(l));
    strbuf_free(&quoted);
}

// Labels the steps of a completion and drops its answer lines from them.
static void score_steps(struct chain *c, struct reward_result *out, const struct reward_item *item)
{
    int n = 0, first_dead = -1;
    struct text answer = {0};
    out->first_wrong = -1;
    for (int i = 0; i < out->num_steps; i++) {
        struct reward_step step = out->steps[i];
        const char *text = item->completion + step.begin;
        const size_t len = step.end - step.begin;
        if (c->rules == PUZZLE_RATIONAL && answer_line(&answer, text, len))
            continue;
        const struct step_labels l = chain_step(c, text, len);
        step.valid = true;
        step.value = l.reachable;
        step.flags = (l.parsed ? REWARD_STEP_PARSED : 0u) |
                     (c->all_valid ? REWARD_STEP_VALID : 0u) |
                     (l.reachable ? REWARD_STEP_REACHABLE : 0u);
        if (out->first_wrong < 0 && !l.valid)
            out->first_wrong = n;
        if (first_dead < 0 && !l.reachable) {
            first_dead = n;
            explain(out, n, text, len, &l);
        }
        out->steps[n++] = step;
    }
    out->num_steps = n;
    const struct reward_puzzle *p = item->ref->puzzle;
    const bool right = answer.at != NULL
                           ? countdown_expression(answer.at, (size_t)(answer.end - answer.at),
                                                  p->numbers, p->num_numbers, p->target)
                           : chain_done(c);
    out->value = item->finished && right;
    if (out->value == 0 && out->reason[0] == '\0')
        snprintf(out->reason, sizeof(out->reason), "%s",
                 item->finished ? "the target is not reached" : "cut at the length limit");
}

static int score(void *state, struct arena *a, struct reward_result *out,
                 const struct reward_item *items, int n)
{
    struct chain *c = chain_new();
    for (int i = 0; i < n; i++) {
        const struct reward_item *item = &items[i];
        if (item->ref == NULL || item->ref->puzzle == NULL) {
            reward_set_unscorable(&out[i], "no puzzle to check against");
            continue;
        }
        if (!puzzle_ok(item->ref->puzzle)) {
            reward_set_unscorable(&out[i], "a puzzle outside the rules of its game");
            continue;
        }
        chain_start(c, item->ref->puzzle);
        reward_set_value(&out[i], 0);
        out[i].num_steps = steps_split(&out[i].steps, a, item->completion, item->len, state,
                                       item->token_ends, item->num_tokens);
        score_steps(c, &out[i], item);
    }
    chain_free(&c);
    return 0;
}

struct reward_scorer steps_scorer(const char *separator)
{
    return (struct reward_scorer){
        .name = "steps", .score = score, .state = (void *)(uintptr_t)separator};
}
