// SPDX-License-Identifier: Apache-2.0
// PID 1 of a box: waits for runs, forks, watches the CPU clock, reaps, sweeps, reports.
// Single-threaded; runs none of a program's code.
#include "sandbox/box.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// Receives one command; fds are -1 where none came. 1 on success, 0 when the supervisor is gone, -1
// when it makes no sense.
static int receive(struct wire_run *run, int fds[WIRE_FDS])
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * WIRE_FDS)];
    } control;
    struct iovec iov = {.iov_base = run, .iov_len = sizeof *run};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof control};
    for (int i = 0; i < WIRE_FDS; i++)
        fds[i] = -1;
    ssize_t n;
    do
        n = recvmsg(WIRE_CONTROL_FD, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return 0;
    const struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
        c->cmsg_len == CMSG_LEN(sizeof(int) * WIRE_FDS))
        memcpy(fds, CMSG_DATA(c), sizeof(int) * WIRE_FDS);
    const bool sound = n == (ssize_t)sizeof *run && (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
    return sound && (run->command == WIRE_KILL || fds[0] >= 0) ? 1 : -1;
}

// -1: it cannot be read.
static int64_t cpu_ns(clockid_t clock)
{
    struct timespec t;
    return clock_gettime(clock, &t) == 0 ? t.tv_sec * 1000000000LL + t.tv_nsec : -1;
}

struct watch {
    pid_t pid;
    int pidfd;
    uint32_t serial;
    int64_t cpu_limit_ns;
    bool cpu_killed;
    bool orphaned; // the supervisor is gone
};

static void watch_kill(struct watch *w) { (void)kill(w->pid, SIGKILL); }

// What the supervisor says meanwhile.
static void watch_command(struct watch *w)
{
    struct wire_run command;
    int fds[WIRE_FDS];
    const int rc = receive(&command, fds);
    w->orphaned = rc <= 0 || command.command != WIRE_KILL;
    if (w->orphaned || command.serial == w->serial)
        watch_kill(w);
}

