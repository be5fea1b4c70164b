// SPDX-License-Identifier: Apache-2.0
// The filters of system calls, as the kernel gets them, run by an interpreter of our own over every
// system call number and the boundaries of arguments, against the table that they are made from;
// and what the table must say whoever edits it.
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "sandbox/box_seccomp.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// What holds a process: Python's programs by two filters, one of which is their zygote's.
struct filter {
    int num;
    struct sock_fprog parts[2];
};
static struct filter filters[POLICY_WHOS];

static int build(void **state)
{
    (void)state;
    int rc = 0;
    for (int i = 0; i < POLICY_WHOS && rc == 0; i++) {
        const enum policy_who who = (enum policy_who)i;
        struct filter *f = &filters[i];
        f->num = who == POLICY_PYTHON || who == POLICY_CAGE ? 2 : 1;
        if (f->num == 1) {
            rc = filter_build(&f->parts[0], who);
        } else {
            rc = filter_build_base(&f->parts[0], who);
            rc = rc == 0 ? filter_build_rest(&f->parts[1], who) : rc;
        }
    }
    return rc;
}

static int release(void **state)
{
    (void)state;
    for (int who = 0; who < POLICY_WHOS; who++) {
        free(filters[who].parts[0].filter);
        free(filters[who].parts[1].filter);
    }
    return 0;
}

// ---- the kernel's interpreter, as far as filters of system calls may use it (seccomp_check_filter
// in kernel/seccomp.c, Documentation/networking/filter.rst)

static uint32_t load(const struct seccomp_data *d, uint32_t offset)
{
    uint32_t word;
    assert_true(offset % 4 == 0 && offset < sizeof *d);
    memcpy(&word, (const char *)d + offset, sizeof word);
    return word;
}

static bool jumps(const struct sock_filter *i, uint32_t a)
{
    switch (BPF_OP(i->code)) {
    case BPF_JEQ:
        return a == i->k;
    case BPF_JGT:
        return a > i->k;
    case BPF_JGE:
        return a >= i->k;
    case BPF_JSET:
        return (a & i->k) != 0;
    default:
        fail_msg("jump %#x", i->code);
        return false;
    }
}

static uint32_t interpret_one(const struct sock_fprog *p, const struct seccomp_data *d)
{
    uint32_t a = 0, memory[BPF_MEMWORDS] = {0};
    for (uint32_t at = 0; at < p->len; at++) {
        const struct sock_filter *i = &p->filter[at];
        switch (i->code) {
        case BPF_LD | BPF_W | BPF_ABS:
            a = load(d, i->k);
            break;
        case BPF_ST:
            assert_true(i->k < BPF_MEMWORDS);
            memory[i->k] = a;
            break;
        case BPF_LD | BPF_MEM:
            assert_true(i->k < BPF_MEMWORDS);
            a = memory[i->k];
            break;
        case BPF_ALU | BPF_AND | BPF_K:
            a &= i->k;
            break;
        case BPF_JMP | BPF_JA:
            at += i->k;
            break;
        case BPF_RET | BPF_K:
            return i->k;
        default:
            if (BPF_CLASS(i->code) != BPF_JMP || BPF_SRC(i->code) != BPF_K)
                fail_msg("instruction %#x", i->code);
            at += jumps(i, a) ? i->jt : i->jf;
        }
    }
    fail_msg("the filter has no end");
    return 0;
}

// Of several filters the strictest answer counts, which is the smallest as a signed number
// (seccomp_run_filters).
static uint32_t interpret(const struct filter *f, const struct seccomp_data *d)
{
    uint32_t strictest = SECCOMP_RET_ALLOW;
    for (int i = 0; i < f->num; i++) {
        const uint32_t answer = interpret_one(&f->parts[i], d);
        if ((int32_t)(answer & SECCOMP_RET_ACTION_FULL) <
            (int32_t)(strictest & SECCOMP_RET_ACTION_FULL))
            strictest = answer;
    }
    return strictest;
}

// ---- the table, read anew

