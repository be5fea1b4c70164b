// SPDX-License-Identifier: Apache-2.0
#include "kernels/comm_socket.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

double comm_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int milliseconds_to(double deadline)
{
    const double left = 1e3 * (deadline - comm_clock());
    return left <= 0.0 ? 0 : left > 1e6 ? 1000000 : (int)left + 1;
}

// Small messages are not held back.
static void tune(int fd)
{
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

int comm_listen(int *out, int *port)
{
    const int on = 1, off = 0;
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)*port)};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)*port)};
    struct sockaddr *at = (struct sockaddr *)&six;
    socklen_t len = sizeof six;
    if (fd >= 0) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    } else { // a system without IPv6
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        at = (struct sockaddr *)&four;
        len = sizeof four;
    }
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, at, len) != 0 || listen(fd, SOMAXCONN) != 0 ||
        getsockname(fd, at, &len) != 0) {
        const int rc = err_set(ERR_ENV, "port %d for the other ranks: %s", *port, strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    *port = ntohs(at->sa_family == AF_INET6 ? six.sin6_port : four.sin_port);
    *out = fd;
    return 0;
}

static int connect_once(const struct addrinfo *a, double deadline)
{
    const int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    int fault = connect(fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
    if (fault == EINPROGRESS) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        socklen_t len = sizeof fault;
        if (poll(&p, 1, milliseconds_to(deadline)) != 1 ||
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &fault, &len) != 0)
            fault = ETIMEDOUT;
    }
    if (fault != 0) {
        close(fd);
        errno = fault;
        return -1;
    }
    tune(fd);
    return fd;
}

int comm_connect(int *out, const char *host, int port, double deadline)
{
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    const struct addrinfo want = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    const int unknown = getaddrinfo(host, service, &want, &found);
    if (unknown != 0)
        return err_set(ERR_ENV, "rank 0's machine '%s': %s", host, gai_strerror(unknown));
    int fd = -1, fault = 0;
    do {
        for (const struct addrinfo *a = found; a != NULL && fd < 0; a = a->ai_next)
            fd = connect_once(a, deadline);
        fault = errno;
        if (fd < 0) // rank 0 may not listen yet
            nanosleep(&(struct timespec){.tv_nsec = 50 * 1000 * 1000}, NULL);
    } while (fd < 0 && comm_clock() < deadline);
    freeaddrinfo(found);
    if (fd < 0)
        return err_set(ERR_ENV, "no connection to %s, port %d: %s", host, port, strerror(fault));
    *out = fd;
    return 0;
}

int comm_accept(int fd, double deadline)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, milliseconds_to(deadline)) != 1)
        return -1;
    const int got = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (got >= 0)
        tune(got);
    return got;
}

static bool wait_for(int fd, short events, double deadline)
{
    struct pollfd p = {.fd = fd, .events = events};
    int n;
    do
        n = poll(&p, 1, milliseconds_to(deadline));
    while (n < 0 && errno == EINTR);
    return n == 1;
}

bool comm_send_all(int fd, const void *data, size_t len, double deadline)
{
    const char *at = data;
    while (len > 0) {
        const ssize_t n = send(fd, at, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            at += n;
            len -= (size_t)n;
        } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
            return false;
        } else if (!wait_for(fd, POLLOUT, deadline)) {
            return false;
        }
    }
    return true;
}

bool comm_recv_all(int fd, void *data, size_t len, double deadline)
{
    char *at = data;
    while (len > 0) {
        const ssize_t n = recv(fd, at, len, MSG_DONTWAIT);
        if (n > 0) {
            at += n;
            len -= (size_t)n;
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            return false;
        } else if (!wait_for(fd, POLLIN, deadline)) {
            return false;
        }
    }
    return true;
}
