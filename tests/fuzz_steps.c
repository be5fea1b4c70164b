// SPDX-License-Identifier: Apache-2.0
// Completions of any bytes against the verifiers that read them: the step checker under both rules,
// expressions, answers, formats, and the splitter. First byte: rules and how the text is cut;
// second: where an answer ends and another begins.
#include "reward/answer.h"
#include "reward/countdown.h"
#include "reward/format.h"
#include "reward/split.h"
#include "reward/steps.h"
#include "rl/programs.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_steps(const struct reward_item *item, const char *separator)
{
    struct arena a = {0};
    const struct reward_scorer s = steps_scorer(separator);
    struct reward_result r;
    assert(s.score(s.state, &a, &r, item, 1) == 0 && r.valid);
    bool dead = false;
    for (int i = 0; i < r.num_steps; i++) {
        const struct reward_step *step = &r.steps[i];
        assert(step->begin < step->end && step->end <= item->len);
        assert(i == 0 || r.steps[i - 1].end <= step->begin);
        assert(!(step->flags & REWARD_STEP_REACHABLE) || (step->flags & REWARD_STEP_VALID));
        assert(!(step->flags & REWARD_STEP_VALID) || (step->flags & REWARD_STEP_PARSED));
        dead = dead || !(step->flags & REWARD_STEP_VALID);
        assert(!dead || step->value == 0);
    }
    arena_free(&a);
}

static void check_format(const struct reward_item *item, const char *kind)
{
    struct arena a = {0};
    struct reward_scorer s;
    struct reward_result r;
    if (format_scorer_open(&s, kind, NULL) == 0) {
        assert(s.score(s.state, &a, &r, item, 1) == 0 && r.valid);
        s.close(s.state);
    }
    arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const struct reward_puzzle puzzle = {.numbers = {4, 5, 6, 10},
                                         .num_numbers = 4,
                                         .target = 24,
                                         .rules = data[0] & 1 ? PUZZLE_RATIONAL : PUZZLE_INTEGER};
    const size_t len = size - 2, cut = data[1] < len ? data[1] : len;
    char *text = mem_strndup((const char *)data + 2, len);
    const struct reward_reference ref = {.puzzle = &puzzle};
    const struct reward_item item = {.completion = text, .len = len, .finished = true, .ref = &ref};
    check_steps(&item, data[0] & 2 ? "\n\n" : NULL);
    check_format(&item, "steps");
    check_format(&item, "program");
    check_format(&item, "think");
    (void)countdown_expression(text, len, puzzle.numbers, 4, 24);
    struct answer_span found;
    (void)answer_find(&found, text, len);
    const struct answer_span x = {text, cut}, y = {text + cut, len - cut};
    const bool equal = answer_equal(x, y), mirrored = answer_equal(y, x);
    assert(equal == mirrored);
    struct strbuf source = {0};
    programs_source(&source, text, len);
    assert(source.len >= len);
    strbuf_free(&source);
    free(text);
    return 0;
}
