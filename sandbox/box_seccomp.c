// SPDX-License-Identifier: Apache-2.0
// Compiles the policy by libseccomp.
#include "sandbox/box_seccomp.h"

#include <errno.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_for(const struct policy_row *row, enum policy_who who)
{
    return (row->who & 1u << who) != 0;
}

static uint32_t action_of(const struct policy_row *row)
{
    static const uint32_t actions[] = {[POLICY_ALLOW] = SCMP_ACT_ALLOW,
                                       [POLICY_KILL] = SCMP_ACT_KILL_PROCESS,
                                       [POLICY_MISSING] = SCMP_ACT_ERRNO(ENOSYS)};
    return actions[row->action];
}

static int add_row(scmp_filter_ctx ctx, uint32_t action, const struct policy_row *row)
{
    struct scmp_arg_cmp args[POLICY_ARGS_MAX];
    const int nr = seccomp_syscall_resolve_name(row->name);
    if (nr < 0)
        return 0;
    for (int i = 0; i < row->num_args; i++)
        args[i] = (struct scmp_arg_cmp){row->args[i].index, SCMP_CMP_MASKED_EQ, row->args[i].mask,
                                        row->args[i].value};
    return seccomp_rule_add_array(ctx, action, nr, (unsigned)row->num_args, args);
}

// The compiled filter, by way of a file in memory. 0, or a negative errno.
static int export_filter(struct sock_fprog *out, scmp_filter_ctx ctx)
{
    const int fd = memfd_create("filter", MFD_CLOEXEC);
    struct stat st;
    if (fd < 0)
        return -errno;
    int rc = seccomp_export_bpf(ctx, fd);
    if (rc == 0 && fstat(fd, &st) != 0)
        rc = -errno;
    const size_t size = rc == 0 ? (size_t)st.st_size : 0;
    struct sock_filter *code = rc == 0 ? malloc(size) : NULL;
    if (rc == 0 && (code == NULL || pread(fd, code, size, 0) != (ssize_t)size))
        rc = -EIO;
    close(fd);
    if (rc != 0) {
        free(code);
        return rc;
    }
    *out = (struct sock_fprog){.len = (unsigned short)(size / sizeof *code), .filter = code};
    return 0;
}

// System calls of another architecture (int 0x80, x32) are an attack here. Level 2: a binary tree
// instead of a long list.
static scmp_filter_ctx new_filter(uint32_t otherwise)
{
    scmp_filter_ctx ctx = seccomp_init(otherwise);
    if (ctx != NULL &&
        (seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS) != 0 ||
         seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2) != 0)) {
        seccomp_release(ctx);
        return NULL;
    }
    return ctx;
}

// rc: of the rules so far.
static int finish(struct sock_fprog *out, scmp_filter_ctx ctx, int rc)
{
    if (rc == 0)
        rc = export_filter(out, ctx);
    seccomp_release(ctx);
    return rc;
}

int filter_build(struct sock_fprog *out, enum policy_who who)
{
    scmp_filter_ctx ctx = new_filter(SCMP_ACT_ERRNO(EPERM));
    int rc = ctx != NULL ? 0 : -ENOMEM;
    for (int i = 0; rc == 0 && i < policy_num_rows(); i++) {
        const struct policy_row *row = policy_row(i);
        if (is_for(row, who))
            rc = add_row(ctx, action_of(row), row);
    }
    return ctx != NULL ? finish(out, ctx, rc) : rc;
}

// The row by which the zygote makes that call, without conditions; NULL: it does not.
static const struct policy_row *zygote_row(const char *name)
{
    for (int i = 0; i < policy_num_rows(); i++) {
        const struct policy_row *row = policy_row(i);
        if (is_for(row, POLICY_ZYGOTE) && row->num_args == 0 && strcmp(row->name, name) == 0)
            return row;
    }
    return NULL;
}

int filter_build_base(struct sock_fprog *out, enum policy_who who)
{
    scmp_filter_ctx ctx = new_filter(SCMP_ACT_ERRNO(EPERM));
    int rc = ctx != NULL ? 0 : -ENOMEM;
    for (int i = 0; rc == 0 && i < policy_num_rows(); i++) {
        const struct policy_row *row = policy_row(i);
        if (is_for(row, POLICY_ZYGOTE) || (is_for(row, who) && zygote_row(row->name) == NULL))
            rc = add_row(ctx, action_of(row), row);
    }
    return ctx != NULL ? finish(out, ctx, rc) : rc;
}

// What a program gets for a call that only the zygote may make.
static uint32_t denial(const char *name, enum policy_who who)
{
    for (int i = 0; i < policy_num_rows(); i++) {
        const struct policy_row *row = policy_row(i);
        if (is_for(row, who) && row->action == POLICY_KILL && strcmp(row->name, name) == 0)
            return SCMP_ACT_KILL_PROCESS;
    }
    return SCMP_ACT_ERRNO(EPERM);
}

int filter_build_rest(struct sock_fprog *out, enum policy_who who)
{
    scmp_filter_ctx ctx = new_filter(SCMP_ACT_ALLOW);
    int rc = ctx != NULL ? 0 : -ENOMEM;
    for (int i = 0; rc == 0 && i < policy_num_rows(); i++) {
        const struct policy_row *row = policy_row(i);
        // Programs may read their limits, which is the same call.
        const struct scmp_arg_cmp change = {2, SCMP_CMP_NE, 0, 0};
        if (!is_for(row, POLICY_ZYGOTE))
            continue;
        if (strcmp(row->name, "prlimit64") == 0)
            rc =
                seccomp_rule_add_array(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(prlimit64), 1, &change);
        else
            rc = add_row(ctx, denial(row->name, who), row);
    }
    return ctx != NULL ? finish(out, ctx, rc) : rc;
}
