// SPDX-License-Identifier: Apache-2.0
// The launcher of gradus-box. It stays outside the namespaces' process tree as the parent of their
// PID 1, so that whoever started the box has an ordinary child to wait for; it holds nothing and
// does nothing else.
#include "sandbox/box.h"

#include "sandbox/box_seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OUTER_NOBODY = 65534, INNER_USER = 1000 };
// Users of cages that root starts: each box its own, so that the kernel counts its threads apart.
enum { CAGE_USERS = 60000, CAGE_USERS_NUM = 5000 };

static const struct box_language languages[] = {
    {WIRE_PYTHON, false, python_warm, root_bind_python},
    {WIRE_C, true, compiler_find, root_bind_compiler},
};
enum { NUM_LANGUAGES = sizeof languages / sizeof *languages };

int box_fail(struct wire_hello *hello, const char *fmt, ...)
{
    hello->errnum = errno;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(hello->text, sizeof hello->text, fmt, ap);
    va_end(ap);
    return -1;
}

static int write_file(const char *path, const char *text)
{
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    const ssize_t n = write(fd, text, strlen(text));
    const int saved = errno;
    close(fd);
    errno = saved;
    return n == (ssize_t)strlen(text) ? 0 : -1;
}

// Root outside would be root to every file that is not hidden: a box that is started by root gives
// that up before anything else.
static int become_nobody(struct wire_hello *hello, struct box *box)
{
    const unsigned user =
        box->jail ? OUTER_NOBODY : CAGE_USERS + (unsigned)getpid() % CAGE_USERS_NUM;
    if (geteuid() == 0 || getuid() == 0) {
        if (setgroups(0, NULL) != 0 || setresgid(user, user, user) != 0 ||
            setresuid(user, user, user) != 0)
            return box_fail(hello, "switching from root to user %u", user);
        box->own_user = true;
    }
    box->own_user = box->own_user || box->jail;
    // Changing users hides /proc/self, where the maps are to be written.
    if (prctl(PR_SET_DUMPABLE, 1) != 0)
        return box_fail(hello, "prctl(PR_SET_DUMPABLE)");
    return 0;
}

static int make_namespaces(struct wire_hello *hello)
{
    char map[64];
    const unsigned uid = getuid(), gid = getgid();
    if (unshare(CLONE_NEWUSER) != 0)
        return box_fail(hello, "making a user namespace");
    snprintf(map, sizeof map, "%d %u 1", INNER_USER, uid);
    if (write_file("/proc/self/uid_map", map) != 0)
        return box_fail(hello, "writing /proc/self/uid_map");
    if (write_file("/proc/self/setgroups", "deny") != 0)
        return box_fail(hello, "writing /proc/self/setgroups");
    snprintf(map, sizeof map, "%d %u 1", INNER_USER, gid);
    if (write_file("/proc/self/gid_map", map) != 0)
        return box_fail(hello, "writing /proc/self/gid_map");
    if (unshare(CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS |
                CLONE_NEWCGROUP) != 0)
        return box_fail(hello, "making pid, net, mount, ipc, uts and cgroup namespaces");
    if (sethostname("box", 3) != 0)
        return box_fail(hello, "sethostname");
    return 0;
}

// Before the interpreter starts, which takes its copy then.
static int clean_environment(struct wire_hello *hello, const struct box *box)
{
    if (clearenv() != 0 || setenv("PATH", "/usr/bin", 1) != 0 ||
        setenv("LANG", "C.UTF-8", 1) != 0 || setenv("HOME", box->jail ? BOX_WORKDIR : "/", 1) != 0)
        return box_fail(hello, "setenv");
    return 0;
}

// Address space of this process in KiB, the first number of statm.
static size_t address_space_kib(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long pages = 0;
    if (f == NULL || fscanf(f, "%lu", &pages) != 1)
        pages = 0;
    if (f != NULL)
        fclose(f);
    return pages * ((size_t)sysconf(_SC_PAGESIZE) / 1024);
}

// Of this process, for the supervisor to compare with its own.
static int note_namespaces(struct wire_hello *hello)
{
    static const char *const names[WIRE_NAMESPACES_NUM] = WIRE_NAMESPACES;
    for (int i = 0; i < WIRE_NAMESPACES_NUM; i++) {
        char path[64];
        struct stat st;
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        if (stat(path, &st) != 0)
            return box_fail(hello, "finding %s", path);
        hello->namespaces[i] = st.st_ino;
    }
    return 0;
}

static void say(const struct wire_hello *hello)
{
    (void)send(WIRE_CONTROL_FD, hello, sizeof *hello, MSG_NOSIGNAL);
}

static const struct box_language *find_language(const char *name)
{
    for (int i = 0; i < NUM_LANGUAGES; i++) {
        if (strcmp(name, languages[i].name) == 0)
            return &languages[i];
    }
    return NULL;
}

