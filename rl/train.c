// SPDX-License-Identifier: Apache-2.0
// The loop of a run: opens what all stages share, runs the stages one after the other, and between
// steps evaluates, logs, saves and listens for signals.
//
// Order within step s of a stage: the step itself, its line in metrics.jsonl, its trace, the
// evaluation that falls on s, then the checkpoint. A checkpoint therefore covers every line up to
// its step, and knows how long metrics.jsonl was: a resumed run cuts it there and goes on.
//
// Several ranks run this loop alike. All know every sample and every metric; the run directory is
// rank 0's alone: it writes the files, and tells the others which checkpoint to go on from.
#include "rl/train.h"

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/team.h"
#include "kernels/device_cuda.h"
#include "rl/agree.h"
#include "rl/console.h"
#include "rl/evaluate.h"
#include "rl/launch.h"
#include "rl/plan.h"
#include "rl/reference_model.h"
#include "rl/session.h"
#include "rl/trainer.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile sig_atomic_t stop_signal;

static void on_signal(int number)
{
    if (stop_signal != 0) // the second one: at once; checkpoints are whole or absent
        _Exit(128 + number);
    stop_signal = number;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL); // mpirun hands it on
    signal(SIGPIPE, SIG_IGN);
}

// ---- what a run has open

struct train {
    struct trainer t;
    struct strbuf config_text;
    struct rundir_stage *done;       // [stages], for status.json
    double clock_start, stage_start; // when this attempt, and this stage in it, began
    struct plan_basis basis;
    struct metrics_line line;
    const char *version, *path; // of the program; of the run directory
};

static bool is_root(const struct train *r) { return r->t.comm->rank == 0; }

static double run_seconds(const struct train *r)
{
    return r->t.at.seconds + log_clock() - r->clock_start;
}

static int stage_index(const struct train *r)
{
    return (int)(r->t.stage - r->t.config->stages.items);
}

static int write_status(struct train *r, enum rundir_state state)
{
    if (!is_root(r))
        return 0;
    const int n = r->t.stage != NULL ? stage_index(r) + 1 : 0;
    if (n > 0) {
        struct rundir_stage *s = &r->done[n - 1];
        s->name = r->t.stage->name;
        s->steps = r->t.at.step;
        s->seconds = r->t.at.stage_seconds + log_clock() - r->stage_start;
    }
    return rundir_write_status(r->t.run, state, run_seconds(r), r->done, n);
}

static const struct stage *stage_of(enum config_stage_kind kind)
{
    switch (kind) {
    case STAGE_SFT:
        return &stage_sft;
    case STAGE_PRM:
        return &stage_prm;
    case STAGE_GRPO:
        return &stage_grpo;
    case STAGE_EVAL:
        break;
    }
    return NULL;
}

// ---- opening

// cpus: programs that run at once; 0: the default.
static int open_sandbox(struct trainer *t, int cpus)
{
    bool needed = false;
    for (int i = 0; i < t->config->stages.count; i++)
        needed = needed || scoring_needs(t->config, &t->config->stages.items[i].reward, "code");
    return needed ? scoring_open_sandbox(&t->sandbox, t->config->run.sandbox_tier, cpus) : 0;
}

static int open_tokenizer(struct trainer *t)
{
    const char *path = t->config->tokenizer != NULL ? t->config->tokenizer : t->config->model.dir;
    if (path == NULL)
        return err_set(ERR_CONFIG, "a new model needs a \"tokenizer\"");
    return tokenizer_open(&t->tokenizer, path);
}

// A new model gets the tokenizer's special tokens where its config names none.
static struct arch new_arch(const struct trainer *t)
{
    struct arch a = t->config->model.arch;
    if (a.bos_id < 0)
        a.bos_id = tokenizer_bos(t->tokenizer);
    if (a.eos_id < 0)
        a.eos_id = tokenizer_eos(t->tokenizer);
    if (a.pad_id < 0)
        a.pad_id = tokenizer_pad(t->tokenizer);
    return a;
}

