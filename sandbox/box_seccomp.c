// SPDX-License-Identifier: Apache-2.0
// The system calls of a program, as a table with a reason a row. What is not listed fails with
// EPERM. What only an attack uses kills the whole process by SIGSYS, so that a verdict of
// `violation` is certain. Arguments that the kernel reads as 32 bits are compared as 32 bits.
#include "sandbox/box.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <seccomp.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOW32 0xffffffffu
// What glibc's pthread_create passes to clone(2); a fork lacks CLONE_THREAD, a namespace has more.
#define THREAD_FLAGS                                                                               \
    (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |            \
     CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)

// clang-format off
static const struct {
    const char *name;
    const char *reason;
} allowed[] = {
    {"read", "input"}, {"readv", "input"}, {"pread64", "input"}, {"preadv", "input"},
    {"write", "output"}, {"writev", "output"}, {"pwrite64", "output"}, {"pwritev", "output"},
    {"lseek", "files"}, {"close", "files"}, {"open", "files; what can be seen is the root's business"},
    {"openat", "files"}, {"creat", "files"},
    {"stat", "imports look files up"}, {"lstat", "imports"}, {"fstat", "imports"}, {"newfstatat", "imports"},
    {"statx", "imports"}, {"access", "imports"}, {"faccessat", "imports"}, {"faccessat2", "imports"},
    {"readlink", "os.path.realpath"}, {"readlinkat", "os.path.realpath"},
    {"statfs", "shutil, os.statvfs"}, {"fstatfs", "os.fstatvfs"},
    {"getdents64", "imports list directories"}, {"getcwd", "os.getcwd"}, {"chdir", "os.chdir"},
    {"fchdir", "shutil.rmtree"},
    {"mkdir", "files in the working directory"}, {"mkdirat", "files"}, {"rmdir", "files"}, {"unlink", "files"},
    {"unlinkat", "files"}, {"rename", "files"}, {"renameat", "files"}, {"renameat2", "files"}, {"link", "files"},
    {"linkat", "files"}, {"symlink", "files; nothing outside follows them"}, {"symlinkat", "files"},
    {"truncate", "files, bounded by RLIMIT_FSIZE"}, {"ftruncate", "files"}, {"fallocate", "files"},
    {"fsync", "files"}, {"fdatasync", "files"}, {"chmod", "files"}, {"fchmod", "files"}, {"fchmodat", "files"},
    {"utimensat", "os.utime, shutil.copystat"}, {"umask", "files"},
    {"dup", "descriptors"}, {"dup2", "descriptors"}, {"dup3", "descriptors"}, {"pipe", "descriptors"},
    {"pipe2", "descriptors"},
    {"poll", "select module"}, {"ppoll", "select"}, {"select", "select"},
    {"pselect6", "time.sleep before 3.11, select"},
    {"epoll_create", "selectors, asyncio"}, {"epoll_create1", "selectors"}, {"epoll_ctl", "selectors"},
    {"epoll_wait", "selectors"},
    {"epoll_pwait", "selectors"}, {"eventfd2", "os.eventfd"},
    {"recvfrom", "on socket pairs, the only sockets there are"}, {"shutdown", "socket pairs"},
    {"getsockname", "socket objects ask"}, {"getsockopt", "socket objects ask"},
    {"mmap", "memory, loading extension modules; RLIMIT_AS bounds it"}, {"munmap", "memory"},
    {"mprotect", "memory, loading modules"},
    {"mremap", "realloc"}, {"madvise", "malloc"}, {"brk", "malloc"}, {"membarrier", "thread libraries"},
    {"mincore", "allocators"},
    {"futex", "locks"}, {"set_robust_list", "thread start"}, {"get_robust_list", "threads"}, {"rseq", "thread start"},
    {"set_tid_address", "thread start"}, {"sched_yield", "locks"}, {"sched_getaffinity", "os.cpu_count"},
    {"getcpu", "malloc arenas"},
    {"rt_sigaction", "signal module; SIGKILL and our clocks do not depend on it"}, {"rt_sigprocmask", "signals"},
    {"rt_sigreturn", "return from a handler"}, {"rt_sigtimedwait", "signal.sigwait"}, {"rt_sigpending", "signals"},
    {"rt_sigsuspend", "signals"}, {"sigaltstack", "faulthandler"}, {"pause", "signal.pause"},
    {"alarm", "signal.alarm"},
    {"setitimer", "signal.setitimer"}, {"getitimer", "signal.getitimer"},
    {"restart_syscall", "the kernel's own, after a stop"},
    {"kill", "abort, os.kill; the pid namespace holds nobody else, and PID 1 is immune"},
    {"tgkill", "raise(3)"}, {"tkill", "old raise(3)"},
    {"nanosleep", "time.sleep"}, {"clock_nanosleep", "time.sleep"}, {"clock_gettime", "time"},
    {"clock_getres", "time"},
    {"gettimeofday", "time"}, {"time", "time"}, {"times", "os.times"}, {"getrusage", "resource module"},
    {"getrlimit", "resource module"}, {"getpid", "os.getpid"}, {"getppid", "os.getppid"}, {"gettid", "threads"},
    {"getuid", "os.getuid, tempfile"}, {"geteuid", "os"}, {"getgid", "os"}, {"getegid", "os"}, {"getresuid", "os"},
    {"getresgid", "os"}, {"getgroups", "os"}, {"getpgrp", "os"}, {"getpgid", "os"}, {"getsid", "os"},
    {"getpriority", "os"},
    {"capget", "`sandbox check` asks whether there are none"},
    {"uname", "platform module"}, {"sysinfo", "os.sysconf, malloc"}, {"getrandom", "hash seeds, random, secrets"},
    {"wait4", "os.wait: there are no children, so ECHILD"}, {"waitid", "os.waitid, likewise"},
    {"exit", "end of a thread"}, {"exit_group", "end"},
};

