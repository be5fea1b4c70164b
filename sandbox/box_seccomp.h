// SPDX-License-Identifier: Apache-2.0
// The policy as programs for the kernel. Installing a filter takes the longer the larger it is (a
// fifth of a short program's time for the whole table), so a box of Python has two: the base, which
// its zygote installs once for itself and all that it forks, allows what programs or the zygote may
// do; the rest, which every program's process installs, takes away again what is only the zygote's.
// Of two filters the kernel does what is stricter.
#ifndef SANDBOX_BOX_SECCOMP_H
#define SANDBOX_BOX_SECCOMP_H

#include "sandbox/box_policy.h"
#include <linux/filter.h>

// The filters of `who`; their memory is the caller's. 0, or a negative errno.
int filter_build(struct sock_fprog *out, enum policy_who who); // all in one
int filter_build_base(struct sock_fprog *out, enum policy_who who);
int filter_build_rest(struct sock_fprog *out, enum policy_who who);

#endif
