// SPDX-License-Identifier: Apache-2.0
// What a sandbox could leave behind: processes, descriptors, mounts.
#ifndef TESTS_LEFT_BEHIND_H
#define TESTS_LEFT_BEHIND_H

#include <sys/types.h>

// Processes that come from this one, at any remove, zombies included. Other tests run boxes of
// their own meanwhile.
int left_descendants(void);
// Descriptors that this process has open, but for executables that are remembered.
int left_descriptors(void);
// Mounts in the namespaces of all descendants, but for working directories; -1: they may not be
// looked at.
int left_mounts(void);
// Resident memory of a process in KiB, 0 when it is gone.
long left_resident_kib(pid_t pid);
// The largest of all descendants.
long left_largest_kib(void);

#endif
