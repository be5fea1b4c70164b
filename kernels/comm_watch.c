// SPDX-License-Identifier: Apache-2.0
#include "kernels/comm_watch.h"

#include "base/error.h"
#include "base/mem.h"
#include "kernels/comm_socket.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// Theory of operation. The threads talk in messages of one size over connections between rank 0 and
// each other rank. The first failure that rank 0 learns of is the failure of the run: `fail` keeps
// it and tells everybody. The main thread only counts the collectives that it enters, looks at
// `failed` while it waits in one, and reports its own error when it leaves.
#define MAGIC             0x47726431u
#define BEAT_SECONDS      1.0
#define TICK_MILLISECONDS 200
#define UNSENT_MAX        65536 // bytes that a peer may leave unread before it gets no more beats

enum kind { SAYS_HELLO, SAYS_BEAT, SAYS_FAILED, SAYS_BYE };

struct message {
    uint32_t magic, kind;
    int32_t rank, code;
    uint64_t number; // hello: the token; beat: collectives entered
    char text[1000]; // hello: who it is; failed: why
};

struct peer {
    int fd;              // -1: closed
    bool bye;            // it is done, or has told its error
    double heard;        // when the last message came
    uint64_t entered;    // collectives
    double behind_since; // others have entered more; 0: it is not behind
    char who[128];       // "process 12 on HOST"
    struct message in;   // being received
    size_t have;
};

struct comm_watch {
    int rank, size, num_peers;
    struct peer *peers; // on rank 0 [size], the first unused; else [1], rank 0
    comm_abandon *abandon;
    pthread_t thread;
    atomic_int timeout_ms;
    atomic_ullong entered; // by the main thread
    atomic_int failed;     // 0, or the error code; `text` and the next two are set before it
    atomic_bool root_gone; // rank 0 is done, or dead
    atomic_bool ending;    // the main thread is in comm_watch_close
    atomic_bool stop;
    double failed_at;
    bool root_died;
    char text[1200];
    pthread_mutex_t lock; // guards the choice of the first failure, sending, and closing
};

static void put_message(struct peer *p, const struct message *m)
{
    if (p->fd >= 0 && !comm_send_all(p->fd, m, sizeof *m, comm_clock() + BEAT_SECONDS))
        shutdown(p->fd, SHUT_WR); // seen as its end when it is read from
}

static struct message message_of(const struct comm_watch *w, enum kind kind)
{
    return (struct message){.magic = MAGIC, .kind = kind, .rank = w->rank};
}

// Of several failures the first is kept; rank 0 tells it to all.
static void fail(struct comm_watch *w, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void fail(struct comm_watch *w, int code, const char *fmt, ...)
{
    pthread_mutex_lock(&w->lock);
    if (atomic_load(&w->failed) == 0) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(w->text, sizeof w->text, fmt, ap);
        va_end(ap);
        w->failed_at = comm_clock();
        atomic_store(&w->failed, code);
        struct message m = message_of(w, SAYS_FAILED);
        m.code = code;
        snprintf(m.text, sizeof m.text, "%.999s", w->text);
        for (int r = 1; r < w->num_peers; r++)
            put_message(&w->peers[r], &m);
    }
    pthread_mutex_unlock(&w->lock);
}

// ---- the thread

static void take_message(struct comm_watch *w, int rank, struct peer *p)
{
    p->heard = comm_clock();
    p->in.text[sizeof p->in.text - 1] = '\0';
    switch ((enum kind)p->in.kind) {
    case SAYS_BEAT:
        if (p->in.number != p->entered)
            p->behind_since = 0.0;
        p->entered = p->in.number;
        break;
    case SAYS_FAILED:
        if (w->rank == 0)
            fail(w, p->in.code, "rank %d: %s", rank, p->in.text);
        else
            fail(w, p->in.code, "%s", p->in.text);
        break;
    case SAYS_BYE:
        p->bye = true;
        if (w->rank != 0)
            atomic_store(&w->root_gone, true);
        break;
    case SAYS_HELLO:
        break;
    }
}