static int filter_fault(struct wire_hello *hello, int rc)
{
    errno = -rc;
    return box_fail(hello, "making the system call filter");
}

static int build_filter(struct wire_hello *hello, struct box *box, enum wire_kind kind,
                        enum policy_who who, int (*build)(struct sock_fprog *, enum policy_who))
{
    const int rc = build(&box->filters[kind], who);
    return rc == 0 ? 0 : filter_fault(hello, rc);
}

// The base of what programs may do holds from here on for this process too.
static int filter_itself(struct wire_hello *hello, enum policy_who who)
{
    struct sock_fprog base;
    const int rc = filter_build_base(&base, who);
    if (rc != 0)
        return filter_fault(hello, rc);
    const bool filtered = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
                          syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0u, &base) == 0;
    free(base.filter);
    return filtered ? 0 : box_fail(hello, "filtering system calls");
}

static int build_filters(struct wire_hello *hello, struct box *box)
{
    if (box->language->needs_jail)
        return build_filter(hello, box, WIRE_JOB_COMPILE, POLICY_COMPILER, filter_build) != 0 ||
                       build_filter(hello, box, WIRE_JOB_EXECUTE, POLICY_PROGRAM, filter_build) != 0
                   ? -1
                   : 0;
    const enum policy_who who = box->jail ? POLICY_PYTHON : POLICY_CAGE;
    if (build_filter(hello, box, WIRE_JOB_RUN, who, filter_build_rest) != 0)
        return -1;
    box->filters[WIRE_JOB_CALLS] = box->filters[WIRE_JOB_ASSERTS] = box->filters[WIRE_JOB_RUN];
    return filter_itself(hello, who);
}

static int enter_jail(struct wire_hello *hello, struct box *box)
{
    // The second lock on nested user namespaces, where a kernel's attack surface is largest; the
    // filter is the first.
    if (write_file("/proc/sys/user/max_user_namespaces", "0") != 0)
        return box_fail(hello, "writing /proc/sys/user/max_user_namespaces");
    return note_namespaces(hello) != 0 || root_enter(hello, box) != 0 ? -1 : 0;
}

// PID 1 of the namespaces.
static int run_init(struct wire_hello *hello, struct box *box)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        return box_fail(hello, "prctl(PR_SET_PDEATHSIG)");
    if (box->language->warm(hello) != 0)
        return -1;
    box->base_kib = address_space_kib();
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) != 0)
        return box_fail(hello, "sched_getaffinity");
    box->cpus = CPU_COUNT(&cpus);
    if (box->base_kib == 0)
        return box_fail(hello, "reading /proc/self/statm");
    if (files_prepare(hello, box) != 0 || python_note_objects(hello, box) != 0 ||
        (box->jail && enter_jail(hello, box) != 0) || build_filters(hello, box) != 0)
        return -1;
    hello->ok = 1;
    say(hello);
    return zygote_serve(box);
}

static int start(struct wire_hello *hello, struct box *box)
{
    if (box->language->needs_jail && !box->jail) {
        errno = 0;
        return box_fail(hello, "compiled languages need a directory to write to, which only tier "
                               "jail has");
    }
    if (close_range(WIRE_CONTROL_FD + 1, ~0u, 0) != 0)
        return box_fail(hello, "close_range");
    if (clean_environment(hello, box) != 0 || become_nobody(hello, box) != 0 ||
        (box->jail && make_namespaces(hello) != 0))
        return -1;
    // The maps are written: out of its user's reach again.
    if (prctl(PR_SET_DUMPABLE, 0) != 0)
        return box_fail(hello, "prctl(PR_SET_DUMPABLE)");
    const pid_t init = fork();
    if (init == 0) {
        const int rc = run_init(hello, box);
        if (!hello->ok)
            say(hello);
        _exit(rc < 0 ? 1 : rc);
    }
    if (init < 0)
        return box_fail(hello, "fork");
    close(WIRE_CONTROL_FD);
    int status = 0;
    while (waitpid(init, &status, 0) < 0) {
        if (errno != EINTR) { // it may not have asked yet to die with its parent
            (void)kill(init, SIGKILL);
            return 1;
        }
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv)
{
    struct wire_hello hello = {.version = WIRE_VERSION};
    struct box box = {.language = argc == 3 ? find_language(argv[2]) : NULL};
    if (box.language == NULL || (recv(WIRE_CONTROL_FD, &hello, 0, MSG_PEEK | MSG_DONTWAIT) < 0 &&
                                 (errno == ENOTSOCK || errno == EBADF))) {
        fprintf(stderr,
                "gradus-box: started by hand; it is a part of gradus, see `gradus sandbox run`\n");
        return 2;
    }
    box.jail = strcmp(argv[1], WIRE_CAGE) != 0;
    const int rc = start(&hello, &box);
    if (rc < 0)
        say(&hello);
    return rc < 0 ? 1 : rc;
}