// All arguments of a row must match (EQ after the mask).
static const struct {
    const char *name;
    unsigned arg;
    scmp_datum_t mask, value;
    const char *reason;
} allowed_if[] = {
    {"clone", 0, ~(scmp_datum_t)0, THREAD_FLAGS, "threads, and nothing else that clone can make"},
    {"ioctl", 1, LOW32, TCGETS, "isatty"},
    {"ioctl", 1, LOW32, FIONBIO, "non-blocking socket pairs"},
    {"ioctl", 1, LOW32, FIONREAD, "bytes that wait in a pipe"},
    {"ioctl", 1, LOW32, FIOCLEX, "open sets close-on-exec so"},
    {"ioctl", 1, LOW32, FIONCLEX, "os.set_inheritable"},
    {"fcntl", 1, LOW32, F_DUPFD, "dup"},
    {"fcntl", 1, LOW32, F_DUPFD_CLOEXEC, "dup"},
    {"fcntl", 1, LOW32, F_GETFD, "descriptor flags"},
    {"fcntl", 1, LOW32, F_SETFD, "descriptor flags"},
    {"fcntl", 1, LOW32, F_GETFL, "status flags"},
    {"fcntl", 1, LOW32, F_SETFL, "os.set_blocking"},
    {"prctl", 0, LOW32, PR_SET_NAME, "thread names"},
    {"prctl", 0, LOW32, PR_GET_NAME, "thread names"},
    {"prctl", 0, LOW32, PR_GET_NO_NEW_PRIVS, "`sandbox check` asks whether it is set"},
    {"socketpair", 0, LOW32, AF_UNIX, "asyncio wakes itself through one"},
    {"sendto", 4, ~(scmp_datum_t)0, 0, "on socket pairs: no address"},
};

static const struct {
    const char *name;
    const char *reason;
} killed[] = {
    {"ptrace", "controls another process"}, {"process_vm_readv", "reads another process"},
    {"process_vm_writev", "writes it"},
    {"process_madvise", "another process's memory"}, {"pidfd_getfd", "takes another process's descriptor"},
    {"kcmp", "compares processes"},
    {"io_uring_setup", "a way round this table"}, {"io_uring_enter", "likewise"}, {"io_uring_register", "likewise"},
    {"bpf", "code in the kernel"}, {"perf_event_open", "attack surface, side channels"},
    {"userfaultfd", "helps kernel exploits"},
    {"add_key", "keyrings outlive a run"}, {"request_key", "likewise"}, {"keyctl", "likewise"},
    {"mount", "changes what can be seen"}, {"umount2", "likewise"}, {"pivot_root", "likewise"},
    {"chroot", "likewise"},
    {"move_mount", "likewise"}, {"open_tree", "likewise"}, {"fsopen", "likewise"}, {"fsconfig", "likewise"},
    {"fsmount", "likewise"},
    {"fspick", "likewise"}, {"mount_setattr", "likewise"},
    {"unshare", "new namespaces"}, {"setns", "other namespaces"},
    {"mknod", "devices"}, {"mknodat", "devices"}, {"name_to_handle_at", "names files past the root"},
    {"open_by_handle_at", "opens them"},
    {"execve", "no other program is here to be run"}, {"execveat", "likewise"},
    {"seccomp", "a filter of its own"}, {"personality", "turns off address randomisation"},
    {"modify_ldt", "segments, attack surface"},
    {"memfd_secret", "memory that nobody can count"}, {"vmsplice", "attack surface"}, {"splice", "likewise"},
    {"tee", "likewise"},
    {"syslog", "the kernel's log"}, {"quotactl", "administration"}, {"sethostname", "outlives a run"},
    {"setdomainname", "likewise"},
    {"init_module", "administration"}, {"finit_module", "likewise"}, {"delete_module", "likewise"},
    {"kexec_load", "likewise"},
    {"kexec_file_load", "likewise"}, {"reboot", "likewise"}, {"swapon", "likewise"}, {"swapoff", "likewise"},
    {"acct", "likewise"},
    {"iopl", "ports"}, {"ioperm", "ports"}, {"settimeofday", "the clock"}, {"clock_settime", "the clock"},
    {"adjtimex", "the clock"},
    {"clock_adjtime", "the clock"}, {"capset", "capabilities"},
    {"setuid", "other users"}, {"setgid", "other groups"}, {"setreuid", "likewise"}, {"setregid", "likewise"},
    {"setresuid", "likewise"},
    {"setresgid", "likewise"}, {"setgroups", "likewise"}, {"setfsuid", "likewise"}, {"setfsgid", "likewise"},
};
// clang-format on

