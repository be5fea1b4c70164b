// SPDX-License-Identifier: Apache-2.0
// Exchanges over sockets: a connection between every two ranks. For launchers that only say who
// and where one is (torchrun, srun).
#include "kernels/comm_transport.h"

#include "base/error.h"
#include "base/mem.h"
#include "kernels/comm_socket.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAGIC 0x47726432u

// Theory of operation. Every rank r > 0 listens on a port of its own, connects to rank 0 and says
// which it is. Rank 0, which sees from where each came, then tells everybody where everybody
// listens; rank r connects to ranks 1 .. r - 1 and waits for the ranks after it.
struct introduction {
    uint32_t magic;
    int32_t rank, size, port;
};

struct place {
    char host[64]; // a numeric address
    int32_t port;
};

struct progress { // of an exchange with one rank
    size_t sent, received;
};

struct tcp_state {
    int *fds; // [size]; -1 for the rank itself
    struct pollfd *polled;
    struct progress *progress;
};

static int open_failed(const struct comm *c, const char *what)
{
    return err_set(ERR_ENV, "rank %d of %d: %s", c->rank, c->size, what);
}

// Accepts the connections of ranks that are still missing in (first, size).
static int accept_ranks(struct comm *c, int listener, int first, struct place *places,
                        double deadline)
{
    struct tcp_state *s = c->state;
    for (int missing = c->size - 1 - first; missing > 0;) {
        const int fd = comm_accept(listener, deadline);
        if (fd < 0) {
            int r = first + 1;
            while (s->fds[r] >= 0)
                r++;
            return err_set(ERR_ENV, "%d of %d ranks have not come in time, rank %d is one of them",
                           missing, c->size, r);
        }
        struct introduction i;
        if (!comm_recv_all(fd, &i, sizeof i, comm_clock() + 5.0) || i.magic != MAGIC ||
            i.size != c->size || i.rank <= first || i.rank >= c->size || s->fds[i.rank] >= 0) {
            close(fd);
            continue;
        }
        s->fds[i.rank] = fd;
        missing--;
        if (places != NULL) {
            struct sockaddr_storage from;
            socklen_t len = sizeof from;
            places[i.rank].port = i.port;
            if (getpeername(fd, (struct sockaddr *)&from, &len) != 0 ||
                getnameinfo((struct sockaddr *)&from, len, places[i.rank].host,
                            sizeof places[i.rank].host, NULL, 0, NI_NUMERICHOST) != 0)
                return open_failed(c, "cannot tell from where a rank came");
        }
    }
    return 0;
}

static int open_root(struct comm *c, const struct comm_launch *l, double deadline)
{
    struct tcp_state *s = c->state;
    struct place *places = mem_array0((size_t)c->size, sizeof *places);
    int port = l->port, listener;
    int rc = comm_listen(&listener, &port);
    if (rc == 0) {
        rc = accept_ranks(c, listener, 0, places, deadline);
        close(listener);
    }
    for (int r = 1; r < c->size && rc == 0; r++)
        if (!comm_send_all(s->fds[r], places, (size_t)c->size * sizeof *places, deadline))
            rc = open_failed(c, "a rank went away while the ranks were joined");
    free(places);
    return rc;
}

static int introduce(struct comm *c, int to, const char *host, int port, int own_port,
                     double deadline)
{
    struct tcp_state *s = c->state;
    const struct introduction i = {MAGIC, c->rank, c->size, own_port};
    const int rc = comm_connect(&s->fds[to], host, port, deadline);
    if (rc == 0 && !comm_send_all(s->fds[to], &i, sizeof i, deadline))
        return open_failed(c, "a rank went away while the ranks were joined");
    return rc;
}