// Until the process has ended. A process of n threads uses up at most n CPUs, so the CPU clock need
// not be read before remaining / n has passed; after that the remainder is small and is looked at
// again. false: there is no clock, and so no limit.
static bool watch_run(struct watch *w, int cpus)
{
    clockid_t clock;
    if (clock_getcpuclockid(w->pid, &clock) != 0)
        return false;
    for (;;) {
        const int64_t used = cpu_ns(clock), left = w->cpu_limit_ns - used;
        if (used < 0)
            return false;
        if (left <= 0 && !w->cpu_killed) {
            w->cpu_killed = true;
            watch_kill(w);
        }
        const int64_t wait = left / cpus + 1000000;
        const struct timespec timeout = {.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
        struct pollfd p[2] = {{.fd = w->pidfd, .events = POLLIN},
                              {.fd = WIRE_CONTROL_FD, .events = POLLIN}};
        if (w->orphaned)
            p[1].fd = -1;
        const int n = ppoll(p, 2, w->cpu_killed ? NULL : &timeout, NULL);
        if (n > 0 && p[0].revents != 0)
            return true;
        if (n > 0 && p[1].revents != 0)
            watch_command(w);
    }
}

// Nothing but this process may be left in the namespace. Every process in it is a child of this
// one, or a descendant of a child: without a child there is none. Returns how many there were; -1:
// that cannot be told. In a cage the namespace is everybody's, and the filter lets no program start
// another.
static int sweep(const struct box *box)
{
    int found = 0;
    if (!box->jail || getpid() != 1)
        return 0;
    while (waitid(P_ALL, 0, NULL, WEXITED | WNOHANG | WNOWAIT) == 0) {
        (void)kill(-1, SIGKILL);
        found += waitpid(-1, NULL, 0) > 0;
    }
    return errno == ECHILD ? found : -1;
}

// One byte when it was ready, what it failed at when it did not get so far, and both when it could
// not be started all the same.
static void read_ready(int fd, struct wire_done *done)
{
    struct child_failure failure;
    char said[1 + sizeof failure];
    const ssize_t n = read(fd, said, sizeof said);
    done->hardened = n == 1;
    if (n >= (ssize_t)sizeof failure) {
        memcpy(&failure, said + n - sizeof failure, sizeof failure);
        done->failed_step = failure.step;
        done->failed_errno = failure.errnum;
    }
}

static pid_t fork_child(const struct child *child, int ready_read)
{
    const pid_t pid = python_fork();
    if (pid == 0) {
        close(ready_read);
        child_run(child);
    }
    return pid;
}

// What the program needs before it is born.
static bool prepare(struct child *child, int ready[2], struct workdir *workdir)
{
    const struct box *box = child->box;
    if (child->kind >= WIRE_JOB_KINDS || box->filters[child->kind].len == 0 ||
        (box->jail && workdir_prepare(workdir, &child->limits) != 0) ||
        pipe2(ready, O_CLOEXEC) != 0)
        return false;
    child->ready = ready[1];
    child->parent = getpid();
    if (workdir->ruleset > 0 && workdir->kind != child->kind) {
        close(workdir->ruleset);
        workdir->ruleset = 0;
    }
    if (workdir->ruleset == 0)
        workdir->ruleset = files_ruleset(box, child->kind);
    workdir->kind = child->kind;
    child->ruleset = workdir->ruleset;
    return child->ruleset > 0;
}

// One program. *made becomes the executable that it made, if it did. false: the box is not to be
// used any more.
static bool serve_run(const struct wire_run *run, struct child *child, struct workdir *workdir,
                      struct wire_done *done, int *made)
{
    int ready[2];
    if (!prepare(child, ready, workdir))
        return false;
    struct watch w = {.serial = run->serial, .cpu_limit_ns = run->limits.cpu_ms * 1000000LL};
    w.pid = fork_child(child, ready[0]);
    close(ready[1]);
    for (int i = 0; i < WIRE_FDS; i++)
        close(child->fds[i]);
    if (w.pid < 0)
        return false;
    w.pidfd = (int)syscall(SYS_pidfd_open, w.pid, 0);
    if (w.pidfd < 0)
        return false; // the supervisor sees the box end, and with it the program
    struct rusage usage;
    if (!watch_run(&w, child->box->cpus) || wait4(w.pid, &done->status, 0, &usage) != w.pid)
        return false;
    close(w.pidfd);
    read_ready(ready[0], done);
    close(ready[0]);
    const int swept = sweep(child->box);
    if (swept < 0)
        return false;
    if (child->kind == WIRE_JOB_COMPILE && done->hardened && done->status == 0) {
        *made = workdir_take_program((size_t)run->limits.disk_kib * 1024);
        if (*made < 0)
            return false;
    }
    if (workdir_settle(workdir) != 0)
        return false;
    done->serial = run->serial;
    done->cpu_us = (uint32_t)((usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 +
                              usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    done->peak_kib = (uint32_t)usage.ru_maxrss;
    done->cpu_killed = w.cpu_killed;
    done->swept = swept > 255 ? 255 : (uint8_t)swept;
    return !w.orphaned;
}

// fd: -1, or what goes along.
static bool report(const struct wire_done *done, int fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof fd)];
    } control = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)done, .iov_len = sizeof *done};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof control.bytes;
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    return sendmsg(WIRE_CONTROL_FD, &msg, MSG_NOSIGNAL) == (ssize_t)sizeof *done;
}

// What was freed is put together and sorted by size now, once: else the first large allocation of
// every program does it, and writes to half of the heap's pages. The sorting is done by an
// allocation, of less than malloc maps afresh; volatile, since compilers leave out what is freed
// unused.
static void settle_heap(void)
{
    (void)malloc_trim(0);
    void *volatile large = malloc(100000);
    free(large);
}

int zygote_serve(const struct box *box)
{
    struct workdir workdir = {0};
    settle_heap();
    for (;;) {
        struct wire_run run;
        struct child child = {.box = box};
        const int rc = receive(&run, child.fds);
        if (rc <= 0)
            return rc == 0 ? 0 : 1;
        if (run.command == WIRE_KILL) // of a run that has ended meanwhile
            continue;
        child.kind = run.kind;
        child.compiler = run.compiler;
        child.limits = run.limits;
        struct wire_done done = {0};
        int made = -1;
        const bool sound = serve_run(&run, &child, &workdir, &done, &made) && report(&done, made);
        if (made >= 0)
            close(made);
        if (!sound)
            return 1;
    }
}
