// SPDX-License-Identifier: Apache-2.0
// A fork of the zygote, between its birth and the program's first instruction: the steps of the
// table, in its order.
#include "sandbox/box.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// Where the descriptors of a run end up. RULES and READY are closed before the program starts, and
// an executable gets none but the first three.
enum { FD_JOB = 3, FD_RECORDS = 4, FD_READY = 5, FD_RULES = 6, FD_PARKED = 32 };
// Address space of a small executable with its libraries.
enum { EXECUTABLE_KIB = 8192 };

static bool is_executable(const struct child *c)
{
    return c->kind == WIRE_JOB_COMPILE || c->kind == WIRE_JOB_EXECUTE;
}

// What it sends to its group reaches nobody else. Not a session: the box's has no terminal, only a
// leader could get it one, and every new one costs a group of the scheduler.
static int own_group(const struct child *c)
{
    (void)c;
    return setpgid(0, 0);
}

// Nothing outlives the zygote. In a jail it is the end of the namespace as well.
static int die_with_parent(const struct child *c)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        return -1;
    errno = ESRCH;
    return !c->box->jail && getppid() != c->parent ? -1 : 0;
}

// First out of the way of the numbers 0..6, then to their places.
static int place_descriptors(const struct child *c)
{
    const int from[] = {c->fds[WIRE_FD_STDIN],
                        c->fds[WIRE_FD_STDOUT],
                        c->fds[WIRE_FD_STDERR],
                        c->fds[WIRE_FD_JOB],
                        c->fds[WIRE_FD_RECORDS],
                        c->ready,
                        c->ruleset};
    enum { N = sizeof from / sizeof *from };
    int parked[N];
    for (int i = 0; i < N; i++) {
        parked[i] = fcntl(from[i], F_DUPFD, FD_PARKED);
        if (parked[i] < 0)
            return -1;
    }
    for (int i = 0; i < N; i++) {
        if ((i < FD_JOB ? dup2(parked[i], i) : dup3(parked[i], i, O_CLOEXEC)) != i)
            return -1;
    }
    return close_range(FD_RULES + 1, ~0u, 0);
}

static int enter_workdir(const struct child *c)
{
    umask(077);
    return chdir(c->box->jail ? BOX_WORKDIR : "/");
}

// Where the system has a stricter limit than the one that is wanted, that stays.
static int lower_limit(int resource, const struct rlimit *want)
{
    struct rlimit now;
    if (errno != EPERM || getrlimit(resource, &now) != 0 || now.rlim_max >= want->rlim_max)
        return -1;
    now.rlim_cur = want->rlim_cur < now.rlim_max ? want->rlim_cur : now.rlim_max;
    return setrlimit(resource, &now);
}

static int limit_resources(const struct child *c)
{
    const rlim_t kib = 1024;
    const rlim_t cpu_s = (c->limits.cpu_ms + 999) / 1000;
    const rlim_t memory =
        ((is_executable(c) ? EXECUTABLE_KIB : c->box->base_kib) + c->limits.memory_kib) * kib;
    // The size of a thread's stack, too, for an executable.
    const rlim_t stack = (rlim_t)(is_executable(c) ? 8 : 64) << 20;
    // Of the user in this namespace: the launcher, the zygote and this process too. In a cage that
    // root started a box has a user to itself; in another, the user's other processes would count,
    // and memory alone bounds the threads.
    const rlim_t tasks = c->box->own_user ? c->limits.threads + 3 : RLIM_INFINITY;
    const struct {
        int resource;
        rlim_t soft, hard;
    } limits[] = {
        {RLIMIT_CPU, cpu_s + 1, cpu_s + 2}, // behind the zygote's own clock, should that fail
        {RLIMIT_AS, memory, memory},
        {RLIMIT_FSIZE, c->limits.disk_kib * kib, c->limits.disk_kib * kib},
        {RLIMIT_NOFILE, 64, 64},
        {RLIMIT_NPROC, tasks, tasks},
        {RLIMIT_STACK, stack, stack},
        {RLIMIT_CORE, 0, 0},
        {RLIMIT_MEMLOCK, 0, 0},
        {RLIMIT_MSGQUEUE, 0, 0},
        {RLIMIT_SIGPENDING, 64, 64},
        {RLIMIT_NICE, 0, 0},
        {RLIMIT_RTPRIO, 0, 0},
    };
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        const struct rlimit want = {limits[i].soft, limits[i].hard};
        if (setrlimit(limits[i].resource, &want) != 0 &&
            lower_limit(limits[i].resource, &want) != 0)
            return -1;
    }
    return 0;
}

static int default_signals(const struct child *c)
{
    (void)c;
    // As Python itself sets them: writing to a closed pipe or past a limit is an error, not a
    // signal.
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    sigset_t none;
    sigemptyset(&none);
    return sigprocmask(SIG_SETMASK, &none, NULL);
}

static int no_new_privileges(const struct child *c)
{
    (void)c;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static int drop_capabilities(const struct child *c)
{
    // What is neither permitted nor inheritable leaves the ambient set as well.
    (void)c;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct none[2] = {{0}};
    return (int)syscall(SYS_capset, &header, none);
}

static int restrict_files(const struct child *c)
{
    (void)c;
    return files_restrict(FD_RULES) != 0 ? -1 : close(FD_RULES);
}

static int filter_system_calls(const struct child *c)
{
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0u, &c->box->filters[c->kind]);
}

static const struct {
    const char *name; // for readers; the supervisor names a failed step by its number
    int (*run)(const struct child *c);
} steps[] = {
    {"own process group", own_group},
    {"death with the parent", die_with_parent},
    {"standard streams in place, all other descriptors closed", place_descriptors},
    {"working directory", enter_workdir},
    {"resource limits", limit_resources},
    {"default signals", default_signals},
    {"no new privileges", no_new_privileges},
    {"no capabilities", drop_capabilities},
    {"files and signals", restrict_files},
    {"system call filter", filter_system_calls},
};

enum { NUM_STEPS = sizeof steps / sizeof *steps };

_Noreturn static void give_up(int fd, int step)
{
    const struct child_failure failure = {.step = (uint8_t)step, .errnum = errno};
    // Before or after the descriptors were placed, whichever is open.
    if (write(fd, &failure, sizeof failure) < 0)
        (void)!write(FD_READY, &failure, sizeof failure);
    _exit(1);
}

_Noreturn void child_run(const struct child *child)
{
    for (int i = 0; i < NUM_STEPS; i++) {
        if (steps[i].run(child) != 0)
            give_up(child->ready, i);
    }
    if (write(FD_READY, "R", 1) != 1)
        _exit(1);
    if (child->kind == WIRE_JOB_COMPILE)
        compiler_exec(child->compiler);
    else if (child->kind == WIRE_JOB_EXECUTE)
        program_exec(FD_JOB);
    if (is_executable(child))
        give_up(FD_READY, NUM_STEPS);
    close(FD_READY);
    _exit(program_run(FD_JOB, FD_RECORDS));
}
