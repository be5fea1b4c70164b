// SPDX-License-Identifier: Apache-2.0
// A run in progress: what all stages share. A stage is three functions; the loop in rl/train.c
// opens it, calls its step until its steps are done, evaluates, logs and saves. A stage keeps no
// state that a checkpoint does not: after a resume it is opened with the checkpoint's models and
// the number of steps done, and goes on to the same bytes.
#ifndef RL_TRAINER_H
#define RL_TRAINER_H

#include "kernels/comm.h"
#include "policy/parallel.h"
#include "rl/checkpoint.h"
#include "rl/config.h"
#include "rl/generate.h"
#include "rl/metrics.h"
#include "rl/rundir.h"
#include "rl/source.h"

struct trainer {
    const struct config *config;
    const struct config_stage *stage; // the one in progress
    struct comm *comm;                // the ranks of the run; of size 1 when it is one process
    struct team *team;
    struct device *dev;
    struct tokenizer *tokenizer;
    struct sources *sources;
    struct sandbox *sandbox; // NULL: no reward runs programs
    struct policy *policy;
    struct policy *prm;          // NULL until a prm stage made it
    struct policy *reference;    // NULL: the stage has no KL term
    struct optimizer *optimizer; // of the stage; NULL: it trains nothing
    struct policy *optimized;    // what it trains
    struct rundir *run;          // on rank 0; NULL elsewhere
    struct metrics metrics;      // likewise
    struct checkpoint_state at;
    int steps;               // of the stage
    struct arena step_arena; // emptied after each step
    struct strbuf trace;     // JSON lines of the step's samples, of this rank's own tasks until
                             // they are collected; written when not empty
};

struct stage {
    // Makes what the stage needs; t->at.step steps are done already. Sets t->optimizer and
    // t->optimized.
    int (*open)(void **state, struct trainer *t);
    int (*step)(void *state, struct trainer *t, int step, struct metrics_line *line);
    void (*close)(void *state);
    // What the console shows of a step's line, besides step and time: names, NULL at the end.
    const char *const *shown;
};
extern const struct stage stage_sft, stage_prm, stage_grpo;

// Key of a stage's randomness: different for every stage of a run.
uint64_t trainer_seed(const struct trainer *t);

// A generator on a policy for the stage's scoring; engine and scoring are owned by the caller.
struct generator trainer_generator(const struct trainer *t, struct rollout_engine *engine,
                                   const struct scoring *scoring);
// The request for a step's samples of tasks [num_prompts], as the stage's rollout says.
struct generate_request trainer_request(const struct trainer *t, const struct task *tasks,
                                        int step);
int trainer_open_engine(struct rollout_engine **out, const struct trainer *t, uint64_t seed);

// Cuts items of a batch, in order, into shards of about the same cost: shard s is [begin[s],
// begin[s + 1]), begin [shards + 1].
void trainer_cut(int *begin, const int64_t *cost, int n, int shards);
// What every shard of t->optimized's batches gave, in order, from the `size` bytes that each of
// this rank's shards gave, own [its shards]: *all [shards], in the step's arena. Collective.
int trainer_gather_shards(void **all, struct trainer *t, const void *own, size_t size);

// How the config divides an update among the ranks.
struct parallel_settings trainer_parallel(const struct config_run *r, struct comm *comm);
// Opens t->optimizer for `target` with the stage's settings.
int trainer_open_optimizer(struct trainer *t, struct policy *target);
// The gradient of t->optimized is zero again, and its next passes are of an optimiser batch of that
// many sequences, over which the balance loss is a mean.
int trainer_begin_batch(struct trainer *t, int64_t sequences);
// One update of t->optimized from its gradients; puts grad_norm and learning_rate.
int trainer_update(struct trainer *t, int step, struct metrics_line *line);
// The V3 balance update of t->optimized, moe/max_violation and moe/aux_loss; loads are reset.
int trainer_balance(struct trainer *t, struct metrics_line *line);

// Trace lines of samples [num_tasks * num_generations], by task, of those tasks that this rank
// drew. advantage may be NULL; else sample i's stand at advantage + token_begin[i].
void trace_samples(struct trainer *t, const struct generated *samples,
                   const struct scoring *scoring, const double *advantage,
                   const size_t *token_begin);
// The lines of all ranks, in the order of tasks, to rank 0; elsewhere none are left. Collective.
int trace_collect(struct trainer *t);

#endif
