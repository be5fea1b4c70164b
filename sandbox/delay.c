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

// Of a process, or of a thread: fields 3 and 22 of its stat, the latter in ticks since the machine
// was started. false: it is gone.
static bool read_state(char *state, double *age, const char *path)
{
    char text[1024];
    unsigned long long ticks = 0;
    struct timespec now;
    read_small(text, sizeof text, path);
    const char *p = strrchr(text, ')'); // the end of field 2, a name of any characters
    if (p == NULL || sscanf(p, ") %c", state) != 1)
        return false;
    for (int field = 2; p != NULL && field < 22; field++)
        p = strchr(p + 1, ' ');
    if (p == NULL || sscanf(p, "%llu", &ticks) != 1 || clock_gettime(CLOCK_BOOTTIME, &now) != 0)
        return false;
    *age = (double)now.tv_sec + (double)now.tv_nsec * 1e-9 -
           (double)ticks / (double)sysconf(_SC_CLK_TCK);
    return true;
}

// Seconds spent waiting on a run queue: the second number of schedstat, in ns. It holds no wait
// that still goes on: a thread that could run is taken to have waited whenever it did not run (the
// first number).
static double wait_of_thread(pid_t pid, const char *thread)
{
    char path[320], text[96], state;
    unsigned long long ran = 0, waited = 0;
    double age;
    snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", (int)pid, thread);
    read_small(text, sizeof text, path);
    if (sscanf(text, "%llu %llu", &ran, &waited) != 2)
        return 0;
    snprintf(path, sizeof path, "/proc/%d/task/%s/stat", (int)pid, thread);
    return read_state(&state, &age, path) && state == 'R' ? age - (double)ran * 1e-9
                                                          : (double)waited * 1e-9;
}

bool delay_of_program(struct delay *out, pid_t launcher)
{
    const pid_t init = child_of(launcher), program = init > 0 ? child_of(init) : 0;
    char path[64], state;
    double age;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)program);
    if (program == 0 || !read_state(&state, &age, path))
        return false;
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