// adapter NULL: none.
static int open_model(struct policy **out, struct trainer *t, const char *dir, const char *adapter,
                      bool value_head)
{
    const struct policy_source source = {.dir = dir,
                                         .adapter = adapter,
                                         .value_head = value_head,
                                         .allow_nonfinite = t->config->run.allow_nonfinite};
    return policy_open_source(out, t->dev, &source, t->config->run.dtype);
}

static int open_policy(struct trainer *t)
{
    const struct config_model *m = &t->config->model;
    const struct arch arch = new_arch(t);
    const enum dtype dtype = t->config->run.dtype;
    int rc = m->dir != NULL ? open_model(&t->policy, t, m->dir, t->config->adapter, false)
                            : policy_create(&t->policy, t->dev, &arch, dtype, m->init_seed);
    if (rc == 0 && m->dir != NULL)
        session_tell_model(t->policy, m->dir);
    const int vocabulary = tokenizer_vocab_size(t->tokenizer);
    if (rc == 0 && vocabulary > t->policy->arch.V)
        rc = err_set(ERR_MODEL, "the tokenizer has %d tokens, the model's vocabulary only %d",
                     vocabulary, t->policy->arch.V);
    return rc;
}

// The process reward model of a checkpoint, which may have none.
static int open_checkpoint_prm(struct trainer *t, const char *checkpoint)
{
    char *path = path_join(checkpoint, "prm");
    const int rc =
        dir_exists(path) ? open_model(&t->prm, t, path, NULL, /* value_head= */ true) : 0;
    free(path);
    return rc;
}

// The newest whole checkpoint, which rank 0 looks for; NULL when there is none.
static int find_checkpoint(struct train *r, char **checkpoint)
{
    char path[4096] = "", *found = NULL, *damaged = NULL;
    if (is_root(r)) {
        if (checkpoint_find(&found, &damaged, r->path) != 0)
            log_line(LOG_WARN, "%s: starting from the beginning", err_message());
        else
            snprintf(path, sizeof path, "%s", found);
        if (damaged != NULL)
            log_line(LOG_WARN, "left out: %s", damaged);
        const bool fits = found == NULL || strlen(found) < sizeof path;
        free(damaged);
        free(found);
        if (!fits)
            return err_set(ERR_CONFIG, "the path of run directory '%s' is too long", r->path);
    }
    const int rc = comm_broadcast(r->t.comm, path, sizeof path, 0);
    if (rc == 0 && path[0] != '\0')
        *checkpoint = mem_strdup(path);
    return rc;
}

// Models and place of the newest whole checkpoint. Nothing to open: the run starts from its
// beginning.
static int open_checkpoint(struct train *r, char **checkpoint)
{
    struct trainer *t = &r->t;
    int rc = find_checkpoint(r, checkpoint);
    if (rc != 0 || *checkpoint == NULL)
        return rc;
    struct checkpoint_state state;
    rc = checkpoint_read_state(&state, *checkpoint);
    if (rc != 0)
        return rc;
    if (strcmp(state.config, r->config_text.data) != 0)
        rc = err_set(ERR_CONFIG,
                     "the config is not the one that '%s' was started with (see its config.json); "
                     "resume with the same config, or start another run",
                     r->path);
    free((char *)state.config);
    state.config = r->config_text.data;
    t->at = state;
    if (rc == 0)
        rc = open_model(&t->policy, t, *checkpoint, NULL, false);
    if (rc == 0)
        rc = open_checkpoint_prm(t, *checkpoint);
    if (rc == 0)
        rc = reference_resume(t, *checkpoint);
    log_line(LOG_INFO, "resuming from %s", *checkpoint);
    return rc;
}

// Of the GPUs that it sees, each rank of a machine takes another one, unless the config names one.
static int open_device(struct trainer *t)
{
    const char *name = t->config->run.device, *how;
    const int gpus = strcmp(name, "cuda") == 0 ? device_cuda_count() : 0;
    int rc = gpus > 1 ? device_open_cuda(&t->dev, t->team, t->comm->local_rank % gpus)
                      : session_open_device(&t->dev, name, t->team);
    if (rc == 0)
        rc = comm_open_device(t->comm, t->dev, &how);
    if (rc == 0 && t->comm->size > 1)
        log_line(LOG_INFO, "%d ranks, %d on this machine, by %s", t->comm->size,
                 t->comm->local_size, how);
    return rc;
}

