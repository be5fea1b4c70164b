// SPDX-License-Identifier: Apache-2.0
// The plan of rl/plan.h in words, and the settings that would make it smaller.
#include "rl/plan.h"

#include "base/error.h"
#include "base/log.h"
#include "rl/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double mib(size_t bytes) { return (double)bytes / (1024.0 * 1024.0); }

void plan_write(struct strbuf *out, const struct plan *p, const struct plan_basis *b)
{
    strbuf_printf(out, "memory of stage %s, which takes most:\n", p->stage);
    for (int i = 0; i < p->num_rows; i++)
        strbuf_printf(out, "  %-30s %12.1f MiB\n", p->rows[i].name, mib(p->rows[i].bytes));
    strbuf_printf(out, "  %-30s %12.1f MiB", "total", mib(p->total));
    if (b->available != SIZE_MAX)
        strbuf_printf(out, " of %.1f MiB that %s has", mib(b->available),
                      b->dev->memory->of_host ? "the machine" : "the device");
    strbuf_putc(out, '\n');
}

static void write_stage(struct strbuf *out, const struct config_stage *s)
{
    strbuf_printf(out, "stage %s (%s): ", s->name, config_stage_kind_name(s->kind));
    if (s->kind == STAGE_EVAL) {
        strbuf_printf(out, "held-out items, %d samples each\n", s->eval.samples);
        return;
    }
    if (s->steps > 0)
        strbuf_printf(out, "%d steps", s->steps);
    else
        strbuf_printf(out, "%g epochs", s->epochs);
    const bool generates = config_stage_generates(s);
    if (generates)
        strbuf_printf(out, " of %d prompts x %d samples, at most %d tokens each",
                      s->rollout.num_prompts, s->rollout.num_generations,
                      s->rollout.max_completion_length);
    strbuf_printf(out, generates ? ", updates of %d\n" : " of %d sequences\n", s->batch);
}

void plan_write_stages(struct strbuf *out, const struct plan_basis *b, const struct config *c)
{
    strbuf_printf(out, "model %s: %.2f M parameters, %.2f M active per token\n",
                  c->model.dir != NULL ? c->model.dir : "(new)",
                  (double)arch_num_parameters(&b->policy, false) / 1e6,
                  (double)arch_num_parameters(&b->policy, true) / 1e6);
    for (int i = 0; i < c->stages.count; i++)
        write_stage(out, &c->stages.items[i]);
}

void plan_write_json(struct json_writer *w, const struct plan *p, const struct plan_basis *b)
{
    json_begin_object(w);
    json_put_key(w, "parameters");
    json_put_int(w, arch_num_parameters(&b->policy, false));
    json_put_key(w, "active_parameters");
    json_put_int(w, arch_num_parameters(&b->policy, true));
    json_put_key(w, "stage");
    json_put_string(w, p->stage);
    json_put_key(w, "memory");
    json_begin_array(w);
    for (int i = 0; i < p->num_rows; i++) {
        json_begin_object(w);
        json_put_key(w, "part");
        json_put_string(w, p->rows[i].name);
        json_put_key(w, "bytes");
        json_put_int(w, (int64_t)p->rows[i].bytes);
        json_end_object(w);
    }
    json_end_array(w);
    json_put_key(w, "total");
    json_put_int(w, (int64_t)p->total);
    json_put_key(w, "available");
    if (b->available != SIZE_MAX)
        json_put_int(w, (int64_t)b->available);
    else
        json_put_null(w);
    json_end_object(w);
}

// ---- knobs

enum knob { MICRO_BATCH, MAX_BATCH, CHECKPOINTING, DTYPE, KNOBS }; // least slowdown first
enum { SHOWN = 2, LEAST_TOKENS = 256, LEAST_BATCH = 8 };

// Halves a number that is at least twice `least`.
static bool halve(int *n, int least)
{
    if (*n < 2 * least)
        return false;
    *n /= 2;
    return true;
}

// Turns it once more; false at its end. The stages of c are its own.
static bool turn(enum knob knob, struct config *c)
{
    bool turned = false;
    switch (knob) {
    case MICRO_BATCH:
        return halve(&c->run.micro_batch_tokens, LEAST_TOKENS);
    case MAX_BATCH:
        for (int i = 0; i < c->stages.count; i++)
            turned = halve(&c->stages.items[i].rollout.max_batch, LEAST_BATCH) || turned;
        return turned;
    case CHECKPOINTING:
        turned = !c->run.gradient_checkpointing;
        c->run.gradient_checkpointing = true;
        return turned;
    case DTYPE:
        turned = c->run.dtype != DTYPE_BF16;
        c->run.dtype = DTYPE_BF16;
        return turned;
    case KNOBS:
        break;
    }
    return turned;
}

