// SPDX-License-Identifier: Apache-2.0
// The root directory of a box: a small tmpfs holding, bound read-only, what its language needs, two
// devices, and the mount point of the working directory. For Python that is the standard library
// and exactly those shared objects that it loads: no programs. For a
// compiled language it is the system's programs, headers and libraries. No /proc, no /sys, no
// settings, nobody's files.
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
    // What is mounted further down comes along, because a namespace may not uncover it.
    if (mount(path, to, NULL, MS_BIND | MS_REC, NULL) != 0)
        return box_fail(hello, "binding %s", path);
    // mount_setattr changes what it is told to and leaves flags alone that an outer namespace has
    // locked.
    struct mount_attr attr = {
        .attr_set = MOUNT_ATTR_NOSUID |
                    (device ? MOUNT_ATTR_NOEXEC : MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV)};
    if (syscall(SYS_mount_setattr, AT_FDCWD, to, AT_RECURSIVE, &attr, sizeof attr) != 0)
        return box_fail(hello, "making %s read-only", to);
    return 0;
}

int root_bind_python(struct wire_hello *hello, const struct box *box)
{
    // The library comes first: extension modules that are mapped already lie inside it.
    int rc = bind_path(hello, python_stdlib(), false);
    const char *end = box->objects + box->objects_len;
    for (const char *p = box->objects; p < end && rc == 0; p += strlen(p) + 1)
        rc = bind_path(hello, p, false);
    return rc;
}

// A directory, or the link that stands in its place where all programs live below /usr; passed over
// where there is neither.
static int bind_or_link(struct wire_hello *hello, const char *path)
{
    char to[PATH_MAX_BOX], target[PATH_MAX_BOX];
    const ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 0 && errno == ENOENT)
        return 0;
    if (n < 0)
        return errno == EINVAL ? bind_path(hello, path, false)
                               : box_fail(hello, "reading the link %s", path);
    target[n] = 0;
    snprintf(to, sizeof to, "%s%s", STAGE, path);
    return symlink(target, to) == 0 ? 0 : box_fail(hello, "making the link %s", to);
}

int root_bind_compiler(struct wire_hello *hello, const struct box *box)
{
    (void)box;
    static const char *const places[] = {"/usr/bin",     "/usr/include", "/usr/lib", "/usr/lib64",
                                         "/usr/libexec", "/bin",         "/lib",     "/lib64"};
    int rc = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places && rc == 0; i++)
        rc = bind_or_link(hello, places[i]);
    return rc;
}

static int fill_stage(struct wire_hello *hello, const struct box *box)
{
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return box_fail(hello, "making the mounts private");
    if (mount("box", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=1024,mode=755") != 0)
        return box_fail(hello, "mounting a tmpfs");
    if (box->language->bind(hello, box) != 0 || bind_path(hello, "/dev/null", true) != 0 ||
        bind_path(hello, "/dev/urandom", true) != 0)
        return -1;
    if (mkdir(STAGE BOX_WORKDIR, 0700) != 0 || symlink(&BOX_WORKDIR[1], STAGE "/tmp") != 0)
        return box_fail(hello, "making the working directory");
    return 0;
}

int root_enter(struct wire_hello *hello, const struct box *box)
{
    if (fill_stage(hello, box) != 0)
        return -1;
    // pivot_root(2), "pivot_root(".", ".")": the old root lies over the new one and is taken off.
    if (chdir(STAGE) != 0 || syscall(SYS_pivot_root, ".", ".") != 0 ||
        umount2(".", MNT_DETACH) != 0 || chdir("/") != 0)
        return box_fail(hello, "changing the root");
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) != 0)
        return box_fail(hello, "making the root read-only");
    return 0;
}
