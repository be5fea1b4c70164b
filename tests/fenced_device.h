// SPDX-License-Identifier: Apache-2.0
// A CPU device whose memory the host cannot touch, as if it were a GPU's: its addresses belong to
// nobody, so host code that reads or writes them dies by SIGSEGV. Kernels and memory functions that
// are given host memory where the device's belongs, or the reverse, abort with the name of the
// function. New memory, and memory that was given back, is full of NaN.
#ifndef TESTS_FENCED_DEVICE_H
#define TESTS_FENCED_DEVICE_H

#include "kernels/device.h"

// Arguments as device_open's. Closed by fenced_close, then device_free.
int fenced_open(struct device **out, struct team *team, enum device_isa isa);
// Bytes that were asked for and not given back. And how many it may come to: 1 GiB unless this says
// less; more is refused.
size_t fenced_bytes(const struct device *dev);
void fenced_limit(struct device *dev, size_t bytes);
void fenced_close(struct device *dev); // of other devices, NULL included: does nothing

#endif
