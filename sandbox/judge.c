// SPDX-License-Identifier: Apache-2.0
#include "sandbox/judge.h"

#include "base/mem.h"
#include "sandbox/compare.h"
#include "sandbox/records.h"
#include "sandbox/value.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

const char *sandbox_verdict_name(enum sandbox_verdict v)
{
    static const char *const names[] = {
        [SANDBOX_OK] = "ok",
        [SANDBOX_WRONG] = "wrong",
        [SANDBOX_INCOMPLETE] = "incomplete",
        [SANDBOX_RUNTIME] = "runtime",
        [SANDBOX_SIGNAL] = "signal",
        [SANDBOX_COMPILE] = "compile",
        [SANDBOX_MEMORY] = "memory",
        [SANDBOX_WALL] = "wall",
        [SANDBOX_CPU] = "cpu",
        [SANDBOX_OUTPUT] = "output",
        [SANDBOX_VIOLATION] = "violation",
        [SANDBOX_INTERNAL] = "internal",
    };
    return names[v];
}

// Raises the verdict to v unless it is as bad already; text (any bytes) becomes the detail, on one
// line and cut to fit.
static void raise_verdict(struct sandbox_result *r, enum sandbox_verdict v, const char *text,
                          size_t len)
{
    if (v <= r->verdict)
        return;
    r->verdict = v;
    struct strbuf line = {0};
    strbuf_put_visible(&line, text, len);
    size_t n = line.len;
    if (n >= sizeof r->detail)
        n = utf8_complete_prefix(line.data, sizeof r->detail - 1);
    if (n > 0)
        memcpy(r->detail, line.data, n);
    r->detail[n] = 0;
    strbuf_free(&line);
}