static void peer_closed(struct comm_watch *w, int rank, struct peer *p)
{
    pthread_mutex_lock(&w->lock);
    close(p->fd);
    p->fd = -1;
    pthread_mutex_unlock(&w->lock);
    if (!p->bye) {
        w->root_died = w->rank != 0 && atomic_load(&w->failed) == 0;
        fail(w, ERR_ENV, "rank %d (%s) has died", rank, p->who);
    }
    if (w->rank != 0)
        atomic_store(&w->root_gone, true);
}

static void read_peer(struct comm_watch *w, int rank, struct peer *p)
{
    for (;;) {
        const ssize_t n =
            recv(p->fd, (char *)&p->in + p->have, sizeof p->in - p->have, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0 || (p->have + (size_t)n == sizeof p->in && p->in.magic != MAGIC)) {
            peer_closed(w, rank, p);
            return;
        }
        p->have += (size_t)n;
        if (p->have == sizeof p->in) {
            p->have = 0;
            take_message(w, rank, p);
        }
    }
}

static void read_all(struct comm_watch *w, struct pollfd *polled)
{
    for (int i = 0; i < w->num_peers; i++)
        polled[i] = (struct pollfd){.fd = w->peers[i].fd, .events = POLLIN};
    if (poll(polled, (nfds_t)w->num_peers, TICK_MILLISECONDS) <= 0)
        return;
    for (int i = 0; i < w->num_peers; i++)
        if (polled[i].revents != 0 && w->peers[i].fd >= 0)
            read_peer(w, w->rank == 0 ? i : 0, &w->peers[i]);
}

static void beat(struct comm_watch *w)
{
    struct message m = message_of(w, SAYS_BEAT);
    m.number = atomic_load(&w->entered);
    pthread_mutex_lock(&w->lock);
    for (int i = 0; i < w->num_peers; i++) {
        int unsent = 0;
        if (w->peers[i].fd >= 0 && ioctl(w->peers[i].fd, SIOCOUTQ, &unsent) == 0 &&
            unsent < UNSENT_MAX)
            put_message(&w->peers[i], &m);
    }
    pthread_mutex_unlock(&w->lock);
}

// On rank 0: who is behind the others for too long?
static void judge_ranks(struct comm_watch *w, double now, double timeout)
{
    uint64_t most = w->peers[0].entered;
    const uint64_t own = atomic_load(&w->entered);
    if (own != w->peers[0].entered)
        w->peers[0].behind_since = 0.0;
    w->peers[0].entered = own;
    for (int r = 0; r < w->size; r++)
        most = w->peers[r].entered > most ? w->peers[r].entered : most;
    for (int r = 0; r < w->size; r++) {
        struct peer *p = &w->peers[r];
        if (p->entered == most || atomic_load(&w->ending)) {
            p->behind_since = 0.0;
        } else if (p->behind_since <= 0.0) {
            p->behind_since = now;
        } else if (now - p->behind_since > timeout) {
            fail(w, ERR_ENV, "rank %d (%s) has stalled: others have waited for it for %.0f s", r,
                 p->who, timeout);
            return;
        }
    }
}

// Elsewhere: does rank 0's thread still run?
static void judge_root(struct comm_watch *w, double now, double timeout)
{
    const struct peer *root = &w->peers[0];
    if (atomic_load(&w->failed) == 0 && !root->bye && now - root->heard > timeout + 5.0) {
        w->root_died = true;
        fail(w, ERR_ENV, "rank 0 (%s) has stalled: nothing was heard of it for %.0f s", root->who,
             timeout + 5.0);
        atomic_store(&w->root_gone, true);
    }
}

// Whether this rank is to say what went wrong: rank 0, or the next one when that is gone.
static bool reports(const struct comm_watch *w)
{
    return w->rank == 0 || (w->root_died && w->rank == 1);
}