// A name that libseccomp or this architecture does not have is left out: it then fails with EPERM,
// or is no system call at all.
static int add(scmp_filter_ctx ctx, uint32_t action, const char *name, unsigned n,
               const struct scmp_arg_cmp *args)
{
    const int nr = seccomp_syscall_resolve_name(name);
    if (nr < 0)
        return 0;
    return seccomp_rule_add_array(ctx, action, nr, n, args);
}

static int add_rules(scmp_filter_ctx ctx)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof allowed / sizeof *allowed; i++)
        rc = add(ctx, SCMP_ACT_ALLOW, allowed[i].name, 0, NULL);
    for (size_t i = 0; rc == 0 && i < sizeof allowed_if / sizeof *allowed_if; i++) {
        const struct scmp_arg_cmp arg = {allowed_if[i].arg, SCMP_CMP_MASKED_EQ, allowed_if[i].mask,
                                         allowed_if[i].value};
        rc = add(ctx, SCMP_ACT_ALLOW, allowed_if[i].name, 1, &arg);
    }
    for (size_t i = 0; rc == 0 && i < sizeof killed / sizeof *killed; i++)
        rc = add(ctx, SCMP_ACT_KILL_PROCESS, killed[i].name, 0, NULL);
    // Its own limits may be read; another process's, or a change, may not.
    const struct scmp_arg_cmp own_limits[] = {{0, SCMP_CMP_MASKED_EQ, LOW32, 0},
                                              {2, SCMP_CMP_EQ, 0, 0}};
    if (rc == 0)
        rc = add(ctx, SCMP_ACT_ALLOW, "prlimit64", 2, own_limits);
    // The flags of clone3 are behind a pointer. glibc falls back to clone when it is not there.
    if (rc == 0)
        rc = add(ctx, SCMP_ACT_ERRNO(ENOSYS), "clone3", 0, NULL);
    return rc;
}

static int export_filter(struct wire_hello *hello, scmp_filter_ctx ctx, struct sock_fprog *out)
{
    const int fd = memfd_create("filter", MFD_CLOEXEC);
    struct stat st;
    if (fd < 0 || seccomp_export_bpf(ctx, fd) != 0 || fstat(fd, &st) != 0)
        return box_fail(hello, "compiling the system call filter");
    const size_t size = (size_t)st.st_size;
    struct sock_filter *code = malloc(size);
    if (code == NULL || pread(fd, code, size, 0) != (ssize_t)size)
        return box_fail(hello, "reading the system call filter");
    close(fd);
    out->len = (unsigned short)(size / sizeof *code);
    out->filter = code;
    return 0;
}

int filter_build(struct wire_hello *hello, struct sock_fprog *out)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (ctx == NULL)
        return box_fail(hello, "seccomp_init");
    // System calls of another architecture (int 0x80, x32) are an attack here. Level 2: a binary
    // tree instead of a long list.
    int rc = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (rc == 0)
        rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (rc == 0)
        rc = add_rules(ctx);
    if (rc != 0) {
        errno = -rc;
        rc = box_fail(hello, "making the system call filter");
    } else {
        rc = export_filter(hello, ctx, out);
    }
    seccomp_release(ctx);
    return rc;
}
