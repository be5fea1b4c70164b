// SPDX-License-Identifier: Apache-2.0
// Scoring of completions: what every scorer is given, what it answers, and how several are composed
// into one reward. Scorers are reached through one function pointer, so that verifiers of this
// folder, the sandbox, the process reward model and plugins are all alike. Unscorable is never
// zero: a result that is not valid has no value, says why, and is left out of every mean. Nothing
// here knows groups or advantages (rl/grpo) or reads configs (rl hands plain structs down). One
// thread uses a `struct reward` at a time.
#ifndef REWARD_REWARD_H
#define REWARD_REWARD_H

#include "base/json.h"
#include "base/mem.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The arithmetic that a puzzle is played by; the rules are in reward/steps.h.
enum puzzle_rules {
    PUZZLE_INTEGER, // results 0..399, larger minus smaller, exact division
    PUZZLE_RATIONAL // exact fractions, any order: the game of 24
};

enum { PUZZLE_NUMBERS_MAX = 6 };

struct reward_puzzle {
    int64_t numbers[PUZZLE_NUMBERS_MAX];
    int num_numbers;
    int64_t target;
    enum puzzle_rules rules;
};

// What a completion is judged against: whichever its scorers need; borrowed, any pointer may be
// NULL.
struct reward_reference {
    const char *answer;         // text; GSM8K's "... #### N" is understood
    const struct json_doc *doc; // owns tests
    const struct json *tests;   // as CLI.md's data section describes
    const struct reward_puzzle *puzzle;
};

// One completion. The text is NUL-terminated, but may hold NULs: len counts. It is the decoded text
// without stop tokens.
struct reward_item {
    const char *prompt;
    const char *completion;
    size_t len;
    const int *tokens;        // [num_tokens] ids, for scorers that run a model; may be NULL
    const int *token_ends;    // [num_tokens] offset in completion just past token i, never falling;
                              // may be NULL
    int num_tokens;           // stop token included (its text is empty)
    const int *prompt_tokens; // [num_prompt_tokens]; may be NULL
    int num_prompt_tokens;
    bool finished; // ended by a stop token or string, not cut at the length limit
    const struct reward_reference *ref;
    int ticket; // what reward_begin and reward_run know the item by: its place among those that are
                // scored together, from 1; 0: it is not begun early
};

// What a verifier knows about a step, beyond its value.
enum reward_step_flags {
    REWARD_STEP_PARSED = 1,   // the step has the form that the checker reads
    REWARD_STEP_VALID = 2,    // this step and every one before it are right
    REWARD_STEP_REACHABLE = 4 // valid, and the goal can still be reached from here
};

struct reward_step {
    size_t begin, end; // bytes of the completion, without the separator
    int token;         // token that holds the last byte of the step with its separator; -1 without
                       // token_ends
    double value;      // meaningless unless valid
    bool valid;        // the step could be scored
    unsigned flags;    // enum reward_step_flags; 0 from scorers that do not set them
};

struct reward_result {
    double value; // of the whole completion; meaningless unless valid
    bool valid;
    char reason[160]; // not valid: why; else what there is to say ("step 2: 3 * 8 is 24, not 25"),
                      // or ""
    int num_steps;    // 0 from scorers that give no steps
    struct reward_step *steps; // [num_steps], in the arena of the call
    int first_wrong;           // index of the first step that is not right, -1: none, or not known
    bool weak; // judged within the reach of what was judged, which could have tampered with it
};

// A scorer judges n items in one call and fills every result. A completion that it cannot judge is
// a result that is not valid; an error return is for what ends the run (the sandbox is gone, the
// device failed).
struct reward_scorer {
    const char *name; // "steps", "answer", "format", "code", "prm", ...
    int (*score)(void *state, struct arena *a, struct reward_result *out,
                 const struct reward_item *items, int n);
    void (*close)(void *state); // may be NULL
    void *state;
    // NULL, or starts on an item with a ticket that `score` will be given later, and returns at
    // once. Nothing of the item is kept but its reference. It never changes a result.
    void (*begin)(void *state, const struct reward_item *item);
};

// A valid result without steps, or one that is not valid, with a reason.
void reward_set_value(struct reward_result *out, double value);
void reward_set_unscorable(struct reward_result *out, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

// A component of a reward, as its config says.
struct reward_component {
    const char *use; // name of a scorer
    double weight;   // 0: only measured, and its failures do not matter
    bool per_step; // its step values enter the steps of the total; else its value enters the value
    const char *kind;      // format: "steps", "think", "program", "pattern"
    const char *pattern;   // format, kind "pattern": PCRE2, must match the whole completion
    const char *separator; // between steps; NULL or "": "\n"
};

// The judgement on one item: of each component, and together.
struct reward_score {
    // value: sum of weight * value over outcome components; steps: of the separator of the first
    // per_step component, each the sum of weight * step value over the per_step components. Valid
    // when all with a weight are; reason names the component.
    struct reward_result total;
    struct reward_result *parts; // [num_components]
};

struct reward;

// Composes the built-in scorers (steps, answer, format) and `given` ones (code, prm, plugins),
// which the reward takes over and closes, also when this returns an error. Errors (ERR_CONFIG):
// unknown name, bad kind or pattern.
int reward_open(struct reward **out, const struct reward_component *components, int num_components,
                const struct reward_scorer *given, int num_given);
void reward_close(struct reward **r);

int reward_num_components(const struct reward *r);
// The name of component i in metrics: its `use`, with "_2", "_3" ... when an earlier component has
// the same.
const char *reward_component_name(const struct reward *r, int i);
bool reward_has_steps(const struct reward *r); // some component with a weight is per_step

// Lets scorers that run elsewhere (the sandbox) start on an item while others are being generated.
// An item that is begun is to be among those of the next reward_run, or of none.
void reward_begin(struct reward *r, const struct reward_item *item);

// Scores n items; results live in the arena.
int reward_run(struct reward *r, struct arena *a, struct reward_score *out,
               const struct reward_item *items, int n);

#endif
