// SPDX-License-Identifier: Apache-2.0
// What a run takes of its device's memory, told before any of it is taken: by component, of the
// stage that takes most. Prompts and completions count as long as the longest that the stages begin
// with. Not counted: what the host holds besides (data, programs in the sandbox), and what kernels
// keep for themselves.
#ifndef RL_PLAN_H
#define RL_PLAN_H

#include "rl/trainer.h"

enum { PLAN_ROWS = 16 };

struct plan_row {
    const char *name;
    size_t bytes;
};

struct plan {
    const char *stage; // the one that takes most
    int num_rows;
    struct plan_row rows[PLAN_ROWS];
    size_t total;
};

struct plan_tasks {
    int count;            // of an evaluation; of training: 0
    int prompt, sequence; // tokens of the longest prompt, and with its completion, at the beginning
};

// What a plan is made from besides the config.
struct plan_basis {
    struct device *dev; // borrowed, as is comm
    struct comm *comm;
    struct arch policy, prm;         // prm: of the config's "prm", or of the one that is trained
    struct plan_tasks *train, *eval; // [stages]
    size_t available;                // bytes of the device for this rank, when it was opened
};

// Reads the models' architectures and the tasks that the stages begin with; t has a config, comm,
// dev and sources. Nothing is allocated on the device. Closed also when it was opened in part.
int plan_open(struct plan_basis *out, const struct trainer *t);
void plan_close(struct plan_basis *b);

int plan_memory(struct plan *out, const struct plan_basis *b, const struct config *c);
// ERR_ENV when the plan does not fit, with the table and the knobs in the message.
int plan_check(const struct plan *p, const struct plan_basis *b, const struct config *c);
// Logs the table, or ends with what plan_check says.
int plan_begin(const struct plan_basis *b, const struct config *c);

// rc, with the table and the knobs added to its message when it is the device's that an allocation
// was refused.
int plan_explain(int rc, const struct plan_basis *b, const struct config *c);

// What the stages do. One line a component, the total, and what there is.
void plan_write_stages(struct strbuf *out, const struct plan_basis *b, const struct config *c);
void plan_write(struct strbuf *out, const struct plan *p, const struct plan_basis *b);
void plan_write_json(struct json_writer *w, const struct plan *p, const struct plan_basis *b);
// Two settings of the config that make it fit into `limit` bytes, or take least, those first that
// slow the run down least: fewer tokens of an update at once, fewer samples decoded at once, layers
// computed again, and bfloat16, which rounds.
void plan_write_knobs(struct strbuf *out, const struct plan *p, const struct plan_basis *b,
                      const struct config *c, size_t limit);

// Gives the models that are there room for the passes of the stage t->stage, which then allocate
// nothing.
int plan_reserve(struct trainer *t, const struct plan_basis *b);

#endif