static void put_setting(struct strbuf *out, enum knob knob, const struct config *c)
{
    int batch = 0;
    for (int i = 0; i < c->stages.count; i++)
        if (c->stages.items[i].rollout.max_batch > batch)
            batch = c->stages.items[i].rollout.max_batch;
    switch (knob) {
    case MICRO_BATCH:
        strbuf_printf(out, "run.micro_batch_tokens=%d", c->run.micro_batch_tokens);
        break;
    case MAX_BATCH:
        strbuf_printf(out, "rollout.max_batch=%d", batch);
        break;
    case CHECKPOINTING:
        strbuf_puts(out, "run.gradient_checkpointing=true");
        break;
    case DTYPE:
        strbuf_printf(out, "run.dtype=\"%s\"", session_dtype_name(c->run.dtype));
        break;
    case KNOBS:
        break;
    }
}

struct saving {
    struct strbuf setting;
    size_t saved;
    bool fits;
};

// Turns one knob until the plan fits, or to its end.
static void try_knob(struct saving *s, enum knob knob, const struct plan *p,
                     const struct plan_basis *b, const struct config *given, size_t limit)
{
    struct config c = *given;
    const size_t bytes = (size_t)c.stages.count * sizeof *c.stages.items;
    c.stages.items = mem_alloc(bytes);
    memcpy(c.stages.items, given->stages.items, bytes);
    while (!s->fits && turn(knob, &c)) {
        struct plan smaller;
        if (plan_memory(&smaller, b, &c) != 0 || smaller.total >= p->total)
            continue;
        if (p->total - smaller.total > s->saved) { // the first setting that saves so much
            s->saved = p->total - smaller.total;
            strbuf_clear(&s->setting);
            put_setting(&s->setting, knob, &c);
        }
        s->fits = smaller.total <= limit;
    }
    free(c.stages.items);
}

void plan_write_knobs(struct strbuf *out, const struct plan *p, const struct plan_basis *b,
                      const struct config *c, size_t limit)
{
    struct saving savings[KNOBS] = {0};
    int shown = 0;
    for (int knob = 0; knob < KNOBS; knob++)
        try_knob(&savings[knob], (enum knob)knob, p, b, c, limit);
    for (int alone = 1; alone >= 0; alone--)
        for (int knob = 0; knob < KNOBS && shown < SHOWN; knob++) {
            const struct saving *s = &savings[knob];
            if (s->saved == 0 || s->fits != (alone == 1))
                continue;
            strbuf_printf(out, "%s  --set %s saves %.1f MiB%s", shown++ == 0 ? "" : "\n",
                          s->setting.data, mib(s->saved),
                          s->fits ? "" : ", which is not enough by itself");
        }
    for (int knob = 0; knob < KNOBS; knob++)
        strbuf_free(&savings[knob].setting);
}

int plan_check(const struct plan *p, const struct plan_basis *b, const struct config *c)
{
    if (p->total <= b->available)
        return 0;
    struct strbuf text = {0};
    plan_write(&text, p, b);
    plan_write_knobs(&text, p, b, c, b->available);
    const int rc = err_set(ERR_ENV, "the run does not fit; %s", text.data);
    strbuf_free(&text);
    return rc;
}

int plan_explain(int rc, const struct plan_basis *b, const struct config *c)
{
    struct plan p;
    if (rc != ERR_ENV || b->dev == NULL || b->dev->refused == 0)
        return rc;
    struct strbuf text = {0};
    strbuf_printf(&text, "%s; ", err_message());
    if (plan_memory(&p, b, c) == 0) {
        const size_t refused = b->dev->refused;
        plan_write(&text, &p, b);
        plan_write_knobs(&text, &p, b, c, p.total > refused ? p.total - refused : 0);
    }
    err_set(rc, "%s", text.data);
    strbuf_free(&text);
    return rc;
}

int plan_begin(const struct plan_basis *b, const struct config *c)
{
    struct strbuf text = {0};
    struct plan plan;
    int rc = plan_memory(&plan, b, c);
    if (rc == 0)
        rc = plan_check(&plan, b, c);
    if (rc == 0) {
        plan_write(&text, &plan, b);
        for (char *line = strtok(text.data, "\n"); line != NULL; line = strtok(NULL, "\n"))
            log_line(LOG_INFO, "%s", line);
    }
    strbuf_free(&text);
    return rc;
}
