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
#include "sandbox/judge.h"
#include "sandbox/language.h"
#include "sandbox/locate.h"
#include "sandbox/slot.h"
#include "sandbox/work.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { STARTS_MAX = 3, START_S = 60, EVENTS = 64, HELLO_SIZE = 256 };

struct station { // a slot, and what the supervisor knows about it
    struct slot slot;
    enum sandbox_language language;
    struct work *work;
    bool watched; // what its program writes is read as it comes
    int starts_failed;
};

// First in, first out.
struct queue {
    struct work *first, **end;
};

struct sandbox {
    struct sandbox_options options;
    enum sandbox_tier tier; // that slots are started in; the supervisor's own once there are slots
    char *box_path;
    int epoll, wake;
    pthread_t thread;
    struct station *stations; // [languages][slots], the supervisor's own
    struct work_known known;  // likewise
    int available;            // an eventfd that counts the works in `done`

    pthread_mutex_t lock; // guards all below
    pthread_cond_t changed;
    struct queue waiting[SANDBOX_LANGUAGES], done;
    char missing[SANDBOX_LANGUAGES][HELLO_SIZE]; // why a language cannot be run here; empty: it can
    struct sandbox_counts counts;
    uint64_t last_id, wanted; // wanted: by the last who began to wait
    int collectors;           // who wait
    int ready;                // slots that have been ready once
    bool closing;
    bool broken; // a slot cannot be started: everything fails with `reason`
    char reason[HELLO_SIZE];
};

static void queue_put(struct queue *q, struct work *w)
{
    w->next = NULL;
    *q->end = w;
    q->end = &w->next;
}

static void queue_put_first(struct queue *q, struct work *w)
{
    w->next = q->first;
    q->first = w;
    if (w->next == NULL)
        q->end = &w->next;
}

// The work at *at, which is a link of the queue.
static struct work *queue_take(struct queue *q, struct work **at)
{
    struct work *w = *at;
    if (w == NULL)
        return NULL;
    *at = w->next;
    if (w->next == NULL)
        q->end = at;
    return w;
}

