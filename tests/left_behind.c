// SPDX-License-Identifier: Apache-2.0
#include "tests/left_behind.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Parent of a process, by /proc/PID/stat: "PID (NAME) STATE PPID ..."; 0: it is gone.
static int parent_of(int pid)
{
    char path[64], text[512];
    int parent = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    const size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    const char *end = strrchr(text, ')');
    return end != NULL && sscanf(end, ") %*c %d", &parent) == 1 ? parent : 0;
}

static int count(int (*of)(int pid, void *arg), void *arg)
{
    int found = 0;
    DIR *proc = opendir("/proc");
    if (proc == NULL)
        return 0;
    for (const struct dirent *e; (e = readdir(proc)) != NULL;) {
        const int pid = atoi(e->d_name);
        int p = pid;
        while (p > 0 && (p = parent_of(p)) != getpid())
            ;
        found += p > 0 ? of(pid, arg) : 0;
    }
    closedir(proc);
    return found;
}

static int one(int pid, void *arg)
{
    (void)pid;
    (void)arg;
    return 1;
}

int left_descendants(void) { return count(one, NULL); }

int left_descriptors(void)
{
    int found = 0;
    DIR *dir = opendir("/proc/self/fd");
    if (dir == NULL)
        return 0;
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        char path[64], target[64] = "";
        snprintf(path, sizeof path, "/proc/self/fd/%.16s", e->d_name);
        (void)!readlink(path, target, sizeof target - 1);
        found += strncmp(target, "/memfd:program", 14) != 0;
    }
    closedir(dir);
    return found;
}

static int mounts_of(int pid, void *hidden)
{
    char path[64], line[4096];
    int lines = 0;
    snprintf(path, sizeof path, "/proc/%d/mounts", pid);
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        *(int *)hidden = 1;
        return 0;
    }
    while (fgets(line, sizeof line, f) != NULL)
        lines += strncmp(line, "work /box ", 10) != 0;
    fclose(f);
    return lines;
}

int left_mounts(void)
{
    int hidden = 0;
    const int n = count(mounts_of, &hidden);
    return hidden ? -1 : n;
}

long left_resident_kib(pid_t pid)
{
    char path[64];
    long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%*d %ld", &pages) != 1)
        pages = 0;
    fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static int larger(int pid, void *arg)
{
    const long kib = left_resident_kib(pid);
    long *largest = arg;
    *largest = kib > *largest ? kib : *largest;
    return 0;
}

long left_largest_kib(void)
{
    long largest = 0;
    (void)count(larger, &largest);
    return largest;
}
