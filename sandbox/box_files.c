// SPDX-License-Identifier: Apache-2.0
// Which files, and which processes, can be reached, by Landlock: a second wall inside the root of a
// jail, and the only one in a cage. Nothing is allowed that a rule does not name.
#include "sandbox/box.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// The kernel's numbers (include/uapi/linux/landlock.h), because a system's headers may be older
// than its kernel; each with the version of the interface that brought it.
struct ruleset_attr {
    uint64_t fs, net, scope; // handled; net is read since version 4, scope since 6
};
struct path_attr {
    uint64_t allowed;
    int32_t parent_fd;
} __attribute__((packed));
enum { CREATE_VERSION = 1, RULE_PATH = 1 };
enum {
    FS_EXECUTE = 1 << 0,
    FS_WRITE_FILE = 1 << 1,
    FS_READ_FILE = 1 << 2,
    FS_READ_DIR = 1 << 3,
    FS_MAKE_CHAR = 1 << 6,
    FS_MAKE_SOCK = 1 << 9,
    FS_MAKE_BLOCK = 1 << 11,
    FS_V1 = (1 << 13) - 1,
    FS_REFER = 1 << 13,    // 2
    FS_TRUNCATE = 1 << 14, // 3
    FS_IOCTL_DEV = 1 << 15 // 5
};
enum { NET_TCP = 3 };      // bind and connect, 4
enum { SCOPE_ALL = 3 };    // abstract sockets and signals, 6
enum { CAGE_VERSION = 6 }; // without pid namespace, signals must be kept in

// What makes sense for a file that is no directory.
#define FILE_RIGHTS (FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV)
#define READ        (FS_READ_FILE | FS_READ_DIR)
#define WORK                                                                                       \
    ((FS_V1 | FS_REFER | FS_TRUNCATE) & ~(FS_EXECUTE | FS_MAKE_CHAR | FS_MAKE_BLOCK | FS_MAKE_SOCK))

struct rule {
    const char *path; // passed over where it is not there
    uint64_t rights;
};

static const struct rule python_rules[] = {
    {"/", READ}, {"/dev/null", FS_READ_FILE | FS_WRITE_FILE}, {BOX_WORKDIR, WORK}, {0}};
static const struct rule compiler_rules[] = {{"/usr", READ | FS_EXECUTE},
                                             {"/bin", READ | FS_EXECUTE},
                                             {"/lib", READ | FS_EXECUTE},
                                             {"/lib64", READ | FS_EXECUTE},
                                             {"/dev/null", FS_READ_FILE | FS_WRITE_FILE},
                                             {BOX_WORKDIR, WORK},
                                             {0}};
// The loader is started by the kernel, which asks for the right to execute it.
static const struct rule program_rules[] = {{"/usr/lib", READ | FS_EXECUTE},
                                            {"/lib", READ | FS_EXECUTE},
                                            {"/lib64", READ | FS_EXECUTE},
                                            {"/dev/urandom", FS_READ_FILE},
                                            {"/dev/null", FS_READ_FILE | FS_WRITE_FILE},
                                            {BOX_WORKDIR, WORK},
                                            {0}};
static const struct rule cage_rules[] = {
    {"/dev/urandom", FS_READ_FILE}, {"/dev/null", FS_READ_FILE | FS_WRITE_FILE}, {0}};

int files_prepare(struct wire_hello *hello, struct box *box)
{
    const long abi = syscall(SYS_landlock_create_ruleset, NULL, (size_t)0, CREATE_VERSION);
    const int wanted = box->jail ? 1 : CAGE_VERSION;
    errno = 0;
    if (abi < wanted)
        return box_fail(hello, "Landlock of version %d is needed for tier %s, the kernel has %s%ld",
                        wanted, box->jail ? WIRE_JAIL : WIRE_CAGE, abi > 0 ? "version " : "none, ",
                        abi);
    box->landlock = (int)abi;
    return 0;
}

static int allow(int ruleset, const char *path, uint64_t rights)
{
    struct stat st;
    const int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -1;
    int rc = fstat(fd, &st);
    const struct path_attr attr = {.allowed = S_ISDIR(st.st_mode) ? rights : rights & FILE_RIGHTS,
                                   .parent_fd = fd};
    if (rc == 0)
        rc = (int)syscall(SYS_landlock_add_rule, ruleset, RULE_PATH, &attr, 0u);
    const int saved = errno;
    close(fd);
    errno = saved;
    return rc;
}

static int allow_all(int ruleset, const struct rule *rules, uint64_t handled)
{
    int rc = 0;
    for (; rules->path != NULL && rc == 0; rules++)
        rc = allow(ruleset, rules->path, rules->rights & handled);
    return rc;
}

static int allow_host_python(int ruleset, const struct box *box)
{
    int rc = allow(ruleset, python_stdlib(), READ);
    const char *end = box->objects + box->objects_len;
    for (const char *p = box->objects; p < end && rc == 0; p += strlen(p) + 1)
        rc = allow(ruleset, p, FS_READ_FILE);
    return rc;
}

int files_ruleset(const struct box *box, enum wire_kind kind)
{
    const int abi = box->landlock;
    const uint64_t fs = (uint64_t)FS_V1 | (abi >= 2 ? FS_REFER : 0) | (abi >= 3 ? FS_TRUNCATE : 0) |
                        (abi >= 5 ? FS_IOCTL_DEV : 0);
    const struct ruleset_attr attr = {
        .fs = fs, .net = abi >= 4 ? NET_TCP : 0, .scope = abi >= 6 ? SCOPE_ALL : 0};
    const size_t size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
    const int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0u);
    if (ruleset < 0)
        return -1;
    int rc;
    if (!box->jail) {
        rc = allow_all(ruleset, cage_rules, fs);
        rc = rc == 0 ? allow_host_python(ruleset, box) : rc;
    } else {
        rc = allow_all(ruleset,
                       kind == WIRE_JOB_COMPILE   ? compiler_rules
                       : kind == WIRE_JOB_EXECUTE ? program_rules
                                                  : python_rules,
                       fs);
    }
    if (rc == 0)
        return ruleset;
    const int saved = errno;
    close(ruleset);
    errno = saved;
    return -1;
}

int files_restrict(int ruleset) { return (int)syscall(SYS_landlock_restrict_self, ruleset, 0u); }