// What a plan is made from.
static int open_shared(struct train *r, int cpus)
{
    struct trainer *t = &r->t;
    int rc = open_tokenizer(t);
    if (rc == 0)
        rc = sources_open(&t->sources, t->config, t->tokenizer);
    if (rc == 0)
        rc = team_open(&t->team, t->config->run.threads > 0 ? t->config->run.threads : cpus);
    if (rc == 0)
        rc = open_device(t);
    return rc != 0 ? rc : plan_open(&r->basis, t);
}

static int open_all(struct train *r)
{
    struct trainer *t = &r->t;
    int cpus = 0;
    int rc = launch_cpus(&cpus, t->comm);
    if (rc == 0)
        rc = open_sandbox(t, cpus); // before weights are loaded: what it forks stays small
    if (rc == 0)
        rc = open_shared(r, cpus);
    return rc != 0 ? rc : plan_begin(&r->basis, r->t.config);
}

static int open_run_files(struct train *r)
{
    struct trainer *t = &r->t;
    if (!is_root(r))
        return 0;
    char *config = rundir_file(t->run, "config.json"),
         *lines = rundir_file(t->run, "metrics.jsonl");
    int rc = 0;
    if (!file_exists(config))
        rc = file_write_atomic(config, r->config_text.data, r->config_text.len);
    if (rc == 0)
        rc = metrics_open(&t->metrics, lines, t->at.metrics_bytes);
    free(config);
    free(lines);
    return rc;
}

static void train_close(struct train *r)
{
    struct trainer *t = &r->t;
    metrics_close(&t->metrics);
    optimizer_free(&t->optimizer);
    policy_free(&t->policy);
    policy_free(&t->prm);
    policy_free(&t->reference);
    sources_close(&t->sources);
    sandbox_close(&t->sandbox);
    tokenizer_free(&t->tokenizer);
    device_free(&t->dev);
    team_close(&t->team);
    rundir_close(&t->run);
    arena_free(&t->step_arena);
    strbuf_free(&t->trace);
    strbuf_free(&r->config_text);
    metrics_free(&r->line);
    plan_close(&r->basis);
    free(r->done);
}

// ---- evaluation

// The held-out tasks of all sources of the stage's evaluation.
static int eval_tasks(struct task **out, int *count, struct trainer *t)
{
    const struct config_eval *e = &t->stage->eval;
    int total = 0;
    for (int s = 0; s < t->config->data.count; s++)
        total += source_evaluated(t->sources, e, s);
    struct task *tasks = ARENA_ARRAY(&t->step_arena, struct task, total + 1);
    int n = 0;
    for (int s = 0; s < t->config->data.count; s++) {
        const int of_source = source_evaluated(t->sources, e, s);
        for (int i = 0; i < of_source; i++) {
            const int rc = source_eval_task(&tasks[n++], t->sources, &t->step_arena, s, i);
            if (rc != 0)
                return rc;
        }
    }
    *out = tasks;
    *count = n;
    return 0;
}

static int evaluate_policy(struct evaluation *out, struct trainer *t)
{
    const struct config_eval *e = &t->stage->eval;
    struct task *tasks;
    int n;
    struct rollout_engine *engine = NULL;
    struct scoring *scoring = NULL;
    int rc = eval_tasks(&tasks, &n, t);
    if (rc == 0)
        rc = scoring_open(&scoring, t->config, &t->stage->reward, t->sandbox, t->prm);
    if (rc == 0)
        rc = trainer_open_engine(&engine, t, (uint64_t)t->config->run.seed);
    if (rc == 0) {
        struct generator g = trainer_generator(t, engine, scoring);
        const struct evaluate_options o = {
            .samples = e->samples,
            .k = e->k.items,
            .num_k = e->k.count,
            .temperature = e->temperature,
            .top_p = e->top_p,
            .max_tokens = t->stage->rollout.max_completion_length,
        };
        rc = evaluate(out, &g, &t->step_arena, tasks, n, &o);
    }
    rollout_free(&engine);
    scoring_close(&scoring);
    return rc;
}

