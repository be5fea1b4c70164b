// SPDX-License-Identifier: Apache-2.0
// Sequences of kernels that are put on a device again and again, such as the layers of a decoding
// step. Where the device can record (device.h), one call then puts all of them there; elsewhere
// they are launched as ever. What is computed is the same, to the bit.
//
// A sequence is named by a key: the bytes of everything that its kernels' arguments and launches
// depend on, addresses and sizes. The first call with a key launches, which also lets the device
// allocate what it keeps for itself; the second in a row records; from then on it is replayed. A
// few sequences are kept, of which the one unused for longest goes first.
#ifndef KERNELS_REPLAY_H
#define KERNELS_REPLAY_H

#include "kernels/device.h"

struct replay;

struct replay *replay_open(struct device *dev); // borrowed
void replay_free(struct replay **r);            // NULL is fine

// launch(arg) puts the kernels on the device and returns 0 or ERR_*; it neither allocates on the
// device nor waits for it. Errors: what launch and the device return.
int replay_run(struct replay *r, const void *key, size_t bytes, int (*launch)(void *arg),
               void *arg);

// Calls of replay_run that replayed.
long replay_count(const struct replay *r);

#endif
