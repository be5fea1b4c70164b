// SPDX-License-Identifier: Apache-2.0
// Theory of operation. Callers queue jobs; one thread, the supervisor, owns the slots and waits in
// one epoll for: news of callers (an eventfd), messages of boxes, and what programs write. Whenever
// a slot is idle and a job waits, the job's next program is handed over: the program itself, once a
// stdin test; before that, for assert source that was never seen, the program that rewrites it.
// When the box reports that the program's process was reaped, the judge adds it to the job's
// result. A box that dies, or does not answer, is replaced, and its job tried once more in another.
#include "sandbox/sandbox.h"

#include "base/error.h"
#include "base/mem.h"
#include "sandbox/asserts.h"
#include "sandbox/judge.h"
#include "sandbox/locate.h"
#include "sandbox/slot.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STARTS_MAX = 3, TRIES_MAX = 2, START_S = 60, EVENTS = 64, HELLO_SIZE = 256 };
#define SOURCE_MAX ((size_t)16 << 20)

struct work {
    struct work *next;
    uint64_t id;
    char *source;
    size_t source_len;
    const struct sandbox_tests *given,
        *tests; // tests: those that run, `given` or what it was rewritten as
    struct sandbox_limits limits;
    bool run_all;
    bool started, splitting, done;
    int test;  // the next stdin test
    int tries; // of the program that runs now
    struct sandbox_result result;
};

struct station { // a slot, and what the supervisor knows about it
    struct slot slot;
    struct work *work;
    int starts_failed;
};

struct sandbox {
    struct sandbox_options options;
    char *box_path;
    int epoll, wake;
    pthread_t thread;
    struct station *stations; // [slots], the supervisor's own
    struct asserts_cache cache;

    pthread_mutex_t lock; // guards all below, and the `next` and `done` of works
    pthread_cond_t changed;
    struct work *waiting, **waiting_end; // a queue, in order
    struct work *taken;                  // handed to slots or done, in no order
    uint64_t last_id;
    int ready; // slots that have been ready once
    bool closing;
    bool broken; // a slot cannot be started: everything fails with `reason`
    char reason[HELLO_SIZE];
};

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

static void work_free(struct work *w)
{
    sandbox_result_clear(&w->result);
    free(w->source);
    free(w);
}

void sandbox_result_clear(struct sandbox_result *r)
{
    free(r->out);
    free(r->err);
    *r = (struct sandbox_result){0};
}

// Events carry the index of a station and what of it is ready; the eventfd carries WAKE.
enum { TOPIC_CONTROL = SLOT_STREAMS, TOPICS = SLOT_STREAMS + 1 };
#define WAKE UINT64_MAX

static int watch(struct sandbox *sb, int fd, uint64_t topic)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = topic};
    return epoll_ctl(sb->epoll, EPOLL_CTL_ADD, fd, &e) == 0
               ? 0
               : err_set(ERR_ENV, "sandbox: epoll: %s", strerror(errno));
}

static uint64_t topic_of(const struct sandbox *sb, const struct station *st, int topic)
{
    return (uint64_t)(st - sb->stations) * TOPICS + (uint64_t)topic;
}

static int station_start(struct sandbox *sb, struct station *st)
{
    int rc = slot_start(&st->slot, sb->box_path);
    if (rc == 0)
        rc = watch(sb, st->slot.control, topic_of(sb, st, TOPIC_CONTROL));
    return rc;
}

// With the lock held.
static void work_done(struct sandbox *sb, struct work *w)
{
    w->done = true;
    pthread_cond_broadcast(&sb->changed);
}

static void requeue(struct sandbox *sb, struct work *w)
{
    for (struct work **p = &sb->taken; *p != NULL; p = &(*p)->next) {
        if (*p == w) {
            *p = w->next;
            break;
        }
    }
    w->next = sb->waiting; // it was first once
    sb->waiting = w;
    if (w->next == NULL)
        sb->waiting_end = &w->next;
}

static void declare_broken(struct sandbox *sb, const char *reason)
{
    pthread_mutex_lock(&sb->lock);
    if (!sb->broken) {
        sb->broken = true;
        strncpy(sb->reason, reason, sizeof sb->reason - 1);
    }
    pthread_cond_broadcast(&sb->changed);
    pthread_mutex_unlock(&sb->lock);
}