static void raise_text(struct sandbox_result *r, enum sandbox_verdict v, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void raise_text(struct sandbox_result *r, enum sandbox_verdict v, const char *fmt, ...)
{
    char text[sizeof r->detail];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    raise_verdict(r, v, text, strlen(text));
}

void judge_internal(struct sandbox_result *r, const char *fmt, ...)
{
    char text[sizeof r->detail];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    r->verdict = SANDBOX_OK; // so that it is raised, with this detail
    raise_verdict(r, SANDBOX_INTERNAL, text, strlen(text));
    r->tests_passed = 0;
}

void judge_begin(struct sandbox_result *r, const struct sandbox_tests *t)
{
    *r = (struct sandbox_result){
        .tests_total = t->count, .exit_code = -1, .weak = t->kind == TESTS_ASSERTS};
}

void judge_not_hardened(struct sandbox_result *r, const struct wire_done *d)
{
    if (d->failed_errno != 0)
        raise_text(r, SANDBOX_INTERNAL, "the program's process could not be locked in: step %d: %s",
                   d->failed_step + 1, strerror(d->failed_errno));
    else
        raise_text(r, SANDBOX_INTERNAL, "the program's process ended before it was locked in");
}

// How the process ended, whatever the tests say.
static void judge_end(struct sandbox_result *r, const struct judge_facts *f)
{
    const struct wire_done *d = &f->done;
    const bool killed = WIFSIGNALED(d->status);
    const int signal = killed ? WTERMSIG(d->status) : 0;
    const bool failed = d->status != 0;
    if (!d->hardened)
        judge_not_hardened(r, d);
    if (f->starved)
        raise_text(r, SANDBOX_INTERNAL, "the machine was too busy: did not end within %u ms",
                   f->wall_us / 1000);
    if (signal == SIGSYS)
        raise_text(r, SANDBOX_VIOLATION, "a forbidden system call");
    if (f->output)
        raise_text(r, SANDBOX_OUTPUT, "more than %d KiB of output", f->limits->output_kib);
    if (d->cpu_killed || signal == SIGXCPU ||
        (signal == SIGKILL && d->cpu_us / 1000 >= (uint32_t)f->limits->cpu_ms))
        raise_text(r, SANDBOX_CPU, "more than %d ms of CPU time", f->limits->cpu_ms);
    if (f->wall)
        raise_text(r, SANDBOX_WALL, "did not end within %d ms", f->limits->wall_ms);
    if (failed && !f->wall && !f->output &&
        d->peak_kib >= (uint32_t)f->limits->memory_kib / 20 * 19)
        raise_text(r, SANDBOX_MEMORY, "more than %d KiB of memory", f->limits->memory_kib);
    if (killed && !f->wall && !f->output && !d->cpu_killed)
        raise_text(r, SANDBOX_SIGNAL, "killed by signal %d (%s)", signal, strsignal(signal));
}

// The line of a compiler's messages that says what is wrong; the first, when none does.
static const char *error_line(const char *text)
{
    const char *error = strstr(text, "error");
    while (error != NULL && error > text && error[-1] != '\n')
        error--;
    return error != NULL ? error : text;
}

void judge_compile(struct sandbox_result *r, const struct judge_facts *f)
{
    const struct wire_done *d = &f->done;
    r->cpu_us += d->cpu_us;
    r->wall_us += f->wall_us;
    r->exit_code = WIFEXITED(d->status) ? WEXITSTATUS(d->status) : -1;
    r->signal = WIFSIGNALED(d->status) ? WTERMSIG(d->status) : 0;
    const char *text = f->err->len > 0 ? f->err->data : "";
    if (f->output)
        raise_text(r, SANDBOX_COMPILE, "the compiler wrote more than %d KiB",
                   f->limits->output_kib);
    else if (r->signal == 0 && text[0] != 0)
        raise_verdict(r, SANDBOX_COMPILE, error_line(text), strcspn(error_line(text), "\n"));
    else if (d->cpu_killed || r->signal != 0)
        raise_text(r, SANDBOX_COMPILE, "the compiler was ended: more than %d ms of CPU time, or %s",
                   f->limits->cpu_ms, r->signal != 0 ? strsignal(r->signal) : "its own doing");
    else
        raise_text(r, SANDBOX_COMPILE, "the compiler made no executable");
}

// An uncaught exception, by its record. Only what makes matters worse is believed.
static void judge_error(struct sandbox_result *r, const struct sandbox_tests *t,
                        const struct record *e)
{
    enum sandbox_verdict v = SANDBOX_RUNTIME;
    if (e->cause == WIRE_CAUSE_MEMORY)
        v = SANDBOX_MEMORY;
    else if (e->cause == WIRE_CAUSE_ASSERT && t->kind == TESTS_ASSERTS)
        v = SANDBOX_WRONG;
    raise_verdict(r, v, (const char *)e->data, e->len);
}

static bool same_value(const struct sandbox_tests *t, const struct tests_case *c,
                       const struct record *answer)
{
    struct strbuf canon = {0};
    bool nan = false;
    size_t used = 0;
    const bool same = value_canonical(&canon, &nan, &used, answer->data, answer->len) &&
                      used == answer->len && !nan && !c->nan && canon.len == c->canon_len &&
                      memcmp(canon.data, t->bytes.data + c->canon, canon.len) == 0;
    strbuf_free(&canon);
    return same;
}

static void describe_difference(struct sandbox_result *r, const struct sandbox_tests *t,
                                uint32_t call, const struct record *answer)
{
    const struct tests_case *c = &t->cases[call];
    struct strbuf text = {0}, canon = {0};
    bool nan = false;
    size_t used = 0;
    strbuf_printf(&text, "call %u returned ", call + 1);
    if (value_canonical(&canon, &nan, &used, answer->data, answer->len) && used == answer->len)
        value_show(&text, answer->data, answer->len, 80);
    else
        strbuf_puts(&text, "what is not a value");
    strbuf_puts(&text, ", expected ");
    value_show(&text, (const uint8_t *)t->bytes.data + c->want, c->want_len, 80);
    raise_verdict(r, SANDBOX_WRONG, text.data, text.len);
    strbuf_free(&canon);
    strbuf_free(&text);
}

// The record of a call that is next in turn.
static void judge_call(struct sandbox_result *r, const struct sandbox_tests *t,
                       const struct record *e)
{
    struct strbuf text = {0};
    if (e->kind == WIRE_ANSWER && same_value(t, &t->cases[e->call], e)) {
        r->tests_passed++;
    } else if (e->kind == WIRE_ANSWER) {
        describe_difference(r, t, e->call, e);
    } else {
        strbuf_printf(&text, "call %u %s ", e->call + 1,
                      e->kind == WIRE_REFUSED ? "returned" : "raised");
        strbuf_append(&text, e->data, e->len);
        const enum sandbox_verdict raised =
            e->cause == WIRE_CAUSE_MEMORY ? SANDBOX_MEMORY : SANDBOX_RUNTIME;
        raise_verdict(r, e->kind == WIRE_REFUSED ? SANDBOX_WRONG : raised, text.data, text.len);
    }
    strbuf_free(&text);
}

// Returns whether all that the tests wanted to hear was heard.
static bool judge_records(struct sandbox_result *r, const struct sandbox_tests *t,
                          const struct judge_facts *f)
{
    const uint8_t *stream = (const uint8_t *)f->records->data;
    const size_t len = f->records->len;
    size_t at = 0;
    uint32_t calls = 0;
    bool proof = false;
    struct record e;
    while (records_next(&e, &at, stream, len) == 1) {
        const bool is_call =
            e.kind == WIRE_ANSWER || e.kind == WIRE_REFUSED || e.kind == WIRE_RAISED;
        if (is_call && t->kind == TESTS_CALLS && e.call == calls && calls < (uint32_t)t->count) {
            judge_call(r, t, &e);
            calls++;
        } else if (e.kind == WIRE_ERROR) {
            judge_error(r, t, &e);
        } else if (e.kind == WIRE_PROOF && t->kind == TESTS_ASSERTS && e.len == 16 &&
                   memcmp(e.data, f->nonce, 16) == 0) {
            proof = true;
        } else {
            return false; // none of ours
        }
    }
    if (t->kind == TESTS_ASSERTS)
        return proof;
    return t->kind != TESTS_CALLS || calls == (uint32_t)t->count;
}

static void judge_output(struct sandbox_result *r, const struct sandbox_tests *t, int test,
                         const struct judge_facts *f)
{
    const struct tests_case *c = &t->cases[test];
    const char *out = f->out->len > 0 ? f->out->data : "";
    if (!compare_output(c->compare, c->tolerance, out, f->out->len, t->bytes.data + c->want,
                        c->want_len)) {
        raise_text(r, SANDBOX_WRONG, "test %d: the output differs", test + 1);
        return;
    }
    r->tests_passed++;
}

void judge_run(struct sandbox_result *r, const struct sandbox_tests *t, int test,
               const struct judge_facts *f)
{
    const struct wire_done *d = &f->done;
    const enum sandbox_verdict before = r->verdict;
    r->cpu_us += d->cpu_us;
    r->wall_us += f->wall_us;
    r->peak_kib = d->peak_kib > r->peak_kib ? d->peak_kib : r->peak_kib;
    judge_end(r, f);
    const bool ended_well = d->status == 0 && d->hardened && !f->wall && !f->output && !f->starved;
    const bool complete = judge_records(r, t, f);
    if (ended_well && !complete)
        raise_text(r, SANDBOX_INCOMPLETE, "ended before its tests did");
    if (WIFEXITED(d->status) && WEXITSTATUS(d->status) != 0)
        raise_text(r,
                   t->kind == TESTS_ASSERTS && r->verdict == SANDBOX_WRONG ? SANDBOX_WRONG
                                                                           : SANDBOX_RUNTIME,
                   "exit status %d", WEXITSTATUS(d->status));
    if (ended_well && t->kind == TESTS_STDIN)
        judge_output(r, t, test, f);
    if (ended_well && complete && t->kind == TESTS_ASSERTS && r->verdict == SANDBOX_OK)
        r->tests_passed++;
    if (r->verdict != before || test == 0) {
        r->exit_code = WIFEXITED(d->status) ? WEXITSTATUS(d->status) : -1;
        r->signal = WIFSIGNALED(d->status) ? WTERMSIG(d->status) : 0;
    }
}