static void *watch_main(void *arg)
{
    struct comm_watch *w = arg;
    struct pollfd *polled = mem_array0((size_t)w->num_peers, sizeof *polled);
    double last_beat = 0.0;
    while (!atomic_load(&w->stop)) {
        read_all(w, polled);
        const double now = comm_clock(), timeout = 1e-3 * atomic_load(&w->timeout_ms);
        if (now - last_beat >= BEAT_SECONDS) {
            beat(w);
            last_beat = now;
        }
        if (w->rank == 0)
            judge_ranks(w, now, timeout);
        else
            judge_root(w, now, timeout);
        const int failed = atomic_load(&w->failed);
        if (failed != 0 && !atomic_load(&w->ending) && now - w->failed_at > COMM_GRACE_SECONDS)
            w->abandon(failed, w->text, reports(w));
    }
    free(polled);
    return NULL;
}

// ---- opening

int comm_watch_listen(int *fd, struct comm_watch_place *place)
{
    place->port = 0;
    if (getrandom(&place->token, sizeof place->token, 0) != sizeof place->token)
        place->token = (uint64_t)(1e9 * comm_clock()) ^ (uint64_t)getpid() << 40;
    return comm_listen(fd, &place->port);
}

static void say_who(char *out, size_t size)
{
    char host[100] = "";
    gethostname(host, sizeof host - 1);
    snprintf(out, size, "process %ld on %.90s", (long)getpid(), host);
}

static struct message hello(const struct comm_watch *w, const struct comm_watch_place *place)
{
    struct message m = message_of(w, SAYS_HELLO);
    m.number = place->token;
    say_who(m.text, sizeof m.text);
    return m;
}

static void greet(struct peer *p, int fd, const struct message *m)
{
    p->fd = fd;
    p->heard = comm_clock();
    snprintf(p->who, sizeof p->who, "%.127s", m->text);
}

// Rank 0: everybody comes and says which rank it is; it is answered.
static int wait_for_ranks(struct comm_watch *w, int listener, const struct comm_watch_place *place,
                          double deadline)
{
    const struct message answer = hello(w, place);
    for (int come = 1; come < w->size;) {
        const int fd = comm_accept(listener, deadline);
        if (fd < 0) {
            int r = 1;
            while (w->peers[r].fd >= 0)
                r++;
            return err_set(ERR_ENV, "%d of %d ranks have come; rank %d has not", come, w->size, r);
        }
        struct message m;
        if (comm_recv_all(fd, &m, sizeof m, comm_clock() + 5.0) && m.magic == MAGIC &&
            m.number == place->token && m.rank > 0 && m.rank < w->size && w->peers[m.rank].fd < 0 &&
            comm_send_all(fd, &answer, sizeof answer, deadline)) {
            m.text[sizeof m.text - 1] = '\0';
            greet(&w->peers[m.rank], fd, &m);
            come++;
        } else {
            close(fd);
        }
    }
    return 0;
}

static int go_to_root(struct comm_watch *w, const struct comm_watch_place *place, double deadline)
{
    struct message m = hello(w, place);
    int fd;
    const int rc = comm_connect(&fd, place->host, place->port, deadline);
    if (rc != 0)
        return rc;
    if (!comm_send_all(fd, &m, sizeof m, deadline) || !comm_recv_all(fd, &m, sizeof m, deadline) ||
        m.magic != MAGIC) {
        close(fd);
        return err_set(ERR_ENV, "rank 0 does not answer at %s, port %d", place->host, place->port);
    }
    m.text[sizeof m.text - 1] = '\0';
    greet(&w->peers[0], fd, &m);
    return 0;
}

static void release(struct comm_watch **w)
{
    for (int i = 0; i < (*w)->num_peers; i++)
        if ((*w)->peers[i].fd >= 0)
            close((*w)->peers[i].fd);
    pthread_mutex_destroy(&(*w)->lock);
    free((*w)->peers);
    free(*w);
    *w = NULL;
}

