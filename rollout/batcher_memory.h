// SPDX-License-Identifier: Apache-2.0
// The memory of a run of the batcher: arrays on the host, of the run's arena, and blocks of the
// device.
#ifndef ROLLOUT_BATCHER_MEMORY_H
#define ROLLOUT_BATCHER_MEMORY_H

#include "rollout/batcher.h"

// Sizes everything by the requests and the limits of the batch.
int batcher_memory_open(struct batcher *s);
void batcher_memory_free(struct batcher_memory *m);
// Bytes of it on the device, without penalties, for a vocabulary of V.
size_t batcher_memory_bytes(int batch, int V);
size_t batcher_drawn_bytes(int batch); // of the block behind a struct batcher_drawn

#endif
