// SPDX-License-Identifier: Apache-2.0
// The working directory of programs: a tmpfs of bounded size and number of inodes. Mounting one
// takes a tenth of what a short program takes, and most programs write no files, so a directory
// that was not touched is kept for the next program. What was touched goes: the change time of a
// directory moves with everything that is made in it, removed from it, or set on it, and nothing
// can set it back; on kernels that count it in ticks, what is left over is seen all the same.
#include "sandbox/box.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U // since Linux 6.3
#endif

static int leave(struct workdir *w)
{
    if (w->ruleset > 0)
        close(w->ruleset);
    w->ruleset = 0;
    w->mounted = false;
    return umount2(BOX_WORKDIR, MNT_DETACH);
}

int workdir_prepare(struct workdir *w, const struct wire_limits *limits)
{
    if (w->mounted && limits->disk_kib == w->disk_kib && limits->files == w->files)
        return 0;
    if (w->mounted && leave(w) != 0)
        return -1;
    char options[96];
    // One inode is the directory's own.
    snprintf(options, sizeof options, "size=%uk,nr_inodes=%u,mode=700", limits->disk_kib,
             limits->files + 1);
    if (mount("work", BOX_WORKDIR, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME,
              options) != 0 ||
        stat(BOX_WORKDIR, &w->clean) != 0)
        return -1;
    w->mounted = true;
    w->disk_kib = limits->disk_kib;
    w->files = limits->files;
    return 0;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

// 1: it is as it was; -1: it cannot be looked at.
static int untouched(const struct stat *clean)
{
    struct stat now;
    struct statfs fs;
    if (stat(BOX_WORKDIR, &now) != 0 || statfs(BOX_WORKDIR, &fs) != 0)
        return -1;
    return same_time(&now.st_ctim, &clean->st_ctim) && same_time(&now.st_mtim, &clean->st_mtim) &&
           same_time(&now.st_atim, &clean->st_atim) && now.st_mode == clean->st_mode &&
           now.st_nlink == clean->st_nlink && now.st_size == clean->st_size &&
           fs.f_files - fs.f_ffree == 1 && fs.f_bfree == fs.f_blocks;
}

int workdir_settle(struct workdir *w)
{
    const int kept = w->mounted ? untouched(&w->clean) : 1;
    if (kept != 0)
        return kept < 0 ? -1 : 0;
    return leave(w);
}

static int new_memory(void)
{
    const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    const int fd = memfd_create("program", flags | MFD_EXEC);
    return fd < 0 && errno == EINVAL ? memfd_create("program", flags) : fd;
}

// A regular file in the working directory itself: no link is followed, nothing waited for.
static int open_made(size_t size_max, size_t *size)
{
    const struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
                                 .resolve =
                                     RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV};
    const int dir = open(BOX_WORKDIR, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -1;
    const int fd = (int)syscall(SYS_openat2, dir, BOX_MADE, &how, sizeof how);
    close(dir);
    struct stat st;
    if (fd < 0)
        return -1;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size <= 0 ||
        (size_t)st.st_size > size_max) {
        close(fd);
        return -1;
    }
    *size = (size_t)st.st_size;
    return fd;
}

int workdir_take_program(size_t size_max)
{
    size_t size = 0;
    const int from = open_made(size_max, &size);
    if (from < 0)
        return -1;
    const int to = new_memory();
    size_t done = 0;
    while (to >= 0 && done < size) {
        const ssize_t n = sendfile(to, from, NULL, size - done);
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    close(from);
    if (to >= 0 &&
        (done < size ||
         fcntl(to, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)) {
        close(to);
        return -1;
    }
    return to;
}
