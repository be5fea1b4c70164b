// SPDX-License-Identifier: Apache-2.0
#include "sandbox/delay.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

// The only child of a process; 0: it has none; -1: it is gone, or the kernel has no such lists.
static pid_t child_of(pid_t pid)
{
    char path[96];
    int child = -1;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    FILE *f = fopen(path, "re");
    if (f != NULL) {
        if (fscanf(f, "%d", &child) != 1)
            child = 0;
        fclose(f);
    }
    return child;
}

// The second number of schedstat: nanoseconds spent waiting on a run queue.
static double delay_of_thread(pid_t pid, const char *thread)
{
    char path[320];
    unsigned long long waited = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", (int)pid, thread);
    FILE *f = fopen(path, "re");
    if (f != NULL) {
        if (fscanf(f, "%*u %llu", &waited) != 1)
            waited = 0;
        fclose(f);
    }
    return (double)waited * 1e-9;
}

double delay_of_program(pid_t launcher)
{
    const pid_t init = child_of(launcher);
    const pid_t program = init > 0 ? child_of(init) : -1;
    if (program <= 0)
        return program < 0 ? 0 : -1;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)program);
    DIR *threads = opendir(path);
    if (threads == NULL)
        return 0;
    double longest = 0;
    for (const struct dirent *e; (e = readdir(threads)) != NULL;) {
        const double waited = e->d_name[0] != '.' ? delay_of_thread(program, e->d_name) : 0;
        longest = waited > longest ? waited : longest;
    }
    closedir(threads);
    return longest;
}