static int open_other(struct comm *c, const struct comm_launch *l, double deadline)
{
    struct tcp_state *s = c->state;
    struct place *places = mem_array0((size_t)c->size, sizeof *places);
    int own_port = 0, listener;
    int rc = comm_listen(&listener, &own_port);
    if (rc != 0) {
        free(places);
        return rc;
    }
    rc = introduce(c, 0, l->address, l->port, own_port, deadline);
    if (rc == 0 && !comm_recv_all(s->fds[0], places, (size_t)c->size * sizeof *places, deadline))
        rc = open_failed(c, "rank 0 did not wait for all ranks, or the port is another program's");
    for (int r = 1; r < c->rank && rc == 0; r++)
        rc = introduce(c, r, places[r].host, places[r].port, own_port, deadline);
    if (rc == 0)
        rc = accept_ranks(c, listener, c->rank, NULL, deadline);
    close(listener);
    free(places);
    return rc;
}

static void close_tcp(struct comm *c, bool orderly)
{
    (void)orderly;
    struct tcp_state *s = c->state;
    for (int r = 0; r < c->size; r++)
        if (s->fds[r] >= 0)
            close(s->fds[r]);
    free(s->fds);
    free(s->polled);
    free(s->progress);
    free(s);
}

// ---- exchange

// A connection that closed: the watch soon knows why.
static int connection_lost(struct comm *c, int rank)
{
    const double deadline = comm_clock() + 3.0;
    while (comm_clock() < deadline) {
        const int failed = comm_check(c);
        if (failed != 0)
            return failed;
        usleep(20 * 1000);
    }
    return err_set(ERR_ENV, "the connection with rank %d was lost", rank);
}

// Sends and receives what goes at once; false: the connection is lost.
static bool move(int fd, const struct comm_part *part, struct progress *p)
{
    while (p->sent < part->send_bytes) {
        const ssize_t n = send(fd, (const char *)part->send + p->sent, part->send_bytes - p->sent,
                               MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n < 0)
            return false;
        p->sent += (size_t)n;
    }
    while (p->received < part->recv_bytes) {
        const ssize_t n = recv(fd, (char *)part->recv + p->received, part->recv_bytes - p->received,
                               MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n <= 0)
            return false;
        p->received += (size_t)n;
    }
    return true;
}

static int exchange(struct comm *c, const struct comm_part *parts)
{
    struct tcp_state *s = c->state;
    memset(s->progress, 0, (size_t)c->size * sizeof *s->progress);
    for (;;) {
        int open = 0;
        for (int r = 0; r < c->size; r++) {
            s->polled[r] = (struct pollfd){.fd = -1};
            if (r == c->rank)
                continue;
            if (!move(s->fds[r], &parts[r], &s->progress[r]))
                return connection_lost(c, r);
            short events = 0;
            events |= s->progress[r].sent < parts[r].send_bytes ? POLLOUT : 0;
            events |= s->progress[r].received < parts[r].recv_bytes ? POLLIN : 0;
            if (events != 0) {
                s->polled[r] = (struct pollfd){.fd = s->fds[r], .events = events};
                open++;
            }
        }
        if (open == 0)
            return 0;
        poll(s->polled, (nfds_t)c->size, 50);
        const int failed = comm_check(c);
        if (failed != 0)
            return failed;
    }
}

static const struct comm_transport transport = {"sockets", exchange, close_tcp};

int comm_open_tcp(struct comm *out, const struct comm_launch *l)
{
    struct comm c = {.rank = l->rank,
                     .size = l->size,
                     .local_rank = l->local_rank,
                     .local_size = l->local_size,
                     .transport = &transport};
    struct tcp_state *s = mem_alloc0(sizeof *s);
    s->fds = mem_array0((size_t)c.size, sizeof *s->fds);
    s->polled = mem_array0((size_t)c.size, sizeof *s->polled);
    s->progress = mem_array0((size_t)c.size, sizeof *s->progress);
    for (int r = 0; r < c.size; r++)
        s->fds[r] = -1;
    c.state = s;
    const double deadline = comm_clock() + (l->open_timeout > 0.0 ? l->open_timeout : 60.0);
    const int rc = c.rank == 0 ? open_root(&c, l, deadline) : open_other(&c, l, deadline);
    if (rc != 0) {
        close_tcp(&c, false);
        return rc;
    }
    *out = c;
    return 0;
}
