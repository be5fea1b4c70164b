// SPDX-License-Identifier: Apache-2.0
#include "sandbox/delay.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// The first bytes of a file of /proc, terminated; empty when there is none.
static void read_small(char *out, size_t size, const char *path)
{
    FILE *f = fopen(path, "re");
    const size_t n = f != NULL ? fread(out, 1, size - 1, f) : 0;
    if (f != NULL)
        fclose(f);
    out[n] = 0;
}

// The only child of a process; 0: it has none, it is gone, or the kernel has no such lists.
static pid_t child_of(pid_t pid)
{
    char path[96], text[64];
    int child = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    read_small(text, sizeof text, path);
    return sscanf(text, "%d", &child) == 1 ? child : 0;
}

// By field 22 of stat, in ticks since the machine was started. -1: it is gone.
static double age_of(pid_t pid)
{
    char path[64], text[1024];
    unsigned long long ticks = 0;
    struct timespec now;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    read_small(text, sizeof text, path);
    const char *p = strrchr(text, ')'); // the end of field 2, a name of any characters
    for (int field = 2; p != NULL && field < 22; field++)
        p = strchr(p + 1, ' ');
    if (p == NULL || sscanf(p, "%llu", &ticks) != 1 || clock_gettime(CLOCK_BOOTTIME, &now) != 0)
        return -1;
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9 -
           (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

// The second number of schedstat: nanoseconds spent waiting on a run queue.
static double wait_of_thread(pid_t pid, const char *thread)
{
    char path[320], text[96];
    unsigned long long waited = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", (int)pid, thread);
    read_small(text, sizeof text, path);
    return sscanf(text, "%*u %llu", &waited) == 1 ? (double)waited * 1e-9 : 0;
}

bool delay_of_program(struct delay *out, pid_t launcher)
{
    const pid_t init = child_of(launcher), program = init > 0 ? child_of(init) : 0;
    const double age = program > 0 ? age_of(program) : -1;
    if (age < 0)
        return false;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)program);
    DIR *threads = opendir(path);
    double waited = 0;
    if (threads != NULL) {
        for (const struct dirent *e; (e = readdir(threads)) != NULL;)
            waited += e->d_name[0] != '.' ? wait_of_thread(program, e->d_name) : 0;
        closedir(threads);
    }
    *out = (struct delay){age, waited};
    return true;
}
