// SPDX-License-Identifier: Apache-2.0
#include "rl/games.h"

#include "base/error.h"
#include "base/philox.h"
#include "reward/countdown.h"
#include "rl/idset.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Keys of the streams; the held-out problems have one of their own.
#define HOLDOUT_KEY UINT64_C(0x67616d65686f6c64)
#define TRAIN_KEY   UINT64_C(0x67616d6574726169)

enum {
    DRAWS_PER_PUZZLE = 20000 // without a new solvable puzzle, there is none to be had
};

struct puzzle {
    int numbers[PUZZLE_NUMBERS_MAX]; // ascending
    int n, target;
};

struct games {
    struct games_settings s;
    int *counts; // what s.numbers points to
    uint64_t train_key;
    struct puzzle *holdout; // [s.holdout]
    struct idset held;      // their keys
};

static void sort(int *x, int n)
{
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && x[j - 1] > x[j]; j--) {
            const int swap = x[j];
            x[j] = x[j - 1];
            x[j - 1] = swap;
        }
}

// Numbers and target in 63 bits, 9 each; numbers count from 1, so that none is not zero.
static uint64_t puzzle_key(const struct puzzle *p)
{
    uint64_t key = (uint64_t)p->target;
    for (int i = 0; i < p->n; i++)
        key = key << 9 | (uint64_t)(p->numbers[i] + 1);
    return key;
}

// Draws numbers and target for a puzzle of out->n numbers; false when it has no solution or is held
// out.
static bool draw_once(struct puzzle *out, const struct games *g, struct philox_stream *r)
{
    const struct games_settings *s = &g->s;
    for (int i = 0; i < out->n; i++)
        out->numbers[i] = 1 + (int)philox_below(r, (uint32_t)s->max);
    sort(out->numbers, out->n);
    out->target =
        s->target_min + (int)philox_below(r, (uint32_t)(s->target_max - s->target_min + 1));
    return countdown_reachable(out->numbers, out->n, out->target) &&
           !idset_has(&g->held, puzzle_key(out));
}

// How many numbers is drawn once and kept, so that the counts are even whatever share of each can
// be solved. False: there seem to be no more puzzles with so many numbers.
static bool draw(struct puzzle *out, const struct games *g, struct philox_stream *r)
{
    out->n = g->s.numbers[philox_below(r, (uint32_t)g->s.num_numbers)];
    for (int i = 0; i < DRAWS_PER_PUZZLE; i++)
        if (draw_once(out, g, r))
            return true;
    return false;
}

static int settings_check(const struct games_settings *s)
{
    bool ok = s->num_numbers >= 1;
    for (int i = 0; i < s->num_numbers; i++)
        ok = ok && s->numbers[i] >= 2 && s->numbers[i] <= PUZZLE_NUMBERS_MAX;
    if (!ok)
        return err_set(ERR_CONFIG, "games: \"numbers\" must be a list of 2..%d",
                       PUZZLE_NUMBERS_MAX);
    if (s->max < 1 || s->max > COUNTDOWN_VALUE_MAX)
        return err_set(ERR_CONFIG, "games: \"max\" is %d, expected 1..%d", s->max,
                       COUNTDOWN_VALUE_MAX);
    if (s->target_min < 0 || s->target_min > s->target_max || s->target_max > COUNTDOWN_VALUE_MAX)
        return err_set(ERR_CONFIG, "games: \"target\" is [%d, %d], expected a range within 0..%d",
                       s->target_min, s->target_max, COUNTDOWN_VALUE_MAX);
    if (s->holdout < 0)
        return err_set(ERR_CONFIG, "games: \"holdout\" is %d, expected 0 or more", s->holdout);
    return 0;
}

int games_open(struct games **out, const struct games_settings *s)
{
    const int rc = settings_check(s);
    if (rc != 0)
        return rc;
    struct games *g = mem_alloc0(sizeof(*g));
    g->s = *s;
    g->counts = mem_array0((size_t)s->num_numbers, sizeof(int));
    memcpy(g->counts, s->numbers, (size_t)s->num_numbers * sizeof(int));
    g->s.numbers = g->counts;
    g->train_key = philox_mix(TRAIN_KEY, s->seed);
    g->holdout = mem_array0((size_t)s->holdout, sizeof(*g->holdout));
    struct philox_stream r = philox_stream(HOLDOUT_KEY, 0);
    struct puzzle spare; // for training
    for (int i = 0; i <= s->holdout; i++) {
        struct puzzle *p = i < s->holdout ? &g->holdout[i] : &spare;
        if (!draw(p, g, &r)) {
            games_close(&g);
            return err_set(ERR_CONFIG,
                           "games: \"holdout\" is %d, but only about %d puzzles have a solution",
                           s->holdout, i);
        }
        if (i < s->holdout)
            idset_add(&g->held, puzzle_key(p));
    }
    *out = g;
    return 0;
}

void games_close(struct games **games)
{
    struct games *g = *games;
    if (g == NULL)
        return;
    free(g->counts);
    free(g->holdout);
    idset_free(&g->held);
    free(g);
    *games = NULL;
}

// ---- texts

static const char *prompt(struct arena *a, const int64_t *numbers, int n, int64_t target)
{
    struct strbuf b = {0};
    strbuf_printf(&b, "make %lld:", (long long)target);
    for (int i = 0; i < n; i++)
        strbuf_printf(&b, " %lld", (long long)numbers[i]);
    strbuf_putc(&b, '\n');
    const char *text = arena_strndup(a, b.data, b.len);
    strbuf_free(&b);
    return text;
}