// Number of each row's system call; below 0: this machine has none of that name.
static int *row_numbers(void)
{
    int *nr = malloc((size_t)policy_num_rows() * sizeof *nr);
    assert_non_null(nr);
    for (int i = 0; i < policy_num_rows(); i++)
        nr[i] = seccomp_syscall_resolve_name(policy_row(i)->name);
    return nr;
}

static bool row_matches(const struct policy_row *r, const struct seccomp_data *d)
{
    for (int i = 0; i < r->num_args; i++) {
        if ((d->args[r->args[i].index] & r->args[i].mask) != r->args[i].value)
            return false;
    }
    return true;
}

static uint32_t expected(enum policy_who who, const int *nr, const struct seccomp_data *d)
{
    static const uint32_t actions[] = {[POLICY_ALLOW] = SECCOMP_RET_ALLOW,
                                       [POLICY_KILL] = SECCOMP_RET_KILL_PROCESS,
                                       [POLICY_MISSING] = SECCOMP_RET_ERRNO | ENOSYS};
    if (d->arch != AUDIT_ARCH_X86_64 || ((uint32_t)d->nr >= 0x40000000 && d->nr != -1))
        return SECCOMP_RET_KILL_PROCESS; // another machine's calls; x32
    for (int i = 0; i < policy_num_rows(); i++) {
        const struct policy_row *r = policy_row(i);
        if (nr[i] == d->nr && nr[i] >= 0 && (r->who & 1u << who) != 0 && row_matches(r, d))
            return actions[r->action];
    }
    return SECCOMP_RET_ERRNO | EPERM;
}

static void compare(enum policy_who who, const int *nr, const struct seccomp_data *d)
{
    const uint32_t got = interpret(&filters[who], d), want = expected(who, nr, d);
    if (got != want)
        fail_msg("filter %d, arch %#x, call %d (%#llx, %#llx, %#llx, %#llx, %#llx, %#llx): %#x, "
                 "expected %#x",
                 (int)who, d->arch, d->nr, d->args[0], d->args[1], d->args[2], d->args[3],
                 d->args[4], d->args[5], got, want);
}

// Values at which some row's condition changes, and what lies beside them and above 32 bits.
enum { VALUES_MAX = 2048 };

static int boundary_values(uint64_t *out)
{
    int n = 0;
    static const uint64_t always[] = {0,
                                      1,
                                      2,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      0x100000000,
                                      0x7fffffffffffffff,
                                      0x8000000000000000,
                                      UINT64_MAX};
    for (size_t i = 0; i < sizeof always / sizeof *always; i++)
        out[n++] = always[i];
    for (int i = 0; i < policy_num_rows(); i++) {
        for (int a = 0; a < policy_row(i)->num_args; a++) {
            const uint64_t v = policy_row(i)->args[a].value;
            const uint64_t near[] = {
                v, v - 1, v + 1, v | 1ULL << 32, v | 1ULL << 63, v ^ 1ULL << 31, v ^ 1ULL << 28,
                ~v};
            assert_true(n + 8 <= VALUES_MAX);
            for (int k = 0; k < 8; k++)
                out[n++] = near[k];
        }
    }
    return n;
}

static void every_call_is_filtered_as_the_table_says(void **state)
{
    (void)state;
    static const uint32_t archs[] = {AUDIT_ARCH_X86_64, AUDIT_ARCH_I386, AUDIT_ARCH_AARCH64, 0};
    static const uint32_t numbers[] = {0x3fffffff, 0x40000000, 0x40000001, 0x40000027, 0x400003ff,
                                       0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};
    enum { NUMBERS = 1024, ODD = sizeof numbers / sizeof *numbers };
    uint64_t values[VALUES_MAX];
    const int num_values = boundary_values(values);
    int *nr = row_numbers();
    long compared = 0;
    for (int who = 0; who < POLICY_WHOS; who++) {
        for (size_t arch = 0; arch < sizeof archs / sizeof *archs; arch++) {
            for (int n = 0; n < NUMBERS + ODD; n++) {
                struct seccomp_data d = {.nr = n < NUMBERS ? n : (int)numbers[n - NUMBERS],
                                         .arch = archs[arch]};
                compare((enum policy_who)who, nr, &d);
                for (int k = 0; k < 6 * num_values && arch == 0; k++, compared++) {
                    d.args[k % 6] = values[k / 6];
                    compare((enum policy_who)who, nr, &d);
                    d.args[k % 6] = 0;
                }
            }
        }
    }
    print_message("# %ld calls compared\n", compared);
    free(nr);
}

