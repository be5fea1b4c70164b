// SPDX-License-Identifier: Apache-2.0
#include "sandbox/work.h"

#include "base/mem.h"
#include "sandbox/judge.h"
#include "sandbox/language.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SOURCE_MAX ((size_t)16 << 20)

// Of a compiler: what a program of some thousand lines needs, and no more than a bomb may have.
static const struct sandbox_limits compiler_limits = {.cpu_ms = 10000,
                                                      .wall_ms = 60000,
                                                      .memory_kib = 1048576,
                                                      .output_kib = 256,
                                                      .disk_kib = 65536,
                                                      .files = 64,
                                                      .threads = 16};

static struct sandbox_limits limits_fill(struct sandbox_limits l)
{
    l.cpu_ms = l.cpu_ms > 0 ? l.cpu_ms : 2000;
    l.wall_ms = l.wall_ms > 0 ? l.wall_ms : 2 * l.cpu_ms + 1000;
    l.memory_kib = l.memory_kib > 0 ? l.memory_kib : 262144;
    l.output_kib = l.output_kib > 0 ? l.output_kib : 1024;
    l.disk_kib = l.disk_kib > 0 ? l.disk_kib : 16384;
    l.files = l.files > 0 ? l.files : 256;
    l.threads = l.threads > 0 ? l.threads : 16;
    return l;
}

// Why a job cannot be run at all; NULL: it can.
static const char *job_fault(const struct sandbox_job *job)
{
    if (job->tests == NULL || (job->tests->count == 0 && job->tests->kind != TESTS_RUN))
        return "there are no tests";
    if (languages[job->language].compiled && job->tests->kind != TESTS_RUN &&
        job->tests->kind != TESTS_STDIN)
        return "a compiled program is tested by standard input and output alone";
    return job->source_len > SOURCE_MAX ? "the program is longer than 16 MiB" : NULL;
}

struct work *work_new(const struct sandbox_job *job, bool *judged)
{
    struct work *w = mem_alloc0(sizeof *w);
    const char *fault = job_fault(job);
    w->language = job->language;
    w->given = job->tests;
    w->limits = limits_fill(job->limits);
    w->run_all = job->run_all;
    w->executable = -1;
    *judged = fault != NULL;
    if (fault != NULL) {
        w->result.exit_code = -1;
        judge_internal(&w->result, "%s", fault);
        return w;
    }
    w->source_len = job->source_len;
    w->source = mem_alloc(job->source_len + 1);
    memcpy(w->source, job->source, job->source_len);
    return w;
}

void work_free(struct work *w)
{
    sandbox_result_clear(&w->result);
    if (w->executable >= 0)
        close(w->executable);
    free(w->source);
    free(w);
}

static void program_of_test(const struct work *w, struct slot_program *p)
{
    static const enum wire_kind kinds[] = {[TESTS_RUN] = WIRE_JOB_RUN,
                                           [TESTS_STDIN] = WIRE_JOB_RUN,
                                           [TESTS_CALLS] = WIRE_JOB_CALLS,
                                           [TESTS_ASSERTS] = WIRE_JOB_ASSERTS};
    const struct sandbox_tests *t = w->tests;
    *p = (struct slot_program){
        .kind = w->executable >= 0 ? WIRE_JOB_EXECUTE : kinds[t->kind],
        .executable = w->executable,
        .source = w->source,
        .source_len = w->source_len,
        .entry = &t->entry,
        .check = &t->check,
        .args = &t->args,
        .calls = t->kind == TESTS_CALLS ? t->count : 0,
        .input = "",
        .limits = w->limits,
    };
    if (t->kind == TESTS_RUN || t->kind == TESTS_STDIN) {
        p->input = t->bytes.len > 0 ? t->bytes.data + t->cases[w->test].in : "";
        p->input_len = t->cases[w->test].in_len;
    }
}

// Whether the asserts have to be rewritten first.
static bool needs_split(struct work *w, const struct work_known *known)
{
    const struct sandbox_tests *split = NULL;
    if (w->given->kind == TESTS_ASSERTS &&
        !asserts_cache_get(&known->asserts, &w->given->check, &split))
        return true;
    w->tests = split != NULL ? split : w->given;
    judge_begin(&w->result, w->tests);
    return false;
}

static bool needs_compiler(struct work *w, const struct work_known *known)
{
    if (!languages[w->language].compiled || w->executable >= 0)
        return false;
    w->executable =
        executables_get(&known->executables, (int)w->language, w->source, w->source_len);
    return w->executable < 0;
}

