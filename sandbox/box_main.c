// SPDX-License-Identifier: Apache-2.0
// The launcher of gradus-box. It stays outside the namespaces' process tree as the parent of their
// PID 1, so that whoever started the box has an ordinary child to wait for; it holds nothing and
// does nothing else.
#include "sandbox/box.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OUTER_NOBODY = 65534, INNER_USER = 1000 };

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
static int become_nobody(struct wire_hello *hello)
{
    if (geteuid() == 0 || getuid() == 0) {
        if (setgroups(0, NULL) != 0 || setresgid(OUTER_NOBODY, OUTER_NOBODY, OUTER_NOBODY) != 0 ||
            setresuid(OUTER_NOBODY, OUTER_NOBODY, OUTER_NOBODY) != 0)
            return box_fail(hello, "switching from root to user %d", OUTER_NOBODY);
    }
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
static int clean_environment(struct wire_hello *hello)
{
    if (clearenv() != 0 || setenv("PATH", "/usr/bin", 1) != 0 ||
        setenv("LANG", "C.UTF-8", 1) != 0 || setenv("HOME", BOX_WORKDIR, 1) != 0)
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

// PID 1 of the namespaces.
static int run_init(struct wire_hello *hello)
{
    struct sock_fprog filter;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        return box_fail(hello, "prctl(PR_SET_PDEATHSIG)");
    if (python_warm(hello) != 0)
        return -1;
    const size_t base_kib = address_space_kib();
    if (base_kib == 0)
        return box_fail(hello, "reading /proc/self/statm");
    // The second lock on nested user namespaces, where a kernel's attack surface is largest; the
    // filter is the first.
    if (write_file("/proc/sys/user/max_user_namespaces", "0") != 0)
        return box_fail(hello, "writing /proc/sys/user/max_user_namespaces");
    if (note_namespaces(hello) != 0 || root_enter(hello) != 0 || filter_build(hello, &filter) != 0)
        return -1;
    if (prctl(PR_SET_DUMPABLE, 0) != 0)
        return box_fail(hello, "prctl(PR_SET_DUMPABLE)");
    hello->ok = 1;
    say(hello);
    return zygote_serve(&filter, base_kib);
}

int main(void)
{
    struct wire_hello hello = {.version = WIRE_VERSION};
    if (recv(WIRE_CONTROL_FD, &hello, 0, MSG_PEEK | MSG_DONTWAIT) < 0 &&
        (errno == ENOTSOCK || errno == EBADF)) {
        fprintf(stderr,
                "gradus-box: started by hand; it is a part of gradus, see `gradus sandbox run`\n");
        return 2;
    }
    if (close_range(WIRE_CONTROL_FD + 1, ~0u, 0) != 0)
        (void)box_fail(&hello, "close_range");
    else if (clean_environment(&hello) == 0 && become_nobody(&hello) == 0 &&
             make_namespaces(&hello) == 0) {
        const pid_t init = fork();
        if (init == 0) {
            const int rc = run_init(&hello);
            if (!hello.ok)
                say(&hello);
            _exit(rc < 0 ? 1 : rc);
        }
        if (init > 0) {
            close(WIRE_CONTROL_FD);
            (void)prctl(PR_SET_DUMPABLE, 0); // the maps are written: out of its user's reach again
            int status = 0;
            while (waitpid(init, &status, 0) < 0 && errno == EINTR)
                ;
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
        }
        (void)box_fail(&hello, "fork");
    }
    say(&hello);
    return 1;
}