// Signals are for the main thread.
static int start_thread(struct comm_watch *w)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int fault = pthread_create(&w->thread, NULL, watch_main, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return fault == 0 ? 0 : err_set(ERR_ENV, "the watching thread: %s", strerror(fault));
}

int comm_watch_open(struct comm_watch **out, int rank, int size, int fd,
                    const struct comm_watch_place *place, double seconds, comm_abandon *abandon)
{
    struct comm_watch *w = mem_alloc0(sizeof *w);
    w->rank = rank;
    w->size = size;
    w->num_peers = rank == 0 ? size : 1;
    w->peers = mem_array0((size_t)w->num_peers, sizeof *w->peers);
    for (int i = 0; i < w->num_peers; i++)
        w->peers[i].fd = -1;
    w->abandon = abandon;
    pthread_mutex_init(&w->lock, NULL);
    comm_watch_set_timeout(w, 600.0);
    if (rank == 0)
        say_who(w->peers[0].who, sizeof w->peers[0].who);
    const double deadline = comm_clock() + seconds;
    int rc = rank == 0 ? wait_for_ranks(w, fd, place, deadline) : go_to_root(w, place, deadline);
    if (fd >= 0)
        close(fd);
    if (rc == 0)
        rc = start_thread(w);
    if (rc != 0) {
        release(&w);
        return rc;
    }
    *out = w;
    return 0;
}

// ---- the main thread

void comm_watch_set_timeout(struct comm_watch *w, double seconds)
{
    atomic_store(&w->timeout_ms, (int)(1e3 * seconds));
}

void comm_watch_enter(struct comm_watch *w) { atomic_fetch_add(&w->entered, 1); }

int comm_watch_check(struct comm_watch *w)
{
    const int code = atomic_load(&w->failed);
    return code == 0 ? 0 : err_set(code, "%s", w->text);
}

static void wait_until(const atomic_bool *flag, double deadline)
{
    while (!atomic_load(flag) && comm_clock() < deadline)
        nanosleep(&(struct timespec){.tv_nsec = 5 * 1000 * 1000}, NULL);
}

// Tells rank 0 the error, and lets it be the first to end: it writes how the run ended, and a
// launcher ends all ranks with the first.
static void leave(struct comm_watch *w, int rc, bool common)
{
    struct message m = message_of(w, SAYS_FAILED);
    m.code = rc;
    snprintf(m.text, sizeof m.text, "%.999s", err_message());
    pthread_mutex_lock(&w->lock);
    if (rc != 0 && !common && atomic_load(&w->failed) == 0)
        put_message(&w->peers[0], &m);
    m = message_of(w, SAYS_BYE);
    put_message(&w->peers[0], &m);
    pthread_mutex_unlock(&w->lock);
    if (rc != 0)
        wait_until(&w->root_gone, comm_clock() + COMM_GRACE_SECONDS);
}

static void leave_as_root(struct comm_watch *w, int rc)
{
    if (rc != 0)
        fail(w, rc, "%s", err_message());
    const struct message m = message_of(w, SAYS_BYE);
    pthread_mutex_lock(&w->lock);
    for (int r = 1; r < w->size; r++)
        put_message(&w->peers[r], &m);
    pthread_mutex_unlock(&w->lock);
}

int comm_watch_close(struct comm_watch **watch, int rc, bool common, bool *report)
{
    struct comm_watch *w = *watch;
    if (rc == 0)
        rc = comm_watch_check(w);
    atomic_store(&w->ending, true);
    if (w->rank == 0)
        leave_as_root(w, rc);
    else
        leave(w, rc, common);
    atomic_store(&w->stop, true);
    pthread_join(w->thread, NULL);
    *report = rc != 0 && reports(w);
    const int failed = atomic_load(&w->failed);
    if (rc != 0 && failed != 0)
        rc = failed;
    release(watch);
    return rc;
}