void work_next(struct work *w, struct slot_program *p, struct asserts_room *room,
               const struct work_known *known)
{
    if (w->phase == WORK_BEGIN || w->phase == WORK_SPLIT)
        w->phase = needs_split(w, known) ? WORK_SPLIT : WORK_COMPILE;
    if (w->phase == WORK_COMPILE && !needs_compiler(w, known))
        w->phase = WORK_RUN;
    if (w->phase == WORK_SPLIT)
        asserts_program(p, room, w->given->check.data, w->given->check.len);
    else if (w->phase == WORK_COMPILE)
        *p = (struct slot_program){.kind = WIRE_JOB_COMPILE,
                                   .compiler = w->compiler,
                                   .input = w->source,
                                   .input_len = w->source_len,
                                   .limits = compiler_limits};
    else
        program_of_test(w, p);
}

// Of a program of ours: that it did not come to its end says nothing about what it was given. True
// when it is tried once more; false with a verdict when it was tried often enough.
static bool try_again(struct work *w, const struct wire_done *done, const char *what)
{
    if (++w->tries < WORK_TRIES_MAX)
        return true;
    if (!done->hardened)
        judge_not_hardened(&w->result, done);
    else
        judge_internal(&w->result, "%s", what);
    w->result.exit_code = -1;
    return false;
}

// That asserts cannot be rewritten is a finding, to be kept; that the rewriting was cut short is
// none, and must not make tests weak.
static bool split_ended(struct work *w, const struct slot *s, const struct wire_done *done,
                        struct work_known *known)
{
    const bool cut_short = s->wall || s->starved || !done->hardened ||
                           (WIFSIGNALED(done->status) && !done->cpu_killed && !s->output);
    if (cut_short)
        return try_again(w, done, "its tests could not be read: the machine is too busy");
    w->tries = 0;
    asserts_cache_put(&known->asserts, &w->given->check,
                      done->status == 0 ? asserts_read(&s->got[SLOT_RECORDS]) : NULL);
    return true;
}

static char *head_of(const struct strbuf *b, size_t max, size_t *len)
{
    *len = b->len < max ? b->len : max;
    return mem_strndup(b->len > 0 ? b->data : "", *len);
}

static void keep_streams(struct sandbox_result *r, const struct slot *s, size_t max)
{
    free(r->out);
    free(r->err);
    r->out = head_of(&s->got[SLOT_OUT], max, &r->out_len);
    r->err = head_of(&s->got[SLOT_ERR], max, &r->err_len);
}

static struct judge_facts facts_of(const struct work *w, const struct slot *s,
                                   const struct wire_done *done)
{
    return (struct judge_facts){
        .done = *done,
        .wall = s->wall,
        .output = s->output,
        .starved = s->starved,
        .wall_us = (uint32_t)((slot_clock() - s->started) * 1e6),
        .out = &s->got[SLOT_OUT],
        .err = &s->got[SLOT_ERR],
        .records = &s->got[SLOT_RECORDS],
        .nonce = s->nonce,
        .limits = w->phase == WORK_COMPILE ? &compiler_limits : &w->limits,
    };
}

// Compilers do not sleep: one that does not end in a minute was kept from running.
static bool compile_ended(struct work *w, struct slot *s, const struct wire_done *done,
                          struct work_known *known, size_t keep_output)
{
    if (s->wall || s->starved || !done->hardened)
        return try_again(w, done, "it could not be compiled: the machine is too busy");
    if (done->status == 0 && s->made < 0)
        return try_again(w, done, "what the compiler made could not be taken out of the box");
    if (done->status == 0 && !s->output) {
        w->tries = 0;
        w->executable = s->made;
        s->made = -1;
        executables_put(&known->executables, (int)w->language, w->source, w->source_len,
                        w->executable);
        return true;
    }
    if ((int)++w->compiler < s->compilers)
        return true;
    const struct judge_facts facts = facts_of(w, s, done);
    judge_compile(&w->result, &facts);
    keep_streams(&w->result, s, keep_output);
    return false;
}

bool work_ended(struct work *w, struct slot *s, const struct wire_done *done,
                struct work_known *known, size_t keep_output)
{
    struct sandbox_result *r = &w->result;
    r->tier = s->tier;
    if (w->phase == WORK_SPLIT)
        return split_ended(w, s, done, known);
    if (w->phase == WORK_COMPILE)
        return compile_ended(w, s, done, known, keep_output);
    const struct judge_facts facts = facts_of(w, s, done);
    const enum sandbox_verdict before = r->verdict;
    judge_run(r, w->tests, w->test, &facts);
    if (r->verdict != before || r->out == NULL)
        keep_streams(r, s, keep_output);
    w->test++;
    w->tries = 0;
    const bool more = w->tests->kind == TESTS_STDIN && w->test < w->tests->count;
    return more && (w->run_all || r->verdict == SANDBOX_OK) && r->verdict != SANDBOX_INTERNAL;
}
