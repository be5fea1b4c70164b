// SPDX-License-Identifier: Apache-2.0
// Where tasks come from: the config's `data`, generated puzzles and files alike. A task is a
// function of the source and an index, so there is no state to save: a step's tasks follow from its
// number.
#ifndef RL_SOURCE_H
#define RL_SOURCE_H

#include "policy/tokenizer.h"
#include "rl/config.h"
#include "rl/task.h"

struct sources;

// Reads every file and draws every held-out set. Errors: ERR_DATA (file:line), ERR_CONFIG. The
// config and the tokenizer are borrowed.
int sources_open(struct sources **out, const struct config *c, const struct tokenizer *t);
void sources_close(struct sources **s);
// Frees what tasks hold besides their arena: all tasks made so far are invalid after it.
void sources_recycle(struct sources *s);

// Rows of a source for training: 0 when it makes them without end.
int64_t source_train_count(const struct sources *s, int source);
// Task `index` of a source; rows of a file come in an order that is drawn anew for each pass.
int source_train_task(struct task *out, struct sources *s, struct arena *a, int source,
                      uint64_t index);

// Held-out tasks of a source (0: none), the same in every evaluation.
int source_eval_count(const struct sources *s, int source);
// Of them, those that an evaluation takes: the first ones, of the sources that it names.
int source_evaluated(const struct sources *s, const struct config_eval *e, int source);
int source_eval_task(struct task *out, struct sources *s, struct arena *a, int source, int index);

// A mixture of sources: slot n of a stage belongs to a source and to an index within it, so that
// every prefix has the sources near their shares.
#define SOURCE_MIX_MAX 32

struct source_mix {
    int count;
    int source[SOURCE_MIX_MAX];
    double end[SOURCE_MIX_MAX];    // cumulative shares
    uint64_t used[SOURCE_MIX_MAX]; // tasks taken so far
    uint64_t next;                 // slot
};
// Starts at slot `skip`. ERR_CONFIG when there are more than SOURCE_MIX_MAX sources or a name is
// unknown.
int source_mix_open(struct source_mix *out, const struct sources *s,
                    const struct config_shares *shares, uint64_t skip);
int source_mix_take(struct task *out, struct source_mix *mix, struct sources *s, struct arena *a);

#endif
