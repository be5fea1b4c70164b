// SPDX-License-Identifier: Apache-2.0
#include "tests/peers/free_choice.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct free_choice free_choice_of(const int *ways, int num_ways)
{
    struct free_choice c = {.num_ways = num_ways, .best = num_ways == 1 ? ways[0] : -1};
    memcpy(c.ways, ways, (size_t)num_ways * sizeof *ways);
    return c;
}

static int least_tried(const struct free_choice *c)
{
    int least = c->ways[0];
    for (int i = 1; i < c->num_ways; i++)
        if (c->tries[c->ways[i]] < c->tries[least])
            least = c->ways[i];
    return least;
}

int free_choice_next(const struct free_choice *c)
{
    return c->best >= 0 ? c->best : least_tried(c);
}

void free_choice_add(struct free_choice *c, int way, double seconds)
{
    c->seconds[way][c->tries[way]++] = seconds;
    if (c->tries[least_tried(c)] == FREE_TRIES)
        free_choice_settle(c);
}

#define WORTH_LEAVING_OURS 0.98 // of its time

void free_choice_settle(struct free_choice *c)
{
    double least = WORTH_LEAVING_OURS * free_choice_median(c, c->ways[0]);
    int best = c->ways[0];
    for (int i = 1; i < c->num_ways; i++) {
        const double median = free_choice_median(c, c->ways[i]);
        if (median > 0 && median < least) {
            least = median;
            best = c->ways[i];
        }
    }
    c->best = c->best >= 0 ? c->best : best;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double free_choice_median(const struct free_choice *c, int way)
{
    double x[FREE_TRIES];
    const int n = c->tries[way];
    memcpy(x, c->seconds[way], sizeof x);
    qsort(x, (size_t)n, sizeof *x, compare_doubles);
    return n > 0 ? x[n / 2] : 0;
}

void free_choice_print(const struct free_choice *c, const char *const *names)
{
    printf("  %-8s ", names[free_choice_next(c)]);
    for (int i = 0; i < c->num_ways && c->num_ways > 1; i++)
        if (c->tries[c->ways[i]] > 0)
            printf("  %s %.1f", names[c->ways[i]], 1e6 * free_choice_median(c, c->ways[i]));
    printf("\n");
}

int free_choice_bucket(int m)
{
    int shift = 0;
    while (m > 64 && m >> shift >= 16)
        shift++;
    return m >> shift << shift;
}

double free_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
