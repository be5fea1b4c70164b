// SPDX-License-Identifier: Apache-2.0
// The root directory of a box: a small tmpfs holding, bound read-only, the standard library and
// exactly those shared objects that the warm interpreter has mapped, two devices, and the mount
// point of the working directory. No /proc, no /sys, no programs.
#include "sandbox/box.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// Where the new root is put together. /proc is there on every system, is not needed any more by
// now, and holds nothing that is bound.
#define STAGE        "/proc"
#define PATH_MAX_BOX 1024

static int make_parents(char *path)
{
    for (char *slash = path + sizeof STAGE; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = 0;
        const int rc = mkdir(path, 0755);
        *slash = '/';
        if (rc != 0 && errno != EEXIST)
            return -1;
    }
    return 0;
}

// Binds path (a file or a directory) read-only to the same place under the stage. Twice is fine.
static int bind_path(struct wire_hello *hello, const char *path, bool device)
{
    char to[PATH_MAX_BOX];
    struct stat st;
    if ((size_t)snprintf(to, sizeof to, "%s%s", STAGE, path) >= sizeof to || stat(path, &st) != 0)
        return box_fail(hello, "finding %s", path);
    if (make_parents(to) != 0)
        return box_fail(hello, "making the directory of %s", to);
    if (S_ISDIR(st.st_mode)) {
        if (mkdir(to, 0755) != 0)
            return errno == EEXIST ? 0 : box_fail(hello, "making %s", to);
    } else {
        const int fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (fd < 0)
            return errno == EEXIST ? 0 : box_fail(hello, "making %s", to);
        close(fd);
    }
    if (mount(path, to, NULL, MS_BIND, NULL) != 0)
        return box_fail(hello, "binding %s", path);
    // mount_setattr changes what it is told to and leaves flags alone that an outer namespace has
    // locked.
    struct mount_attr attr = {
        .attr_set = MOUNT_ATTR_NOSUID |
                    (device ? MOUNT_ATTR_NOEXEC : MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV)};
    if (syscall(SYS_mount_setattr, AT_FDCWD, to, 0u, &attr, sizeof attr) != 0)
        return box_fail(hello, "making %s read-only", to);
    return 0;
}

// Every shared object in this process's memory map, whose text is given; the box's own executable
// is none.
static int bind_objects(struct wire_hello *hello, char *maps, const char *self)
{
    char *rest = maps;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
        const char *path = strchr(line, '/');
        if (path != NULL && strcmp(path, self) != 0 && strncmp(path, "/dev/", 5) != 0 &&
            bind_path(hello, path, false) != 0)
            return -1;
    }
    return 0;
}

static char *read_maps(void)
{
    enum { SIZE = 1 << 20 };
    char *text = malloc(SIZE);
    const int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    size_t len = 0;
    ssize_t n = fd < 0 || text == NULL ? -1 : 1;
    while (n > 0 && len < SIZE - 1) {
        n = read(fd, text + len, SIZE - 1 - len);
        len += n > 0 ? (size_t)n : 0;
    }
    if (fd >= 0)
        close(fd);
    if (n != 0) {
        free(text);
        return NULL;
    }
    text[len] = 0;
    return text;
}

static int fill_stage(struct wire_hello *hello, char *maps, const char *self)
{
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return box_fail(hello, "making the mounts private");
    if (mount("box", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=1024,mode=755") != 0)
        return box_fail(hello, "mounting a tmpfs");
    // The library comes first: extension modules that are mapped already lie inside it.
    if (bind_path(hello, python_stdlib(), false) != 0 || bind_objects(hello, maps, self) != 0 ||
        bind_path(hello, "/dev/null", true) != 0 || bind_path(hello, "/dev/urandom", true) != 0)
        return -1;
    if (mkdir(STAGE BOX_WORKDIR, 0700) != 0 || symlink(&BOX_WORKDIR[1], STAGE "/tmp") != 0)
        return box_fail(hello, "making the working directory");
    return 0;
}

int root_enter(struct wire_hello *hello)
{
    char self[PATH_MAX_BOX];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    char *maps = n > 0 ? read_maps() : NULL;
    if (maps == NULL)
        return box_fail(hello, "reading /proc/self/exe and /proc/self/maps");
    self[n] = 0;
    const int rc = fill_stage(hello, maps, self);
    free(maps);
    if (rc != 0)
        return rc;
    // pivot_root(2), "pivot_root(".", ".")": the old root lies over the new one and is taken off.
    if (chdir(STAGE) != 0 || syscall(SYS_pivot_root, ".", ".") != 0 ||
        umount2(".", MNT_DETACH) != 0 || chdir("/") != 0)
        return box_fail(hello, "changing the root");
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) != 0)
        return box_fail(hello, "making the root read-only");
    return 0;
}