// Evaluates the policy at step `step` of the stage and writes the line.
static int run_evaluation(struct train *r, int step)
{
    struct trainer *t = &r->t;
    const double start = log_clock();
    struct evaluation e;
    int rc = evaluate_policy(&e, t);
    if (rc == 0 && e.num_tasks > 0) {
        metrics_begin(&r->line, t->stage->name, step, t->at.global_step);
        evaluate_metrics(&r->line, &e);
        metrics_put(&r->line, log_clock() - start, "eval/seconds");
        console_evaluation(&e, t->stage->name, step);
        rc = is_root(r) ? metrics_write(&t->metrics, &r->line, run_seconds(r)) : 0;
    }
    sources_recycle(t->sources);
    arena_release(&t->step_arena, (struct arena_mark){0});
    return rc;
}

// ---- steps

static int write_checkpoint(struct train *r, const struct optimizer *optimizer)
{
    struct trainer *t = &r->t;
    struct checkpoint_state state = t->at;
    state.stage = stage_index(r);
    state.seconds = run_seconds(r);
    state.stage_seconds = t->at.stage_seconds + log_clock() - r->stage_start;
    state.metrics_bytes = t->metrics.bytes;
    state.config = r->config_text.data;
    char *reference = reference_files(t);
    const struct checkpoint_parts parts = {
        .policy = t->policy,
        .prm = t->prm,
        .reference = reference,
        .optimizer = optimizer,
        .optimized = t->optimized,
        .tokenizer = t->tokenizer,
    };
    int rc = checkpoint_save(t->run->path, &parts, &state);
    free(reference);
    if (rc == 0)
        rc = checkpoint_prune(t->run->path, t->config->run.save_total_limit);
    return rc;
}

// Rank 0 writes, having got what the optimisers of the others hold.
static int save(struct train *r)
{
    struct optimizer *whole = NULL;
    int rc = 0;
    if (r->t.optimizer != NULL)
        rc = optimizer_gather(&whole, r->t.optimizer, r->t.optimized);
    if (rc == 0 && is_root(r))
        rc = write_checkpoint(r, whole != NULL ? whole : r->t.optimizer);
    optimizer_free(&whole);
    return rc;
}

static int write_trace(struct trainer *t)
{
    if (t->trace.len == 0)
        return 0;
    char name[64];
    snprintf(name, sizeof name, "traces/step-%06d.jsonl.zst", t->at.global_step);
    char *path = rundir_file(t->run, name);
    struct strbuf packed = {0};
    int rc = zstd_pack(&packed, t->trace.data, t->trace.len, 3);
    if (rc == 0)
        rc = file_write_atomic(path, packed.data, packed.len);
    strbuf_free(&packed);
    strbuf_clear(&t->trace);
    free(path);
    return rc;
}

// What the ranks sent each other in this step, all of them together, and how long rank 0 was at it.
static int put_traffic(struct train *r)
{
    static const char *const names[COMM_TRAFFICS] = {"control", "gradient", "weight", "expert",
                                                     "sample"};
    struct comm *c = r->t.comm;
    const struct comm_count count = c->count;
    c->count = (struct comm_count){0};
    if (c->size == 1)
        return 0;
    int64_t bytes[COMM_TRAFFICS], total = 0;
    memcpy(bytes, count.bytes, sizeof bytes);
    const int rc = comm_sum_int64(c, bytes, COMM_TRAFFICS);
    for (int i = 0; i < COMM_TRAFFICS; i++)
        total += bytes[i];
    metrics_put(&r->line, (double)total, "comm/bytes");
    for (int i = 0; i < COMM_TRAFFICS; i++)
        metrics_put(&r->line, (double)bytes[i], "comm/%s_bytes", names[i]);
    metrics_put(&r->line, count.seconds, "comm/seconds");
    return rc;
}

