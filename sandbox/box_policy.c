// SPDX-License-Identifier: Apache-2.0
#include "sandbox/box_policy.h"

#include <asm/prctl.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#define PYTHON   (1u << POLICY_PYTHON)
#define CAGE     (1u << POLICY_CAGE)
#define COMPILER (1u << POLICY_COMPILER)
#define PROGRAM  (1u << POLICY_PROGRAM)
#define ZYGOTE   (1u << POLICY_ZYGOTE)
#define ALL      (PYTHON | CAGE | COMPILER | PROGRAM)
// Not where files that the program's user owns can be seen: there is no directory to write to.
#define NO_CAGE (PYTHON | COMPILER | PROGRAM)

#define ALLOW   POLICY_ALLOW
#define KILL    POLICY_KILL
#define MISSING POLICY_MISSING

#define LOW32 0xffffffffu
#define WHOLE UINT64_MAX
// What glibc's pthread_create passes to clone(2); a fork lacks CLONE_THREAD, a namespace has more.
#define THREAD_FLAGS                                                                               \
    (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |            \
     CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)
// Likewise fork, and posix_spawn or vfork.
#define FORK_FLAGS  (CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD)
#define SPAWN_FLAGS (CLONE_VM | CLONE_VFORK | SIGCHLD)

const char policy_empty_path[] = "";

