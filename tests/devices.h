// SPDX-License-Identifier: Apache-2.0
// The devices that tests of the model run on, in one list, and access to their memory. Tests that
// go through these functions run on any device.
#ifndef TESTS_DEVICES_H
#define TESTS_DEVICES_H

#include "kernels/device.h"

// A device to test: an enum device_isa, that is, a CPU's instruction set (DEVICE_BEST: the best of
// this machine), or one of these. DEVICE_GPU: the first GPU, in programs that link its emulation
// that one.
enum { DEVICE_FENCED = DEVICE_BEST + 1, DEVICE_GPU, TEST_DEVICES_MAX = 8 };

// The devices of this machine, each once; returns how many. The environment's TEST_DEVICES, where
// it is set, names the only one.
int test_devices(int out[TEST_DEVICES_MAX]);
const char *test_device_name(int which);
int test_device_open(struct device **out, struct team *team, int which);
void test_device_close(struct device **dev); // NULL and *dev == NULL are fine

// Copies between host and device; what fails ends the program.
void device_get(struct device *dev, void *to_host, const void *from, size_t bytes);
void device_put(struct device *dev, void *to, const void *from_host, size_t bytes);
// Host copies of n elements; free().
float *device_floats(struct device *dev, const float *from, size_t n);
int *device_ints(struct device *dev, const int *from, size_t n);
// New device memory with a copy of n bytes, or (from_host NULL) whatever; given back by
// device_release of kernels/block.h.
void *device_new(struct device *dev, const void *from_host, size_t bytes);

#endif
