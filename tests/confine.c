// SPDX-License-Identifier: Apache-2.0
// Runs a test program as a user without rights, or under an imitation of what a container's default
// settings forbid (capabilities and system calls after Docker's default profile,
// github.com/moby/profiles, seccomp/default.json), or both. Where that cannot be had, one line of
// TAP says that the test is skipped, and why.
//
// usage: confine [user] [container] -- PROGRAM [ARGUMENT]...
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { NOBODY = 65534 };

static int skip(const char *why)
{
    printf("1..0 # SKIP %s\n", why);
    return 0;
}

static int become_user(void)
{
    return setgroups(0, NULL) != 0 || setresgid(NOBODY, NOBODY, NOBODY) != 0 ||
                   setresuid(NOBODY, NOBODY, NOBODY) != 0
               ? -1
               : 0;
}

// What a container's root keeps. It takes effect when the program is executed.
static int drop_capabilities(void)
{
    static const int kept[] = {CAP_CHOWN,   CAP_DAC_OVERRIDE, CAP_FSETID,           CAP_FOWNER,
                               CAP_MKNOD,   CAP_NET_RAW,      CAP_SETGID,           CAP_SETUID,
                               CAP_SETFCAP, CAP_SETPCAP,      CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT,
                               CAP_KILL,    CAP_AUDIT_WRITE};
    for (int c = 0; prctl(PR_CAPBSET_READ, c, 0, 0, 0) >= 0; c++) {
        int keep = 0;
        for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
            keep = keep || kept[i] == c;
        if (!keep && prctl(PR_CAPBSET_DROP, c, 0, 0, 0) != 0)
            return -1;
    }
    return 0;
}

static int filter(int root)
{
    static const char *const forbidden[] = {"unshare",
                                            "setns",
                                            "mount",
                                            "umount2",
                                            "pivot_root",
                                            "move_mount",
                                            "open_tree",
                                            "fsopen",
                                            "fsconfig",
                                            "fsmount",
                                            "fspick",
                                            "mount_setattr",
                                            "bpf",
                                            "keyctl",
                                            "add_key",
                                            "request_key",
                                            "userfaultfd",
                                            "perf_event_open",
                                            "open_by_handle_at",
                                            "pidfd_getfd",
                                            "io_uring_setup",
                                            "io_uring_enter",
                                            "io_uring_register",
                                            "acct",
                                            "kexec_load",
                                            "kexec_file_load",
                                            "init_module",
                                            "finit_module",
                                            "delete_module",
                                            "reboot",
                                            "swapon",
                                            "swapoff",
                                            "quotactl",
                                            "iopl",
                                            "ioperm",
                                            "settimeofday",
                                            "clock_settime",
                                            "syslog",
                                            "lookup_dcookie",
                                            "process_madvise",
                                            "vhangup"};
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
    int rc = ctx == NULL ? -ENOMEM : 0;
    if (rc == 0 && root) // a container's root has no_new_privs only when it is asked for
        rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_NNP, 0);
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden && rc == 0; i++) {
        const int nr = seccomp_syscall_resolve_name(forbidden[i]);
        rc = nr < 0 ? 0 : seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), nr, 0);
    }
    // Any flag of a namespace.
    for (unsigned bit = 0; bit < 32 && rc == 0; bit++) {
        const unsigned flag = 1u << bit;
        if ((flag & (CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWIPC |
                     CLONE_NEWUTS | CLONE_NEWCGROUP)) != 0)
            rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                                  SCMP_A0(SCMP_CMP_MASKED_EQ, flag, flag));
    }
    if (rc == 0)
        rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (rc == 0)
        rc = seccomp_load(ctx);
    seccomp_release(ctx);
    return rc;
}

int main(int argc, char **argv)
{
    const int root = geteuid() == 0;
    int user = 0, container = 0, i = 1;
    for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
        user = user || strcmp(argv[i], "user") == 0;
        container = container || strcmp(argv[i], "container") == 0;
    }
    if (i + 1 >= argc) {
        fprintf(stderr, "usage: confine [user] [container] -- PROGRAM [ARGUMENT]...\n");
        return 2;
    }
    if (user && !root)
        return skip("the user has no rights as it is");
    if (container && root && !user && drop_capabilities() != 0)
        return skip("capabilities cannot be dropped");
    if (user && become_user() != 0)
        return skip("another user cannot be had");
    if (access(argv[i + 1], X_OK) != 0)
        return skip("another user may not execute the test");
    if (container && filter(root && !user) != 0)
        return skip("a filter of system calls cannot be had");
    execv(argv[i + 1], argv + i + 1);
    perror(argv[i + 1]);
    return 1;
}