static int run_step(struct train *r, const struct stage *s, void *state)
{
    struct trainer *t = &r->t;
    const int step = t->at.step;
    const double start = log_clock();
    metrics_begin(&r->line, t->stage->name, step + 1, t->at.global_step + 1);
    t->comm->count = (struct comm_count){0};
    int rc = s->step(state, t, step, &r->line);
    if (rc == 0)
        rc = trace_collect(t);
    if (rc == 0)
        rc = put_traffic(r);
    sources_recycle(t->sources);
    arena_release(&t->step_arena, (struct arena_mark){0});
    if (rc != 0)
        return rc;
    t->at.step++;
    t->at.global_step++;
    metrics_put(&r->line, (double)t->at.num_tokens, "num_tokens");
    metrics_put(&r->line, log_clock() - start, "step_time");
    if (is_root(r))
        rc = metrics_write(&t->metrics, &r->line, run_seconds(r));
    if (rc == 0)
        rc = write_trace(t);
    const double seconds = t->at.stage_seconds + log_clock() - r->stage_start;
    console_step(&r->line, s->shown, t->steps, seconds, t->config->run.logging_steps);
    return rc;
}

static bool due(int step, int every) { return every > 0 && step % every == 0; }

static int run_steps(struct train *r, const struct stage *s, void *state)
{
    struct trainer *t = &r->t;
    int rc = 0;
    while (t->at.step < t->steps && rc == 0) {
        rc = run_step(r, s, state);
        if (rc != 0)
            break;
        const bool last = t->at.step == t->steps;
        bool stopping = stop_signal != 0; // on any rank
        rc = comm_any(t->comm, &stopping);
        if (rc == 0 && (last || stopping || due(t->at.step, t->config->run.check_every)))
            rc = agree_weights(t);
        const bool trains_policy = t->optimized == t->policy;
        if (rc == 0 && trains_policy && (last || due(t->at.step, t->stage->eval.every)))
            rc = run_evaluation(r, t->at.step);
        if (rc == 0 && (last || stopping || due(t->at.step, t->config->run.save_every)))
            rc = save(r);
        if (rc == 0)
            rc = write_status(r, RUN_RUNNING);
        if (rc == 0 && stopping)
            return comm_common(
                t->comm,
                err_set(ERR_INTERRUPTED,
                        "interrupted at step %d of stage '%s' and saved; go on with --resume",
                        t->at.step, t->stage->name));
    }
    return rc;
}

// Steps of a stage: as configured, or by passes over the rows of its sources.
static int stage_steps(int *out, const struct trainer *t)
{
    const struct config_stage *c = t->stage;
    if (c->steps > 0 || c->kind == STAGE_EVAL) {
        *out = c->steps;
        return 0;
    }
    int64_t rows = 0;
    for (int i = 0; i < c->sources.count; i++) {
        for (int s = 0; s < t->config->data.count; s++) {
            if (strcmp(t->config->data.items[s].name, c->sources.items[i].source) != 0)
                continue;
            const int64_t n = source_train_count(t->sources, s);
            if (n == 0)
                return err_set(ERR_CONFIG, "stage '%s': source '%s' has no end; give \"steps\"",
                               c->name, c->sources.items[i].source);
            rows += n;
        }
    }
    const int per_step = c->kind == STAGE_SFT ? c->batch : c->rollout.num_prompts;
    *out = (int)ceil(c->epochs * (double)rows / per_step);
    return 0;
}

// A stage that trains a model from scratch says nothing before its first step.
static bool evaluates_at_start(const struct train *r)
{
    const struct trainer *t = &r->t;
    return t->at.step == 0 && t->stage->kind != STAGE_PRM &&
           (t->config->model.dir != NULL || t->at.global_step > 0);
}

static int run_stage(struct train *r, const char *checkpoint)
{
    struct trainer *t = &r->t;
    const struct stage *s = stage_of(t->stage->kind);
    r->stage_start = log_clock();
    int rc = stage_steps(&t->steps, t);
    if (rc == 0 && t->at.step >= t->steps && s != NULL && t->at.step > 0)
        return 0; // resumed at its end
    if (rc == 0)
        rc = write_status(r, RUN_RUNNING);
    console_stage(t->stage->name, config_stage_kind_name(t->stage->kind), t->steps);
    if (rc == 0)
        rc = plan_reserve(t, &r->basis);
    if (rc == 0 && evaluates_at_start(r))
        rc = run_evaluation(r, 0);
    if (rc != 0 || s == NULL)
        return rc;
    void *state = NULL;
    rc = s->open(&state, t);
    if (rc == 0)
        rc = plan_reserve(t, &r->basis); // of models that are new
    if (rc == 0 && checkpoint != NULL)
        rc = optimizer_load(t->optimizer, t->optimized, checkpoint);
    if (rc == 0)
        rc = run_steps(r, s, state);
    if (state != NULL)
        s->close(state);
    optimizer_free(&t->optimizer);
    reference_end(t);
    return rc == 0 ? policy_train_end(t->optimized) : rc;
}

