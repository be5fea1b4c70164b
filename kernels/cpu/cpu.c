// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"
#include "base/mem.h"
#include "kernels/cpu/scratch.h"
#include <assert.h>
#include <stdlib.h>

// Waking and joining the team costs a few microseconds: about the time of this many operations on
// one thread.
#define WORTH_WAKING 4e5

void cpu_run(struct device *dev, double work, team_fn *fn, void *arg)
{
    if (work < WORTH_WAKING || team_size(dev->team) == 1)
        fn(arg, 0, 1);
    else
        team_run(dev->team, fn, arg);
}

struct device_scratch *scratch_create(int ranks)
{
    struct device_scratch *s = mem_alloc0(sizeof(*s));
    s->ranks = ranks;
    s->buffers = mem_array0((size_t)ranks + 1, sizeof(*s->buffers));
    return s;
}

void scratch_free(struct device_scratch **s)
{
    if (!s || !*s)
        return;
    for (int i = 0; i <= (*s)->ranks; i++)
        free((*s)->buffers[i].data);
    free((*s)->buffers);
    free(*s);
    *s = NULL;
}

float *cpu_scratch(struct device *dev, int rank, size_t floats)
{
    assert(rank >= CPU_SHARED && rank < dev->scratch->ranks);
    struct scratch_buffer *b = &dev->scratch->buffers[rank + 1];
    if (b->floats < floats) {
        free(b->data);
        b->floats = floats + floats / 4;
        b->data = mem_aligned(b->floats * sizeof(float));
    }
    return b->data;
}

// The first item whose middle lies at or after `target`.
static int item_at(const double *cost, int n, double target)
{
    int low = 0, high = n;
    while (low < high) {
        const int mid = (low + high) / 2;
        if (0.5 * (cost[mid] + cost[mid + 1]) < target)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

void cpu_share_by_cost(const double *cost, int n, int rank, int size, int *begin, int *end)
{
    *begin = rank == 0 ? 0 : item_at(cost, n, cost[n] * rank / size);
    *end = rank == size - 1 ? n : item_at(cost, n, cost[n] * (rank + 1) / size);
}