// The box is gone or cannot be trusted. Its job is tried again, or given up.
static void station_replace(struct sandbox *sb, struct station *st, const char *why)
{
    const bool was_starting = st->slot.state == SLOT_STARTING;
    struct work *w = st->work;
    st->work = NULL;
    slot_stop(&st->slot);
    if (w != NULL) {
        pthread_mutex_lock(&sb->lock);
        if (++w->tries < TRIES_MAX) {
            requeue(sb, w);
        } else {
            judge_internal(&w->result, "%s", why);
            work_done(sb, w);
        }
        pthread_mutex_unlock(&sb->lock);
    }
    st->starts_failed += was_starting;
    if (st->starts_failed >= STARTS_MAX || (was_starting && !sb->ready))
        declare_broken(sb, why);
    else if (station_start(sb, st) != 0)
        declare_broken(sb, err_message());
}

// The program that the work needs next. room holds what it points to.
static void next_program(struct sandbox *sb, struct work *w, struct slot_program *p,
                         struct asserts_room *room)
{
    const struct sandbox_tests *split = NULL;
    if (!w->started && w->given->kind == TESTS_ASSERTS) {
        w->splitting = !asserts_cache_get(&sb->cache, &w->given->check, &split);
        if (w->splitting) {
            asserts_program(p, room, w->given->check.data, w->given->check.len);
            return;
        }
    }
    if (!w->started) {
        w->started = true;
        w->tests = split != NULL ? split : w->given;
        judge_begin(&w->result, w->tests);
    }
    static const enum wire_kind kinds[] = {[TESTS_RUN] = WIRE_JOB_RUN,
                                           [TESTS_STDIN] = WIRE_JOB_RUN,
                                           [TESTS_CALLS] = WIRE_JOB_CALLS,
                                           [TESTS_ASSERTS] = WIRE_JOB_ASSERTS};
    const struct sandbox_tests *t = w->tests;
    *p = (struct slot_program){
        .kind = kinds[t->kind],
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

// Hands the next program of st->work over.
static void station_begin(struct sandbox *sb, struct station *st)
{
    struct slot_program program;
    struct asserts_room room = {0};
    next_program(sb, st->work, &program, &room);
    int rc = slot_begin(&st->slot, &program);
    asserts_room_free(&room);
    for (int i = 0; i < SLOT_STREAMS && rc == 0; i++)
        rc = watch(sb, st->slot.fds[i], topic_of(sb, st, i));
    if (rc != 0)
        station_replace(sb, st, err_message());
}

static char *head_of(const struct strbuf *b, size_t max, size_t *len)
{
    *len = b->len < max ? b->len : max;
    return mem_strndup(b->len > 0 ? b->data : "", *len);
}

// What came of rewriting the asserts of st->work. Returns whether the work goes on. That they
// cannot be rewritten is a finding, to be kept; that the rewriting was cut short is none, and must
// not make tests weak.
static bool station_split(struct sandbox *sb, struct station *st, const struct wire_done *done)
{
    struct work *w = st->work;
    const struct slot *s = &st->slot;
    w->splitting = false;
    const bool cut_short = s->wall || s->starved || !done->hardened ||
                           (WIFSIGNALED(done->status) && !done->cpu_killed && !s->output);
    if (cut_short && ++w->tries >= TRIES_MAX) {
        judge_internal(&w->result, "its tests could not be read: the machine is too busy");
        w->result.exit_code = -1;
        return false;
    }
    if (cut_short)
        return true;
    w->tries = 0;
    asserts_cache_put(&sb->cache, &w->given->check,
                      done->status == 0 ? asserts_read(&s->got[SLOT_RECORDS]) : NULL);
    return true;
}

// The process of st->work that just ended, judged. Returns whether the work goes on.
static bool station_judge(struct sandbox *sb, struct station *st, const struct wire_done *done)
{
    struct work *w = st->work;
    const struct slot *s = &st->slot;
    if (w->splitting)
        return station_split(sb, st, done);
    const struct judge_facts facts = {
        .done = *done,
        .wall = s->wall,
        .output = s->output,
        .starved = s->starved,
        .wall_us = (uint32_t)((slot_clock() - s->started) * 1e6),
        .out = &s->got[SLOT_OUT],
        .records = &s->got[SLOT_RECORDS],
        .nonce = s->nonce,
        .limits = &w->limits,
    };
    const enum sandbox_verdict before = w->result.verdict;
    judge_run(&w->result, w->tests, w->test, &facts);
    if (w->result.verdict != before || w->result.out == NULL) {
        free(w->result.out);
        free(w->result.err);
        w->result.out =
            head_of(&s->got[SLOT_OUT], (size_t)sb->options.keep_output, &w->result.out_len);
        w->result.err =
            head_of(&s->got[SLOT_ERR], (size_t)sb->options.keep_output, &w->result.err_len);
    }
    w->test++;
    w->tries = 0;
    const bool more = w->tests->kind == TESTS_STDIN && w->test < w->tests->count;
    return more && (w->run_all || w->result.verdict == SANDBOX_OK) &&
           w->result.verdict != SANDBOX_INTERNAL;
}

static void station_done(struct sandbox *sb, struct station *st, const struct wire_done *done)
{
    struct slot *s = &st->slot;
    slot_finish(s);
    const bool more = station_judge(sb, st, done);
    // Anything out of the ordinary, and enough runs, retire a box.
    const bool retire = done->swept > 0 || !done->hardened || s->runs >= sb->options.retire_runs;
    struct work *w = st->work;
    if (retire || !more) {
        pthread_mutex_lock(&sb->lock);
        if (more)
            requeue(sb, w);
        else
            work_done(sb, w);
        pthread_mutex_unlock(&sb->lock);
        st->work = NULL;
    }
    if (retire)
        station_replace(sb, st, "the box was retired");
    else if (more)
        station_begin(sb, st);
}

static void station_control(struct sandbox *sb, struct station *st)
{
    struct wire_done done;
    char text[HELLO_SIZE];
    switch (slot_receive(&st->slot, &done, text)) {
    case 1:
        station_done(sb, st, &done);
        break;
    case 2:
        st->starts_failed = 0;
        pthread_mutex_lock(&sb->lock);
        sb->ready++;
        pthread_cond_broadcast(&sb->changed);
        pthread_mutex_unlock(&sb->lock);
        break;
    case -1:
        station_replace(sb, st, text);
        break;
    default:
        break;
    }
}

static void handle(struct sandbox *sb, uint64_t topic)
{
    struct station *st = &sb->stations[topic / TOPICS];
    const int what = (int)(topic % TOPICS);
    if (st->slot.state == SLOT_DOWN)
        return;
    if (what == TOPIC_CONTROL)
        station_control(sb, st);
    else
        slot_read(&st->slot, (enum slot_stream)what);
}

// Gives waiting jobs to idle slots, in order.
static void assign(struct sandbox *sb)
{
    for (int i = 0; i < sb->options.slots; i++) {
        struct station *st = &sb->stations[i];
        if (st->slot.state != SLOT_IDLE)
            continue;
        pthread_mutex_lock(&sb->lock);
        struct work *w = sb->waiting;
        if (w != NULL) {
            sb->waiting = w->next;
            if (sb->waiting == NULL)
                sb->waiting_end = &sb->waiting;
            w->next = sb->taken;
            sb->taken = w;
        }
        pthread_mutex_unlock(&sb->lock);
        if (w == NULL)
            return;
        st->work = w;
        station_begin(sb, st);
    }
}

// When the slot is to be looked at, whatever happens; INFINITY: never.
static double deadline_of(const struct slot *s)
{
    if (s->state == SLOT_STARTING)
        return s->started + START_S;
    if (s->state != SLOT_BUSY)
        return (double)INFINITY;
    return s->kill_deadline > 0 ? s->kill_deadline : s->wall_deadline;
}

// Milliseconds from now until the next deadline, -1: there is none.
static int wait_ms(const struct sandbox *sb, double now)
{
    double next = (double)INFINITY;
    for (int i = 0; i < sb->options.slots; i++)
        next = fmin(next, deadline_of(&sb->stations[i].slot));
    return isinf(next) ? -1 : (int)ceil(fmax(0, next - now) * 1e3);
}

// Ends what had run out of time by `now`: a moment before the last look at what the boxes say, so
// that what ended in time is not taken for late because this thread was.
static void end_overdue(struct sandbox *sb, double now)
{
    for (int i = 0; i < sb->options.slots; i++) {
        struct station *st = &sb->stations[i];
        struct slot *s = &st->slot;
        if (now < deadline_of(s))
            continue;
        if (s->state == SLOT_STARTING)
            station_replace(sb, st, "gradus-box does not start");
        else if (s->kill_deadline > 0)
            station_replace(sb, st, "a program could not be ended");
        else
            slot_overdue(s, now);
    }
}

static void *supervise(void *arg)
{
    struct sandbox *sb = arg;
    struct epoll_event events[EVENTS];
    for (;;) {
        assign(sb);
        const double now = slot_clock();
        const int n = epoll_wait(sb->epoll, events, EVENTS, wait_ms(sb, now));
        for (int i = 0; i < n; i++) {
            uint64_t count;
            if (events[i].data.u64 == WAKE)
                (void)!read(sb->wake, &count, sizeof count);
            else
                handle(sb, events[i].data.u64);
        }
        if (n < EVENTS)
            end_overdue(sb, now);
        pthread_mutex_lock(&sb->lock);
        const bool end = sb->closing || sb->broken;
        pthread_mutex_unlock(&sb->lock);
        if (end)
            return NULL;
    }
}

static void wake(struct sandbox *sb)
{
    const uint64_t one = 1;
    (void)!write(sb->wake, &one, sizeof one);
}

static int start_thread(struct sandbox *sb)
{
    // Signals are the main program's; this thread takes none.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int rc = pthread_create(&sb->thread, NULL, supervise, sb);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc == 0 ? 0 : err_set(ERR_ENV, "sandbox: starting a thread: %s", strerror(rc));
}

static int cpus_of_process(void)
{
    cpu_set_t set;
    const int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n > 0 ? n : 1;
}

static void sandbox_release(struct sandbox *sb)
{
    for (int i = 0; i < sb->options.slots; i++)
        slot_free(&sb->stations[i].slot);
    free(sb->stations);
    for (struct work *w = sb->waiting, *next; w != NULL; w = next) {
        next = w->next;
        work_free(w);
    }
    for (struct work *w = sb->taken, *next; w != NULL; w = next) {
        next = w->next;
        work_free(w);
    }
    asserts_cache_free(&sb->cache);
    if (sb->epoll >= 0)
        close(sb->epoll);
    if (sb->wake >= 0)
        close(sb->wake);
    pthread_cond_destroy(&sb->changed);
    pthread_mutex_destroy(&sb->lock);
    free(sb->box_path);
    free(sb);
}

static int start_slots(struct sandbox *sb)
{
    sb->epoll = epoll_create1(EPOLL_CLOEXEC);
    sb->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (sb->epoll < 0 || sb->wake < 0)
        return err_set(ERR_ENV, "sandbox: epoll: %s", strerror(errno));
    int rc = watch(sb, sb->wake, WAKE);
    for (int i = 0; i < sb->options.slots && rc == 0; i++)
        rc = station_start(sb, &sb->stations[i]);
    return rc == 0 ? start_thread(sb) : rc;
}

int sandbox_open(struct sandbox **out, const struct sandbox_options *options)
{
    struct sandbox *sb = mem_alloc0(sizeof *sb);
    if (options != NULL)
        sb->options = *options;
    struct sandbox_options *o = &sb->options;
    o->slots = o->slots > 0 ? o->slots : cpus_of_process();
    o->retire_runs = o->retire_runs > 0 ? o->retire_runs : 1000;
    o->keep_output = o->keep_output > 0 ? o->keep_output : 4096;
    sb->epoll = sb->wake = -1;
    sb->waiting_end = &sb->waiting;
    sb->stations = mem_array0((size_t)o->slots, sizeof *sb->stations);
    pthread_mutex_init(&sb->lock, NULL);
    pthread_cond_init(&sb->changed, NULL);
    int rc = locate_box(&sb->box_path, o->box_path);
    if (rc == 0)
        rc = start_slots(sb);
    if (rc != 0) {
        sandbox_release(sb);
        return rc;
    }
    pthread_mutex_lock(&sb->lock);
    while (sb->ready < o->slots && !sb->broken)
        pthread_cond_wait(&sb->changed, &sb->lock);
    const bool broken = sb->broken;
    pthread_mutex_unlock(&sb->lock);
    if (broken) {
        rc = locate_refuse(sb->reason);
        sandbox_close(&sb);
        return rc;
    }
    *out = sb;
    return 0;
}

void sandbox_close(struct sandbox **p)
{
    struct sandbox *sb = p != NULL ? *p : NULL;
    if (sb == NULL)
        return;
    pthread_mutex_lock(&sb->lock);
    sb->closing = true;
    pthread_mutex_unlock(&sb->lock);
    wake(sb);
    pthread_join(sb->thread, NULL);
    sandbox_release(sb);
    *p = NULL;
}

int sandbox_slots(const struct sandbox *sb) { return sb->options.slots; }

// Why a job cannot be run at all; NULL: it can.
static const char *job_fault(const struct sandbox_job *job)
{
    if (job->tests == NULL || (job->tests->count == 0 && job->tests->kind != TESTS_RUN))
        return "there are no tests";
    return job->source_len > SOURCE_MAX ? "the program is longer than 16 MiB" : NULL;
}

int sandbox_submit(struct sandbox *sb, const struct sandbox_job *job, uint64_t *id)
{
    struct work *w = mem_alloc0(sizeof *w);
    const char *fault = job_fault(job);
    w->given = job->tests;
    w->limits = limits_fill(job->limits);
    w->run_all = job->run_all;
    if (fault == NULL) {
        w->source_len = job->source_len;
        w->source = mem_alloc(job->source_len + 1);
        memcpy(w->source, job->source, job->source_len);
    } else {
        w->result.exit_code = -1;
        judge_internal(&w->result, "%s", fault);
        w->done = true;
    }
    pthread_mutex_lock(&sb->lock);
    w->id = ++sb->last_id;
    *id = w->id;
    if (w->done) {
        w->next = sb->taken;
        sb->taken = w;
    } else {
        *sb->waiting_end = w;
        sb->waiting_end = &w->next;
    }
    pthread_mutex_unlock(&sb->lock);
    wake(sb);
    return 0;
}

// With the lock held: the work of that id taken off its list when it is done.
static struct work *take_done(struct sandbox *sb, uint64_t id)
{
    for (struct work **p = &sb->taken; *p != NULL; p = &(*p)->next) {
        struct work *w = *p;
        if (w->id == id && w->done) {
            *p = w->next;
            return w;
        }
    }
    return NULL;
}

int sandbox_collect(struct sandbox *sb, uint64_t id, struct sandbox_result *out)
{
    pthread_mutex_lock(&sb->lock);
    struct work *w;
    while ((w = take_done(sb, id)) == NULL && !sb->broken)
        pthread_cond_wait(&sb->changed, &sb->lock);
    pthread_mutex_unlock(&sb->lock);
    if (w == NULL)
        return locate_refuse(sb->reason);
    *out = w->result;
    w->result = (struct sandbox_result){0};
    work_free(w);
    return 0;
}

int sandbox_run_batch(struct sandbox *sb, const struct sandbox_job *jobs, int n,
                      struct sandbox_result *results)
{
    uint64_t *ids = mem_array0((size_t)n, sizeof *ids);
    int rc = 0, done = 0;
    for (int i = 0; i < n; i++)
        (void)sandbox_submit(sb, &jobs[i], &ids[i]); // queues; what fails is told by collect
    for (; done < n && rc == 0; done++)
        rc = sandbox_collect(sb, ids[done], &results[done]);
    for (int i = 0; i < done && rc != 0; i++)
        sandbox_result_clear(&results[i]);
    free(ids);
    return rc;
}