static int run_stages(struct train *r, const char *checkpoint)
{
    struct trainer *t = &r->t;
    const int first = t->at.stage;
    for (int i = first; i < t->config->stages.count; i++) {
        t->stage = &t->config->stages.items[i];
        const bool resumed = i == first && checkpoint != NULL;
        const int rc = run_stage(r, resumed ? checkpoint : NULL);
        if (rc != 0)
            return rc;
        const int written = write_status(r, RUN_RUNNING);
        if (written != 0)
            return written;
        t->at.step = 0;
        t->at.stage_seconds = 0.0;
    }
    return 0;
}

static enum rundir_state final_state(int rc)
{
    return rc == 0 ? RUN_DONE : rc == ERR_INTERRUPTED ? RUN_INTERRUPTED : RUN_FAILED;
}

// Names of the stages that a resumed run has behind it, for status.json.
static void note_done_stages(struct train *r)
{
    for (int i = 0; i < r->t.at.stage; i++) {
        r->done[i].name = r->t.config->stages.items[i].name;
        r->done[i].steps = r->t.config->stages.items[i].steps;
    }
}

// The models, of a checkpoint or new.
static int open_models(struct train *r, bool resume, char **checkpoint)
{
    struct trainer *t = &r->t;
    int rc = resume ? open_checkpoint(r, checkpoint) : 0;
    if (rc == 0 && t->policy == NULL)
        rc = open_policy(t);
    if (rc == 0 && t->prm == NULL && t->config->prm != NULL)
        rc = open_model(&t->prm, t, t->config->prm, NULL, /* value_head= */ true);
    return rc != 0 ? rc : agree_start(t, r->version, r->config_text.data);
}

int train_run(const struct config *c, struct comm *comm, const char *version, const char *run_path,
              bool resume)
{
    struct train r = {.t = {.config = c, .comm = comm, .metrics = {.fd = -1}},
                      .clock_start = log_clock(),
                      .version = version,
                      .path = run_path};
    struct trainer *t = &r.t;
    char *checkpoint = NULL;
    config_dump(&r.config_text, c);
    r.done = mem_array0((size_t)c->stages.count + 1, sizeof *r.done);
    comm_set_timeout(comm, c->run.comm_timeout_seconds);
    int rc = is_root(&r) ? rundir_open(&t->run, run_path, resume) : 0;
    if (rc != 0) {
        train_close(&r);
        return rc;
    }
    catch_signals();
    if (is_root(&r))
        rundir_open_log(t->run);
    rc = open_all(&r);
    if (rc == 0)
        rc = open_models(&r, resume, &checkpoint);
    if (rc == 0)
        rc = open_run_files(&r);
    if (rc == 0) {
        console_run(run_path, t->policy, t->dev);
        note_done_stages(&r);
        rc = plan_explain(run_stages(&r, checkpoint), &r.basis, c);
        const int written = write_status(&r, final_state(rc));
        if (rc == 0)
            rc = written;
    }
    if (rc == 0)
        console_done(run_path, run_seconds(&r));
    free(checkpoint);
    train_close(&r);
    return rc;
}

int train_plan(struct strbuf *out, const struct config *c, struct comm *comm, bool json)
{
    struct train r = {.t = {.config = c, .comm = comm, .metrics = {.fd = -1}}};
    struct plan plan;
    int rc = open_shared(&r, 0);
    if (rc == 0)
        rc = plan_memory(&plan, &r.basis, c);
    if (rc == 0 && json) {
        plan_write_json(&(struct json_writer){.out = out}, &plan, &r.basis);
        strbuf_putc(out, '\n');
    } else if (rc == 0) {
        plan_write_stages(out, &r.basis, c);
    }
    if (rc == 0)
        rc = plan_check(&plan, &r.basis, c);
    if (rc == 0 && !json)
        plan_write(out, &plan, &r.basis);
    train_close(&r);
    return rc;
}