// clang-format off
static const struct policy_row rows[] = {
    // Allowed.
    {"read", ALL, ALLOW, "input"}, {"readv", ALL, ALLOW, "input"}, {"pread64", ALL, ALLOW, "input"},
    {"preadv", ALL, ALLOW, "input"}, {"write", ALL, ALLOW, "output"}, {"writev", ALL, ALLOW, "output"},
    {"pwrite64", ALL, ALLOW, "output"}, {"pwritev", ALL, ALLOW, "output"}, {"lseek", ALL, ALLOW, "files"},
    {"close", ALL, ALLOW, "files"}, {"open", ALL, ALLOW, "files; what can be seen is the root's business"},
    {"openat", ALL, ALLOW, "files"}, {"creat", NO_CAGE, ALLOW, "files"},
    {"stat", ALL, ALLOW, "imports look files up"}, {"lstat", ALL, ALLOW, "imports"}, {"fstat", ALL, ALLOW, "imports"},
    {"newfstatat", ALL, ALLOW, "imports"}, {"statx", ALL, ALLOW, "imports"}, {"access", ALL, ALLOW, "imports"},
    {"faccessat", ALL, ALLOW, "imports"}, {"faccessat2", ALL, ALLOW, "imports"},
    {"readlink", ALL, ALLOW, "os.path.realpath"}, {"readlinkat", ALL, ALLOW, "os.path.realpath"},
    {"statfs", ALL, ALLOW, "shutil, os.statvfs"}, {"fstatfs", ALL, ALLOW, "os.fstatvfs"},
    {"getdents64", ALL, ALLOW, "imports list directories"}, {"getcwd", ALL, ALLOW, "os.getcwd"},
    {"chdir", ALL, ALLOW, "os.chdir"}, {"fchdir", ALL, ALLOW, "shutil.rmtree"},
    {"mkdir", NO_CAGE, ALLOW, "files in the working directory"}, {"mkdirat", NO_CAGE, ALLOW, "files"},
    {"rmdir", NO_CAGE, ALLOW, "files"}, {"unlink", NO_CAGE, ALLOW, "files"}, {"unlinkat", NO_CAGE, ALLOW, "files"},
    {"rename", NO_CAGE, ALLOW, "files"}, {"renameat", NO_CAGE, ALLOW, "files"},
    {"renameat2", NO_CAGE, ALLOW, "files"}, {"link", NO_CAGE, ALLOW, "files"}, {"linkat", NO_CAGE, ALLOW, "files"},
    {"symlink", NO_CAGE, ALLOW, "files; nothing outside follows them"}, {"symlinkat", NO_CAGE, ALLOW, "files"},
    {"truncate", NO_CAGE, ALLOW, "files, bounded by RLIMIT_FSIZE"}, {"ftruncate", NO_CAGE, ALLOW, "files"},
    {"fallocate", NO_CAGE, ALLOW, "files"}, {"fsync", ALL, ALLOW, "files"}, {"fdatasync", ALL, ALLOW, "files"},
    {"chmod", NO_CAGE, ALLOW, "files"}, {"fchmod", NO_CAGE, ALLOW, "files"}, {"fchmodat", NO_CAGE, ALLOW, "files"},
    {"utimensat", NO_CAGE, ALLOW, "os.utime, shutil.copystat"}, {"umask", ALL, ALLOW, "files"},
    {"dup", ALL, ALLOW, "descriptors"}, {"dup2", ALL, ALLOW, "descriptors"}, {"dup3", ALL, ALLOW, "descriptors"},
    {"pipe", ALL, ALLOW, "descriptors"}, {"pipe2", ALL, ALLOW, "descriptors"}, {"poll", ALL, ALLOW, "select module"},
    {"ppoll", ALL, ALLOW, "select"}, {"select", ALL, ALLOW, "select"},
    {"pselect6", ALL, ALLOW, "time.sleep before 3.11, select"}, {"epoll_create", ALL, ALLOW, "selectors, asyncio"},
    {"epoll_create1", ALL, ALLOW, "selectors"}, {"epoll_ctl", ALL, ALLOW, "selectors"},
    {"epoll_wait", ALL, ALLOW, "selectors"}, {"epoll_pwait", ALL, ALLOW, "selectors"},
    {"eventfd2", ALL, ALLOW, "os.eventfd"}, {"recvfrom", ALL, ALLOW, "on socket pairs, the only sockets there are"},
    {"shutdown", ALL, ALLOW, "socket pairs"}, {"getsockname", ALL, ALLOW, "socket objects ask"},
    {"getsockopt", ALL, ALLOW, "socket objects ask"},
    {"mmap", ALL, ALLOW, "memory, loading extension modules; RLIMIT_AS bounds it"}, {"munmap", ALL, ALLOW, "memory"},
    {"mprotect", ALL, ALLOW, "memory, loading modules"}, {"mremap", ALL, ALLOW, "realloc"},
    {"madvise", ALL, ALLOW, "malloc"}, {"brk", ALL, ALLOW, "malloc"}, {"membarrier", ALL, ALLOW, "thread libraries"},
    {"mincore", ALL, ALLOW, "allocators"}, {"futex", ALL, ALLOW, "locks"},
    {"set_robust_list", ALL, ALLOW, "thread start"}, {"get_robust_list", ALL, ALLOW, "threads"},
    {"rseq", ALL, ALLOW, "thread start"}, {"set_tid_address", ALL, ALLOW, "thread start"},
    {"sched_yield", ALL, ALLOW, "locks"}, {"sched_getaffinity", ALL, ALLOW, "os.cpu_count"},
    {"getcpu", ALL, ALLOW, "malloc arenas"},
    {"rt_sigaction", ALL, ALLOW, "signal module; SIGKILL and our clocks do not depend on it"},
    {"rt_sigprocmask", ALL, ALLOW, "signals"}, {"rt_sigreturn", ALL, ALLOW, "return from a handler"},
    {"rt_sigtimedwait", ALL, ALLOW, "signal.sigwait"}, {"rt_sigpending", ALL, ALLOW, "signals"},
    {"rt_sigsuspend", ALL, ALLOW, "signals"}, {"sigaltstack", ALL, ALLOW, "faulthandler"},
    {"pause", ALL, ALLOW, "signal.pause"}, {"alarm", ALL, ALLOW, "signal.alarm"},
    {"setitimer", ALL, ALLOW, "signal.setitimer"}, {"getitimer", ALL, ALLOW, "signal.getitimer"},
    {"restart_syscall", ALL, ALLOW, "the kernel's own, after a stop"},
    {"kill", ALL, ALLOW, "abort, os.kill; the pid namespace holds nobody else, and PID 1 is immune"},
    {"tgkill", ALL, ALLOW, "raise(3)"}, {"tkill", ALL, ALLOW, "old raise(3)"},
    {"nanosleep", ALL, ALLOW, "time.sleep"}, {"clock_nanosleep", ALL, ALLOW, "time.sleep"},
    {"clock_gettime", ALL, ALLOW, "time"}, {"clock_getres", ALL, ALLOW, "time"}, {"gettimeofday", ALL, ALLOW, "time"},
    {"time", ALL, ALLOW, "time"}, {"times", ALL, ALLOW, "os.times"}, {"getrusage", ALL, ALLOW, "resource module"},
    {"getrlimit", ALL, ALLOW, "resource module"}, {"getpid", ALL, ALLOW, "os.getpid"},
    {"getppid", ALL, ALLOW, "os.getppid"}, {"gettid", ALL, ALLOW, "threads"},
    {"getuid", ALL, ALLOW, "os.getuid, tempfile"}, {"geteuid", ALL, ALLOW, "os"}, {"getgid", ALL, ALLOW, "os"},
    {"getegid", ALL, ALLOW, "os"}, {"getresuid", ALL, ALLOW, "os"}, {"getresgid", ALL, ALLOW, "os"},
    {"getgroups", ALL, ALLOW, "os"}, {"getpgrp", ALL, ALLOW, "os"}, {"getpgid", ALL, ALLOW, "os"},
    {"getsid", ALL, ALLOW, "os"}, {"getpriority", ALL, ALLOW, "os"},
    {"capget", ALL, ALLOW, "`sandbox check` asks whether there are none"}, {"uname", ALL, ALLOW, "platform module"},
    {"sysinfo", ALL, ALLOW, "os.sysconf, malloc"}, {"getrandom", ALL, ALLOW, "hash seeds, random, secrets"},
    {"wait4", ALL, ALLOW, "os.wait: there are no children, so ECHILD"}, {"waitid", ALL, ALLOW, "os.waitid, likewise"},
    {"exit", ALL, ALLOW, "end of a thread"}, {"exit_group", ALL, ALLOW, "end"},
    {"vfork", COMPILER, ALLOW, "the driver starts compiler, assembler and linker"},
    {"execve", COMPILER, ALLOW, "likewise; which files can be executed is the business of root and Landlock"},
    // Allowed with these arguments.
    {"clone", ALL, ALLOW, "threads, and nothing else that clone can make", 1, {{0, WHOLE, THREAD_FLAGS}}},
    {"clone", COMPILER, ALLOW, "the driver's children", 1, {{0, WHOLE, FORK_FLAGS}}},
    {"clone", COMPILER, ALLOW, "the driver's children", 1, {{0, WHOLE, SPAWN_FLAGS}}},
    {"arch_prctl", COMPILER | PROGRAM, ALLOW, "thread-local storage, at the start", 1, {{0, LOW32, ARCH_SET_FS}}},
    {"execveat", PROGRAM, ALLOW, "the start of the program itself", 3,
     {{0, LOW32, 3}, {1, WHOLE, (uintptr_t)policy_empty_path}, {4, LOW32, AT_EMPTY_PATH}}},
    {"ioctl", ALL, ALLOW, "isatty", 1, {{1, LOW32, TCGETS}}},
    {"ioctl", ALL, ALLOW, "non-blocking socket pairs", 1, {{1, LOW32, FIONBIO}}},
    {"ioctl", ALL, ALLOW, "bytes that wait in a pipe", 1, {{1, LOW32, FIONREAD}}},
    {"ioctl", ALL, ALLOW, "open sets close-on-exec so", 1, {{1, LOW32, FIOCLEX}}},
    {"ioctl", ALL, ALLOW, "os.set_inheritable", 1, {{1, LOW32, FIONCLEX}}},
    {"fcntl", ALL, ALLOW, "dup", 1, {{1, LOW32, F_DUPFD}}},
    {"fcntl", ALL, ALLOW, "dup", 1, {{1, LOW32, F_DUPFD_CLOEXEC}}},
    {"fcntl", ALL, ALLOW, "descriptor flags", 1, {{1, LOW32, F_GETFD}}},
    {"fcntl", ALL, ALLOW, "descriptor flags", 1, {{1, LOW32, F_SETFD}}},
    {"fcntl", ALL, ALLOW, "status flags", 1, {{1, LOW32, F_GETFL}}},
    {"fcntl", ALL, ALLOW, "os.set_blocking", 1, {{1, LOW32, F_SETFL}}},
    {"prctl", ALL, ALLOW, "thread names", 1, {{0, LOW32, PR_SET_NAME}}},
    {"prctl", ALL, ALLOW, "thread names", 1, {{0, LOW32, PR_GET_NAME}}},
    {"prctl", ALL, ALLOW, "`sandbox check` asks whether it is set", 1, {{0, LOW32, PR_GET_NO_NEW_PRIVS}}},
    {"socketpair", ALL, ALLOW, "asyncio wakes itself through one", 1, {{0, LOW32, AF_UNIX}}},
    {"sendto", ALL, ALLOW, "on socket pairs: no address", 1, {{4, WHOLE, 0}}},
    {"prlimit64", ALL, ALLOW, "its own limits may be read; another process's, or a change, may not", 2,
     {{0, LOW32, 0}, {2, WHOLE, 0}}},
    {"clone3", ALL, MISSING, "its flags are behind a pointer; glibc falls back to clone"},
    // The zygote's.
    {"recvmsg", ZYGOTE, ALLOW, "commands"}, {"sendmsg", ZYGOTE, ALLOW, "reports"},
    {"mount", ZYGOTE, ALLOW, "working directories"}, {"umount2", ZYGOTE, ALLOW, "working directories"},
    {"landlock_create_ruleset", ZYGOTE, ALLOW, "files of a program"}, {"landlock_add_rule", ZYGOTE, ALLOW, "likewise"},
    {"landlock_restrict_self", ZYGOTE, ALLOW, "its locking in"}, {"seccomp", ZYGOTE, ALLOW, "likewise"},
    {"capset", ZYGOTE, ALLOW, "likewise"}, {"setpgid", ZYGOTE, ALLOW, "likewise"},
    {"close_range", ZYGOTE, ALLOW, "likewise"}, {"pidfd_open", ZYGOTE, ALLOW, "waiting for a program and for commands"},
    {"clone", ZYGOTE, ALLOW, "fork", 1, {{0, WHOLE, FORK_FLAGS}}},
    {"prctl", ZYGOTE, ALLOW, "locking in", 1, {{0, LOW32, PR_SET_PDEATHSIG}}},
    {"prctl", ZYGOTE, ALLOW, "locking in", 1, {{0, LOW32, PR_SET_NO_NEW_PRIVS}}},
    {"prlimit64", ZYGOTE, ALLOW, "limits of a program, set by itself before it begins", 1, {{0, LOW32, 0}}},
    // Fatal.
    {"ptrace", ALL, KILL, "controls another process"}, {"process_vm_readv", ALL, KILL, "reads another process"},
    {"process_vm_writev", ALL, KILL, "writes it"}, {"process_madvise", ALL, KILL, "another process's memory"},
    {"pidfd_getfd", ALL, KILL, "takes another process's descriptor"}, {"kcmp", ALL, KILL, "compares processes"},
    {"io_uring_setup", ALL, KILL, "a way round this table"}, {"io_uring_enter", ALL, KILL, "likewise"},
    {"io_uring_register", ALL, KILL, "likewise"}, {"bpf", ALL, KILL, "code in the kernel"},
    {"perf_event_open", ALL, KILL, "attack surface, side channels"},
    {"userfaultfd", ALL, KILL, "helps kernel exploits"}, {"add_key", ALL, KILL, "keyrings outlive a run"},
    {"request_key", ALL, KILL, "likewise"}, {"keyctl", ALL, KILL, "likewise"},
    {"mount", ALL, KILL, "changes what can be seen"}, {"umount2", ALL, KILL, "likewise"},
    {"pivot_root", ALL, KILL, "likewise"}, {"chroot", ALL, KILL, "likewise"}, {"move_mount", ALL, KILL, "likewise"},
    {"open_tree", ALL, KILL, "likewise"}, {"fsopen", ALL, KILL, "likewise"}, {"fsconfig", ALL, KILL, "likewise"},
    {"fsmount", ALL, KILL, "likewise"}, {"fspick", ALL, KILL, "likewise"}, {"mount_setattr", ALL, KILL, "likewise"},
    {"unshare", ALL, KILL, "new namespaces"}, {"setns", ALL, KILL, "other namespaces"},
    {"mknod", ALL, KILL, "devices"}, {"mknodat", ALL, KILL, "devices"},
    {"name_to_handle_at", ALL, KILL, "names files past the root"}, {"open_by_handle_at", ALL, KILL, "opens them"},
    {"execve", ALL & ~COMPILER, KILL, "no other program is here to be run"},
    {"execveat", ALL & ~PROGRAM, KILL, "likewise"}, {"seccomp", ALL, KILL, "a filter of its own"},
    {"personality", ALL, KILL, "turns off address randomisation"},
    {"modify_ldt", ALL, KILL, "segments, attack surface"},
    {"memfd_secret", ALL, KILL, "memory that nobody can count"}, {"vmsplice", ALL, KILL, "attack surface"},
    {"splice", ALL, KILL, "likewise"}, {"tee", ALL, KILL, "likewise"}, {"syslog", ALL, KILL, "the kernel's log"},
    {"quotactl", ALL, KILL, "administration"}, {"sethostname", ALL, KILL, "outlives a run"},
    {"setdomainname", ALL, KILL, "likewise"}, {"init_module", ALL, KILL, "administration"},
    {"finit_module", ALL, KILL, "likewise"}, {"delete_module", ALL, KILL, "likewise"},
    {"kexec_load", ALL, KILL, "likewise"}, {"kexec_file_load", ALL, KILL, "likewise"},
    {"reboot", ALL, KILL, "likewise"}, {"swapon", ALL, KILL, "likewise"}, {"swapoff", ALL, KILL, "likewise"},
    {"acct", ALL, KILL, "likewise"}, {"iopl", ALL, KILL, "ports"}, {"ioperm", ALL, KILL, "ports"},
    {"settimeofday", ALL, KILL, "the clock"}, {"clock_settime", ALL, KILL, "the clock"},
    {"adjtimex", ALL, KILL, "the clock"}, {"clock_adjtime", ALL, KILL, "the clock"},
    {"capset", ALL, KILL, "capabilities"}, {"setuid", ALL, KILL, "other users"},
    {"setgid", ALL, KILL, "other groups"}, {"setreuid", ALL, KILL, "likewise"}, {"setregid", ALL, KILL, "likewise"},
    {"setresuid", ALL, KILL, "likewise"}, {"setresgid", ALL, KILL, "likewise"}, {"setgroups", ALL, KILL, "likewise"},
    {"setfsuid", ALL, KILL, "likewise"}, {"setfsgid", ALL, KILL, "likewise"},
};
// clang-format on

int policy_num_rows(void) { return (int)(sizeof rows / sizeof *rows); }

const struct policy_row *policy_row(int i) { return &rows[i]; }
