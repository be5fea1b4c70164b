// SPDX-License-Identifier: Apache-2.0
#include "base/team.h"

#include "base/error.h"
#include "base/mem.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

// Theory of operation. A run has a number. team_run publishes fn and arg by storing a new run
// number (release); a worker that sees it (acquire) calls fn once and takes itself off `pending`;
// the last one ends the run. Both sides poll for some microseconds and then sleep on a condition
// variable. Numbers change under the lock and sleepers look again under it, so that no wake-up is
// lost.
// Pauses of some 20 to 140 cycles: 5 to 45 microseconds, longer than what stands between the
// operations of a step.
#define SPIN_TURNS 1000

struct team {
    int size;
    int spin;    // turns of polling; 0 when there are fewer CPUs than ranks
    int started; // workers that run
    struct worker {
        struct team *team;
        pthread_t thread;
        int rank;
    } * workers; // (size - 1)
    team_fn *fn; // NULL: the workers end
    void *arg;
    atomic_uint run;
    atomic_int pending;
    pthread_mutex_t lock;
    pthread_cond_t begun, ended;
};

static int cpus_usable(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Returns the number of the run after `seen`.
static unsigned wait_begun(struct team *t, unsigned seen)
{
    unsigned run = atomic_load_explicit(&t->run, memory_order_acquire);
    for (int i = 0; run == seen && i < t->spin; i++) {
        pause_briefly();
        run = atomic_load_explicit(&t->run, memory_order_acquire);
    }
    if (run != seen)
        return run;
    pthread_mutex_lock(&t->lock);
    while ((run = atomic_load_explicit(&t->run, memory_order_acquire)) == seen)
        pthread_cond_wait(&t->begun, &t->lock);
    pthread_mutex_unlock(&t->lock);
    return run;
}

static void wait_ended(struct team *t)
{
    for (int i = 0; i < t->spin; i++) {
        if (atomic_load_explicit(&t->pending, memory_order_acquire) == 0)
            return;
        pause_briefly();
    }
    pthread_mutex_lock(&t->lock);
    while (atomic_load_explicit(&t->pending, memory_order_acquire))
        pthread_cond_wait(&t->ended, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

static void *worker_main(void *arg)
{
    const struct worker *w = arg;
    struct team *t = w->team;
    unsigned seen = 0;
    for (;;) {
        seen = wait_begun(t, seen);
        if (!t->fn)
            return NULL;
        t->fn(t->arg, w->rank, t->size);
        if (atomic_fetch_sub_explicit(&t->pending, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&t->lock);
            pthread_cond_signal(&t->ended);
            pthread_mutex_unlock(&t->lock);
        }
    }
}

static void begin(struct team *t, team_fn *fn, void *arg)
{
    t->fn = fn;
    t->arg = arg;
    atomic_store_explicit(&t->pending, t->size - 1, memory_order_relaxed);
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add_explicit(&t->run, 1, memory_order_release);
    pthread_cond_broadcast(&t->begun);
    pthread_mutex_unlock(&t->lock);
}

int team_open(struct team **out, int threads)
{
    assert(threads >= 0);
    const int cpus = cpus_usable();
    struct team *t = mem_alloc0(sizeof *t);
    t->size = threads ? threads : cpus;
    t->spin = t->size <= cpus ? SPIN_TURNS : 0;
    t->workers = mem_array0((size_t)t->size, sizeof *t->workers);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->begun, NULL);
    pthread_cond_init(&t->ended, NULL);

    // Signals are for the thread that opened the team.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int fault = 0;
    while (t->started < t->size - 1 && !fault) {
        struct worker *w = &t->workers[t->started];
        *w = (struct worker){.team = t, .rank = t->started + 1};
        fault = pthread_create(&w->thread, NULL, worker_main, w);
        t->started += !fault;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (fault) {
        err_set(ERR_ENV, "thread %d of %d could not be started: %s", t->started + 1, t->size,
                strerror(fault));
        team_close(&t);
        return ERR_ENV;
    }
    *out = t;
    return 0;
}

void team_close(struct team **team)
{
    if (!team || !*team)
        return;
    struct team *t = *team;
    *team = NULL;
    begin(t, NULL, NULL);
    for (int i = 0; i < t->started; i++)
        pthread_join(t->workers[i].thread, NULL);
    pthread_cond_destroy(&t->ended);
    pthread_cond_destroy(&t->begun);
    pthread_mutex_destroy(&t->lock);
    free(t->workers);
    free(t);
}

int team_size(const struct team *team) { return team ? team->size : 1; }

void team_run(struct team *team, team_fn *fn, void *arg)
{
    if (!team || team->size == 1) {
        fn(arg, 0, 1);
        return;
    }
    begin(team, fn, arg);
    fn(arg, 0, team->size);
    wait_ended(team);
}

void team_share(int n, int grain, int rank, int size, int *begin_at, int *end_at)
{
    assert(n >= 0 && grain > 0 && rank >= 0 && rank < size);
    const long grains = ((long)n + grain - 1) / grain;
    const long from = grains * rank / size * grain, to = grains * (rank + 1) / size * grain;
    *begin_at = (int)(from < n ? from : n);
    *end_at = (int)(to < n ? to : n);
}
