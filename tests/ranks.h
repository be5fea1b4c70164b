// SPDX-License-Identifier: Apache-2.0
// Ranks for tests: processes that are forked, run a function and exchange over sockets. What a rank
// finds wrong it prints, and counts.
#ifndef TESTS_RANKS_H
#define TESTS_RANKS_H

#include "base/error.h"
#include "kernels/comm.h"

#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RANKS_MAX = 8 };

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "# rank %d, %s:%d: not so: %s (last message: %s)\n", c->rank,          \
                    __FILE__, __LINE__, #condition, err_message());                                \
            faults++;                                                                              \
        }                                                                                          \
    } while (0)

// What a rank does with an open comm; it closes it. Returns the number of faults.
typedef int rank_fn(struct comm *c, void *arg);

static inline int unused_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    int port = 0;
    if (bind(fd, (struct sockaddr *)&at, len) == 0 &&
        getsockname(fd, (struct sockaddr *)&at, &len) == 0)
        port = ntohs(at.sin_port);
    close(fd);
    return port;
}

static inline void abandon_rank(int code, const char *message, bool report)
{
    (void)message, (void)report;
    _exit(-code);
}

static inline int run_rank(int rank, int size, int port, rank_fn *fn, void *arg)
{
    const struct comm_launch launch = {.rank = rank,
                                       .size = size,
                                       .local_rank = rank,
                                       .local_size = size,
                                       .address = "127.0.0.1",
                                       .port = port,
                                       .open_timeout = 30.0,
                                       .abandon = abandon_rank};
    struct comm comm = {0}, *c = &comm;
    int faults = 0;
    CHECK(comm_open(c, &launch) == 0);
    return faults > 0 ? faults : fn(c, arg);
}

// Runs `size` ranks at once, of which rank `lost` (-1: none) ends in some other way, and is killed
// when all others are done. Returns the faults of all others.
static inline int run_ranks(int size, int lost, rank_fn *fn, void *arg)
{
    pid_t pids[RANKS_MAX];
    const int port = unused_port();
    int faults = 0, status;
    fflush(NULL);
    for (int r = 0; r < size; r++) {
        pids[r] = fork();
        if (pids[r] == 0)
            _exit(run_rank(r, size, port, fn, arg));
    }
    for (int r = 0; r < size; r++) {
        if (r == lost)
            continue;
        waitpid(pids[r], &status, 0);
        if (!WIFEXITED(status)) {
            fprintf(stderr, "# rank %d ended by signal %d\n", r, WTERMSIG(status));
            faults++;
        } else {
            faults += WEXITSTATUS(status);
        }
    }
    if (lost >= 0) {
        kill(pids[lost], SIGKILL);
        waitpid(pids[lost], &status, 0);
    }
    return faults;
}

#endif