static void queue_free(struct queue *q)
{
    struct work *w;
    while ((w = queue_take(q, &q->first)) != NULL)
        work_free(w);
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
// Seconds after which a program that still runs is read from as it writes.
#define WATCH_AFTER_S 3e-3

// events: EPOLLIN, and what else epoll is to be told.
static int watch(struct sandbox *sb, int fd, uint32_t events, uint64_t topic)
{
    struct epoll_event e = {.events = events, .data.u64 = topic};
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
    int rc = slot_start(&st->slot, sb->box_path, sb->tier, languages[st->language].name);
    if (rc == 0)
        rc = watch(sb, st->slot.control, EPOLLIN, topic_of(sb, st, TOPIC_CONTROL));
    return rc;
}

static void count_up(int eventfd)
{
    const uint64_t one = 1;
    (void)!write(eventfd, &one, sizeof one);
}

// With the lock held.
static void work_done(struct sandbox *sb, struct work *w)
{
    queue_put(&sb->done, w);
    sb->counts.verdicts[w->result.verdict]++;
    sb->counts.weak += w->result.weak;
    count_up(sb->available);
    if (sb->collectors > 1 || sb->wanted == w->id)
        pthread_cond_broadcast(&sb->changed);
}

static void declare_broken(struct sandbox *sb, const char *reason)
{
    pthread_mutex_lock(&sb->lock);
    if (!sb->broken) {
        sb->broken = true;
        strncpy(sb->reason, reason, sizeof sb->reason - 1);
        count_up(sb->available); // so that who polls learns of it
    }
    pthread_cond_broadcast(&sb->changed);
    pthread_mutex_unlock(&sb->lock);
}

// A language besides Python may be missing without anything else being amiss. What waits for it is
// told so.
static void declare_missing(struct sandbox *sb, enum sandbox_language language, const char *reason)
{
    struct work *w;
    pthread_mutex_lock(&sb->lock);
    snprintf(sb->missing[language], sizeof sb->missing[language], "%s", reason);
    while ((w = queue_take(&sb->waiting[language], &sb->waiting[language].first)) != NULL) {
        judge_internal(&w->result, "%s cannot be run here: %s", languages[language].name, reason);
        work_done(sb, w);
    }
    pthread_mutex_unlock(&sb->lock);
}

// The work of a station whose box is gone: tried again, or given up.
static void give_back(struct sandbox *sb, struct work *w, const char *why)
{
    pthread_mutex_lock(&sb->lock);
    if (++w->tries < WORK_TRIES_MAX) {
        queue_put_first(&sb->waiting[w->language], w);
    } else {
        judge_internal(&w->result, "%s", why);
        work_done(sb, w);
    }
    pthread_mutex_unlock(&sb->lock);
}

// Whether a box that could not be built is to be built once more, of the tier below.
static bool lower_tier(struct sandbox *sb, const struct station *st)
{
    if (st->slot.tier != SANDBOX_JAIL || sb->options.tier != SANDBOX_CAGE ||
        st->language != SANDBOX_PYTHON || sb->ready > 0)
        return false;
    sb->tier = SANDBOX_CAGE;
    return true;
}

// The box is gone or cannot be trusted.
static void station_replace(struct sandbox *sb, struct station *st, const char *why)
{
    const bool was_starting = st->slot.state == SLOT_STARTING;
    struct work *w = st->work;
    st->work = NULL;
    slot_stop(&st->slot);
    if (w != NULL)
        give_back(sb, w, why);
    if (was_starting && st->language != SANDBOX_PYTHON) {
        declare_missing(sb, st->language, why);
        return;
    }
    const bool lower = was_starting && lower_tier(sb, st);
    st->starts_failed += was_starting && !lower;
    if (st->starts_failed >= STARTS_MAX || (was_starting && !sb->ready && !lower))
        declare_broken(sb, why);
    else if (station_start(sb, st) != 0)
        declare_broken(sb, err_message());
}

// Hands the next program of st->work over.
static void station_begin(struct sandbox *sb, struct station *st)
{
    struct slot_program program;
    struct asserts_room room = {0};
    work_next(st->work, &program, &room, &sb->known);
    const int rc = slot_begin(&st->slot, &program);
    asserts_room_free(&room);
    st->watched = false;
    if (rc != 0)
        station_replace(sb, st, err_message());
}

// Most programs end in no time and write less than a pipe holds. Only of those that do not the
// streams are waited for. A process that another thread has forked holds them until it executes
// something, and so long epoll knows them after they were closed here: of what nobody reads any
// more it says once at most that it has ended (EPOLLET; slot_read reads all there is), and of a
// slot that is not watched nothing is read.
static void station_watch(struct sandbox *sb, struct station *st)
{
    int rc = 0;
    st->watched = true;
    for (int i = 0; i < SLOT_STREAMS && rc == 0; i++)
        rc = watch(sb, st->slot.fds[i], EPOLLIN | EPOLLET, topic_of(sb, st, i));
    if (rc != 0)
        station_replace(sb, st, err_message());
}

static void station_done(struct sandbox *sb, struct station *st, const struct wire_done *done)
{
    struct slot *s = &st->slot;
    struct work *w = st->work;
    slot_finish(s);
    const bool more = work_ended(w, s, done, &sb->known, (size_t)sb->options.keep_output);
    // Anything out of the ordinary, and enough runs, retire a box. A compiler that was killed
    // leaves its children behind.
    const bool retire = (done->swept > 0 && s->kind != WIRE_JOB_COMPILE) || !done->hardened ||
                        s->runs >= sb->options.retire_runs;
    if (retire || !more) {
        pthread_mutex_lock(&sb->lock);
        if (more)
            queue_put_first(&sb->waiting[w->language], w);
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
    else if (st->watched)
        slot_read(&st->slot, (enum slot_stream)what);
}

// A slot of the language that can take a program; NULL: one is started, if none is starting yet.
static struct station *find_idle(struct sandbox *sb, enum sandbox_language language)
{
    struct station *of = &sb->stations[language * sb->options.slots], *down = NULL;
    bool starting = false;
    for (int i = 0; i < sb->options.slots; i++) {
        if (of[i].slot.state == SLOT_IDLE)
            return &of[i];
        starting = starting || of[i].slot.state == SLOT_STARTING;
        if (of[i].slot.state == SLOT_DOWN)
            down = &of[i];
    }
    if (!starting && down != NULL && station_start(sb, down) != 0)
        declare_missing(sb, language, err_message());
    return NULL;
}

// The work that waits longest for a slot that is idle; NULL: there is none.
static struct work *next_work(struct sandbox *sb, struct station **st)
{
    struct queue *oldest = NULL;
    struct station *idle[SANDBOX_LANGUAGES] = {NULL};
    bool waits[SANDBOX_LANGUAGES];
    pthread_mutex_lock(&sb->lock);
    for (int i = 0; i < SANDBOX_LANGUAGES; i++)
        waits[i] = sb->waiting[i].first != NULL;
    pthread_mutex_unlock(&sb->lock);
    for (int i = 0; i < SANDBOX_LANGUAGES; i++)
        idle[i] = waits[i] ? find_idle(sb, (enum sandbox_language)i) : NULL;
    pthread_mutex_lock(&sb->lock);
    for (int i = 0; i < SANDBOX_LANGUAGES; i++) {
        struct queue *q = &sb->waiting[i];
        if (idle[i] != NULL && q->first != NULL &&
            (oldest == NULL || q->first->id < oldest->first->id)) {
            oldest = q;
            *st = idle[i];
        }
    }
    struct work *w = oldest != NULL ? queue_take(oldest, &oldest->first) : NULL;
    pthread_mutex_unlock(&sb->lock);
    return w;
}

// Gives waiting jobs to idle slots, in order, and to no more than may be busy at once.
static void assign(struct sandbox *sb)
{
    int busy = 0;
    for (int i = 0; i < SANDBOX_LANGUAGES * sb->options.slots; i++)
        busy += sb->stations[i].work != NULL;
    struct station *st = NULL;
    struct work *w;
    while (busy++ < sb->options.slots && (w = next_work(sb, &st)) != NULL) {
        st->work = w;
        station_begin(sb, st);
    }
}

// When the station is to be looked at, whatever happens; INFINITY: never.
static double deadline_of(const struct station *st)
{
    const struct slot *s = &st->slot;
    if (s->state == SLOT_STARTING)
        return s->started + START_S;
    if (s->state != SLOT_BUSY)
        return (double)INFINITY;
    const double end = s->kill_deadline > 0 ? s->kill_deadline : s->wall_deadline;
    return st->watched ? end : fmin(end, s->started + WATCH_AFTER_S);
}

// Milliseconds from now until the next deadline, -1: there is none.
static int wait_ms(const struct sandbox *sb, double now)
{
    double next = (double)INFINITY;
    for (int i = 0; i < SANDBOX_LANGUAGES * sb->options.slots; i++)
        next = fmin(next, deadline_of(&sb->stations[i]));
    return isinf(next) ? -1 : (int)ceil(fmax(0, next - now) * 1e3);
}

// Ends what had run out of time by `now`: a moment before the last look at what the boxes say, so
// that what ended in time is not taken for late because this thread was.
static void end_overdue(struct sandbox *sb, double now)
{
    for (int i = 0; i < SANDBOX_LANGUAGES * sb->options.slots; i++) {
        struct station *st = &sb->stations[i];
        struct slot *s = &st->slot;
        if (now < deadline_of(st))
            continue;
        if (s->state == SLOT_STARTING)
            station_replace(sb, st, "gradus-box does not start");
        else if (!st->watched)
            station_watch(sb, st);
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
    for (int i = 0; i < SANDBOX_LANGUAGES * sb->options.slots; i++) {
        slot_free(&sb->stations[i].slot);
        if (sb->stations[i].work != NULL)
            work_free(sb->stations[i].work);
    }
    free(sb->stations);
    for (int i = 0; i < SANDBOX_LANGUAGES; i++)
        queue_free(&sb->waiting[i]);
    queue_free(&sb->done);
    asserts_cache_free(&sb->known.asserts);
    executables_free(&sb->known.executables);
    const int fds[] = {sb->epoll, sb->wake, sb->available};
    for (int i = 0; i < 3; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    pthread_cond_destroy(&sb->changed);
    pthread_mutex_destroy(&sb->lock);
    free(sb->box_path);
    free(sb);
}

// Python's; those of other languages are started when a program of theirs comes.
static int start_slots(struct sandbox *sb)
{
    sb->epoll = epoll_create1(EPOLL_CLOEXEC);
    sb->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sb->available = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
    if (sb->epoll < 0 || sb->wake < 0 || sb->available < 0)
        return err_set(ERR_ENV, "sandbox: epoll: %s", strerror(errno));
    int rc = watch(sb, sb->wake, EPOLLIN, WAKE);
    for (int i = 0; i < sb->options.slots && rc == 0; i++)
        rc = station_start(sb, &sb->stations[SANDBOX_PYTHON * sb->options.slots + i]);
    return rc == 0 ? start_thread(sb) : rc;
}

static struct sandbox *sandbox_new(const struct sandbox_options *options)
{
    struct sandbox *sb = mem_alloc0(sizeof *sb);
    if (options != NULL)
        sb->options = *options;
    struct sandbox_options *o = &sb->options;
    o->slots = o->slots > 0 ? o->slots : cpus_of_process();
    o->retire_runs = o->retire_runs > 0 ? o->retire_runs : 1000;
    o->keep_output = o->keep_output > 0 ? o->keep_output : 4096;
    sb->tier = SANDBOX_JAIL;
    sb->epoll = sb->wake = sb->available = -1;
    sb->done.end = &sb->done.first;
    sb->stations = mem_array0((size_t)o->slots * SANDBOX_LANGUAGES, sizeof *sb->stations);
    for (int i = 0; i < SANDBOX_LANGUAGES; i++) {
        sb->waiting[i].end = &sb->waiting[i].first;
        for (int k = 0; k < o->slots; k++)
            sb->stations[i * o->slots + k].language = (enum sandbox_language)i;
    }
    pthread_mutex_init(&sb->lock, NULL);
    pthread_cond_init(&sb->changed, NULL);
    return sb;
}

int sandbox_open(struct sandbox **out, const struct sandbox_options *options)
{
    struct sandbox *sb = sandbox_new(options);
    int rc = locate_box(&sb->box_path, sb->options.box_path);
    if (rc == 0)
        rc = start_slots(sb);
    if (rc != 0) {
        sandbox_release(sb);
        return rc;
    }
    pthread_mutex_lock(&sb->lock);
    while (sb->ready < sb->options.slots && !sb->broken)
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
    count_up(sb->wake);
    pthread_join(sb->thread, NULL);
    sandbox_release(sb);
    *p = NULL;
}

int sandbox_slots(const struct sandbox *sb) { return sb->options.slots; }

enum sandbox_tier sandbox_tier_of(const struct sandbox *sb) { return sb->tier; }

void sandbox_count(struct sandbox_counts *out, struct sandbox *sb)
{
    pthread_mutex_lock(&sb->lock);
    *out = sb->counts;
    pthread_mutex_unlock(&sb->lock);
}

int sandbox_submit(struct sandbox *sb, const struct sandbox_job *job, uint64_t *id)
{
    bool judged = false;
    struct work *w = work_new(job, &judged);
    pthread_mutex_lock(&sb->lock);
    w->id = ++sb->last_id;
    *id = w->id;
    if (!judged && sb->missing[w->language][0] != 0) {
        judge_internal(&w->result, "%s cannot be run here: %s", languages[w->language].name,
                       sb->missing[w->language]);
        judged = true;
    }
    if (judged)
        work_done(sb, w);
    else
        queue_put(&sb->waiting[w->language], w);
    pthread_mutex_unlock(&sb->lock);
    count_up(sb->wake);
    return 0;
}

// With the lock held: the work of that id (0: any) if it is done.
static struct work *take_done(struct sandbox *sb, uint64_t id)
{
    uint64_t one;
    struct work **at = &sb->done.first;
    while (*at != NULL && id != 0 && (*at)->id != id)
        at = &(*at)->next;
    struct work *w = queue_take(&sb->done, at);
    if (w != NULL)
        (void)!read(sb->available, &one, sizeof one);
    return w;
}

static void hand_out(struct work *w, uint64_t *id, struct sandbox_result *out)
{
    *id = w->id;
    *out = w->result;
    w->result = (struct sandbox_result){0};
    work_free(w);
}

int sandbox_collect(struct sandbox *sb, uint64_t id, struct sandbox_result *out)
{
    pthread_mutex_lock(&sb->lock);
    struct work *w;
    sb->collectors++;
    while ((w = take_done(sb, id)) == NULL && !sb->broken) {
        sb->wanted = id;
        pthread_cond_wait(&sb->changed, &sb->lock);
    }
    if (--sb->collectors > 0) // one of them is the last to wait now
        pthread_cond_broadcast(&sb->changed);
    pthread_mutex_unlock(&sb->lock);
    if (w == NULL)
        return locate_refuse(sb->reason);
    hand_out(w, &id, out);
    return 0;
}

int sandbox_poll_fd(const struct sandbox *sb) { return sb->available; }

int sandbox_reap(struct sandbox *sb, uint64_t *id, struct sandbox_result *out, int timeout_ms)
{
    const double give_up = slot_clock() + timeout_ms * 1e-3;
    for (;;) {
        pthread_mutex_lock(&sb->lock);
        struct work *w = take_done(sb, 0);
        const bool broken = sb->broken;
        pthread_mutex_unlock(&sb->lock);
        if (w != NULL) {
            hand_out(w, id, out);
            return 1;
        }
        if (broken)
            return locate_refuse(sb->reason);
        const double left = timeout_ms < 0 ? -1 : ceil((give_up - slot_clock()) * 1e3);
        if (timeout_ms >= 0 && left <= 0)
            return 0;
        struct pollfd p = {.fd = sb->available, .events = POLLIN};
        (void)poll(&p, 1, (int)left); // another thread may take what was there
    }
}

int sandbox_run_batch(struct sandbox *sb, const struct sandbox_job *jobs, int n,
                      struct sandbox_result *results)
{
    uint64_t *ids = mem_array0((size_t)n, sizeof *ids);
    int rc = 0;
    for (int i = 0; i < n; i++) {
        results[i] = (struct sandbox_result){0};
        (void)sandbox_submit(sb, &jobs[i], &ids[i]); // queues; what fails is told by collect
    }
    // The last one first: when it is done most are, and need not be waited for one by one.
    for (int i = 0; i < n && rc == 0; i++) {
        const int k = (i + n - 1) % n;
        rc = sandbox_collect(sb, ids[k], &results[k]);
    }
    for (int i = 0; i < n && rc != 0; i++)
        sandbox_result_clear(&results[i]);
    free(ids);
    return rc;
}
