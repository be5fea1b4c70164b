// SPDX-License-Identifier: Apache-2.0
// The policy as a program for the kernel.
#ifndef SANDBOX_BOX_SECCOMP_H
#define SANDBOX_BOX_SECCOMP_H

#include "sandbox/box_policy.h"
#include <linux/filter.h>

// The filter of `who`; its memory is the caller's. 0, or a negative errno.
int filter_build(struct sock_fprog *out, enum policy_who who);

#endif