// All conditions of a row hold, but for one that is put to every boundary in turn.
static void conditions_hold_together(void **state)
{
    (void)state;
    uint64_t values[VALUES_MAX];
    const int num_values = boundary_values(values);
    int *nr = row_numbers();
    int rows = 0;
    for (int i = 0; i < policy_num_rows(); i++) {
        const struct policy_row *r = policy_row(i);
        rows += r->num_args > 0 && nr[i] >= 0;
        for (int who = 0; who < POLICY_WHOS && r->num_args > 0 && nr[i] >= 0; who++) {
            struct seccomp_data d = {.nr = nr[i], .arch = AUDIT_ARCH_X86_64};
            for (int a = 0; a < r->num_args; a++)
                d.args[r->args[a].index] = r->args[a].value;
            compare((enum policy_who)who, nr, &d);
            for (int a = 0; a < r->num_args; a++) {
                for (int k = 0; k < num_values; k++) {
                    d.args[r->args[a].index] = values[k];
                    compare((enum policy_who)who, nr, &d);
                }
                d.args[r->args[a].index] = r->args[a].value;
            }
        }
    }
    assert_true(rows > 20);
    free(nr);
}

// ---- what any table must say

static uint32_t action_of(enum policy_who who, const char *name, const uint64_t args[6])
{
    struct seccomp_data d = {.nr = seccomp_syscall_resolve_name(name), .arch = AUDIT_ARCH_X86_64};
    assert_true(d.nr >= 0);
    if (args != NULL)
        memcpy(d.args, args, sizeof d.args);
    return interpret(&filters[who], &d);
}

static void attacks_are_fatal(void **state)
{
    (void)state;
    static const char *const fatal[] = {"ptrace",
                                        "process_vm_readv",
                                        "process_vm_writev",
                                        "pidfd_getfd",
                                        "io_uring_setup",
                                        "io_uring_enter",
                                        "io_uring_register",
                                        "bpf",
                                        "perf_event_open",
                                        "userfaultfd",
                                        "keyctl",
                                        "add_key",
                                        "request_key",
                                        "mount",
                                        "umount2",
                                        "pivot_root",
                                        "chroot",
                                        "unshare",
                                        "setns",
                                        "mknod",
                                        "open_by_handle_at",
                                        "seccomp",
                                        "personality",
                                        "modify_ldt",
                                        "init_module",
                                        "kexec_load",
                                        "reboot",
                                        "setuid",
                                        "setgid",
                                        "setgroups",
                                        "capset",
                                        "settimeofday"};
    for (int who = 0; who < POLICY_WHOS; who++) {
        for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
            assert_int_equal(action_of((enum policy_who)who, fatal[i], NULL),
                             SECCOMP_RET_KILL_PROCESS);
        if (who != POLICY_COMPILER)
            assert_int_equal(action_of((enum policy_who)who, "execve", NULL),
                             SECCOMP_RET_KILL_PROCESS);
    }
}

