// SPDX-License-Identifier: Apache-2.0
// Compiles the policy by libseccomp.
#include "sandbox/box_seccomp.h"

#include <errno.h>
#include <seccomp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int add_row(scmp_filter_ctx ctx, const struct policy_row *row)
{
    static const uint32_t actions[] = {[POLICY_ALLOW] = SCMP_ACT_ALLOW,
                                       [POLICY_KILL] = SCMP_ACT_KILL_PROCESS,
                                       [POLICY_MISSING] = SCMP_ACT_ERRNO(ENOSYS)};
    struct scmp_arg_cmp args[POLICY_ARGS_MAX];
    const int nr = seccomp_syscall_resolve_name(row->name);
    if (nr < 0)
        return 0;
    for (int i = 0; i < row->num_args; i++)
        args[i] = (struct scmp_arg_cmp){row->args[i].index, SCMP_CMP_MASKED_EQ, row->args[i].mask,
                                        row->args[i].value};
    return seccomp_rule_add_array(ctx, actions[row->action], nr, (unsigned)row->num_args, args);
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

int filter_build(struct sock_fprog *out, enum policy_who who)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (ctx == NULL)
        return -ENOMEM;
    // System calls of another architecture (int 0x80, x32) are an attack here. Level 2: a binary
    // tree instead of a long list.
    int rc = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (rc == 0)
        rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    for (int i = 0; rc == 0 && i < policy_num_rows(); i++) {
        const struct policy_row *row = policy_row(i);
        if ((row->who & 1u << who) != 0)
            rc = add_row(ctx, row);
    }
    if (rc == 0)
        rc = export_filter(out, ctx);
    seccomp_release(ctx);
    return rc;
}