// Moves the ones from which the target can be reached to the front; how many those are.
static int winning_moves(struct countdown_move *moves, int count, const int *numbers, int n,
                         int target)
{
    int rest[PUZZLE_NUMBERS_MAX], good = 0;
    for (int k = 0; k < count; k++) {
        countdown_apply(rest, numbers, n, &moves[k]);
        if (countdown_reachable(rest, n - 1, target))
            moves[good++] = moves[k];
    }
    return good;
}

// A line of play. To win: at each position a random one of the moves from which the target can be
// reached; else of all moves.
static const char *line_of_play(struct arena *a, const struct puzzle *p, bool win,
                                struct philox_stream *r)
{
    struct strbuf b = {0};
    int numbers[PUZZLE_NUMBERS_MAX], rest[PUZZLE_NUMBERS_MAX];
    memcpy(numbers, p->numbers, sizeof(numbers));
    for (int n = p->n; n > 1; n--) {
        struct countdown_move moves[COUNTDOWN_MOVES_MAX];
        const int count = countdown_moves(moves, numbers, n);
        const int choice = win ? winning_moves(moves, count, numbers, n, p->target) : count;
        assert(choice > 0);
        const struct countdown_move m = moves[philox_below(r, (uint32_t)choice)];
        countdown_apply(rest, numbers, n, &m);
        memcpy(numbers, rest, (size_t)(n - 1) * sizeof(int));
        strbuf_printf(&b, "%d %c %d = %d (left:", m.x, m.op, m.y, m.z);
        for (int i = 0; i < n - 1; i++)
            strbuf_printf(&b, " %d", numbers[i]);
        strbuf_puts(&b, ")\n");
    }
    const char *text = arena_strndup(a, b.data, b.len);
    strbuf_free(&b);
    return text;
}

static void make(struct problem *out, struct arena *a, const struct puzzle *p, double wins,
                 struct philox_stream *r)
{
    struct reward_puzzle *q = arena_push0(a, sizeof(*q));
    q->num_numbers = p->n;
    q->target = p->target;
    q->rules = PUZZLE_INTEGER;
    for (int i = 0; i < p->n; i++) { // shuffled while they are copied
        const int j = (int)philox_below(r, (uint32_t)i + 1);
        q->numbers[i] = q->numbers[j];
        q->numbers[j] = p->numbers[i];
    }
    out->puzzle = q;
    out->prompt = prompt(a, q->numbers, q->num_numbers, q->target);
    out->completion = line_of_play(a, p, philox_next_unit(r) < wins, r);
}

static const char *make_id(struct arena *a, const char *kind, uint64_t index)
{
    char id[64];
    const int len = snprintf(id, sizeof(id), "games/%s/%llu", kind, (unsigned long long)index);
    return arena_strndup(a, id, (size_t)len);
}

void games_problem(struct problem *out, struct arena *a, const struct games *g, uint64_t index)
{
    struct philox_stream r = philox_stream(g->train_key, index);
    struct puzzle p;
    while (!draw(&p, g, &r)) {
    }
    *out = (struct problem){.id = make_id(a, "train", index)};
    make(out, a, &p, g->s.wins, &r);
}

void games_holdout(struct problem *out, struct arena *a, const struct games *g, int index)
{
    assert(index >= 0 && index < g->s.holdout);
    struct philox_stream r = philox_stream(HOLDOUT_KEY, (uint64_t)index + 1);
    *out = (struct problem){.id = make_id(a, "holdout", (uint64_t)index)};
    make(out, a, &g->holdout[index], 1.0, &r);
}

// ---- real rows

int games_read(struct problem *out, struct arena *a, const struct json_doc *doc,
               const struct json *row)
{
    const struct json *nums = json_get(row, "nums");
    const int line = json_line(doc, row), n = json_count(nums);
    if (json_type(nums) != JSON_ARRAY || n < 1 || n > PUZZLE_NUMBERS_MAX)
        return err_set(ERR_DATA, "line %d: \"nums\" must be a list of 1..%d numbers", line,
                       PUZZLE_NUMBERS_MAX);
    struct reward_puzzle *q = arena_push0(a, sizeof(*q));
    q->rules = PUZZLE_RATIONAL;
    for (const struct json *v = json_first(nums); v != NULL; v = json_next(v))
        if (!json_int(doc, v, 0, 1000000, &q->numbers[q->num_numbers++]))
            return err_set(ERR_DATA, "line %d: \"nums\" must hold whole numbers of 0..1000000",
                           line);
    if (!json_int(doc, json_get(row, "target"), -1000000, 1000000, &q->target))
        return err_set(ERR_DATA, "line %d: \"target\" must be a whole number of -1000000..1000000",
                       line);
    const char *id = json_string(json_get(row, "id")),
               *source = json_string(json_get(row, "source"));
    *out =
        (struct problem){.id = id != NULL ? arena_strndup(a, id, strlen(id)) : "",
                         .source = source != NULL ? arena_strndup(a, source, strlen(source)) : NULL,
                         .prompt = prompt(a, q->numbers, q->num_numbers, q->target),
                         .puzzle = q};
    return 0;
}