static void what_is_not_named_is_refused(void **state)
{
    (void)state;
    static const char *const refused[] = {"socket",
                                          "connect",
                                          "bind",
                                          "listen",
                                          "accept",
                                          "sendmsg",
                                          "recvmsg",
                                          "fork",
                                          "memfd_create",
                                          "shmget",
                                          "semget",
                                          "msgget",
                                          "mq_open",
                                          "inotify_init",
                                          "fanotify_init",
                                          "timer_create",
                                          "sched_setscheduler",
                                          "setpriority",
                                          "setrlimit",
                                          "pidfd_open",
                                          "pidfd_send_signal",
                                          "setpgid",
                                          "setsid",
                                          "flock",
                                          "setxattr",
                                          "chown",
                                          "mlock",
                                          "mlockall",
                                          "sendfile",
                                          "copy_file_range",
                                          "landlock_restrict_self",
                                          "sched_setaffinity"};
    for (int who = 0; who < POLICY_WHOS; who++) {
        for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
            assert_int_equal(action_of((enum policy_who)who, refused[i], NULL),
                             SECCOMP_RET_ERRNO | EPERM);
        // A process, a namespace, and a flag that nobody knows yet, beside those of a thread.
        static const uint64_t flags[] = {0, 17, 0x10000000, 0x3d0f00 | 0x10000000,
                                         0x3d0f00 | 1ULL << 33};
        for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
            const uint64_t args[6] = {flags[i]};
            assert_int_equal(action_of((enum policy_who)who, "clone", args),
                             SECCOMP_RET_ERRNO | EPERM);
        }
        // TIOCSTI, also with bits that the kernel does not read.
        const uint64_t typing[6] = {0, 0x5412}, hidden[6] = {0, 0x100005412};
        assert_int_equal(action_of((enum policy_who)who, "ioctl", typing),
                         SECCOMP_RET_ERRNO | EPERM);
        assert_int_equal(action_of((enum policy_who)who, "ioctl", hidden),
                         SECCOMP_RET_ERRNO | EPERM);
        const uint64_t others[6] = {1, 0, 0}, change[6] = {0, 0, 1};
        assert_int_equal(action_of((enum policy_who)who, "prlimit64", others),
                         SECCOMP_RET_ERRNO | EPERM);
        assert_int_equal(action_of((enum policy_who)who, "prlimit64", change),
                         SECCOMP_RET_ERRNO | EPERM);
    }
    static const char *const files[] = {"mkdir",     "unlink",   "rename",  "chmod", "fchmod",
                                        "utimensat", "truncate", "symlink", "link",  "rmdir"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        assert_int_equal(action_of(POLICY_CAGE, files[i], NULL), SECCOMP_RET_ERRNO | EPERM);
}

static void every_row_has_a_reason_and_no_two_contradict(void **state)
{
    (void)state;
    int *nr = row_numbers();
    for (int i = 0; i < policy_num_rows(); i++) {
        const struct policy_row *r = policy_row(i);
        assert_true(r->reason != NULL && r->reason[0] != 0 && r->who != 0);
        for (int k = 0; k < i && nr[i] >= 0; k++) {
            if (nr[k] == nr[i] && (policy_row(k)->who & r->who) != 0 &&
                (policy_row(k)->action != r->action || r->num_args == 0 ||
                 policy_row(k)->num_args == 0))
                fail_msg("%s has rows that contradict each other", r->name);
        }
    }
    free(nr);
}

static void the_kernel_takes_them(void **state)
{
    (void)state;
    for (int who = 0; who < POLICY_WHOS; who++) {
        const pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            bool taken = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
            for (int i = 0; i < filters[who].num && taken; i++)
                taken =
                    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filters[who].parts[i]) == 0;
            (void)!syscall(SYS_chroot, "/"); // must end it
            _exit(taken ? 1 : 2);
        }
        int status = 0;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), SIGSYS);
        print_message("# filter %d: %d and %d instructions\n", who, filters[who].parts[0].len,
                      filters[who].parts[1].len);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_has_a_reason_and_no_two_contradict),
        cmocka_unit_test(every_call_is_filtered_as_the_table_says),
        cmocka_unit_test(conditions_hold_together),
        cmocka_unit_test(attacks_are_fatal),
        cmocka_unit_test(what_is_not_named_is_refused),
        cmocka_unit_test(the_kernel_takes_them),
    };
    return cmocka_run_group_tests(tests, build, release);
}
