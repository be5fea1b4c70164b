// SPDX-License-Identifier: Apache-2.0
// The parts of gradus-box, the small executable that is a slot of the sandbox. It links CPython and
// libseccomp, nothing of the model, and is built without sanitizers, which cannot live under an
// address-space limit. Its life:
//   box_main.c     launcher: becomes an unprivileged user, makes the namespaces, forks PID 1 of
//                  them and waits for it
//   box_python.c   PID 1 starts the interpreter and imports what programs commonly import, or
//   box_compiler.c finds the compilers
//   box_root.c     and moves into a root that holds only what its language needs, read-only
//   box_seccomp.c  compiles the system call filters of box_policy.c
//   box_zygote.c   then runs one program at a time, each in a fork of itself:
//   box_workdir.c  gives it an empty working directory,
//   box_files.c    says by Landlock which files it may use,
//   box_child.c    the fork locks itself in, step by step,
//   box_program.c  and only then reads the program and runs it.
// In tier cage there are no namespaces, no root and no working directory: Landlock alone keeps the
// host's files out, and its scopes keep signals in.
#ifndef SANDBOX_BOX_H
#define SANDBOX_BOX_H

#include "sandbox/wire.h"
#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

// The one writable directory, a fresh tmpfs for every program that finds it otherwise than empty;
// /tmp is a link to it.
#define BOX_WORKDIR "/box"
// What a compiler makes, in it.
#define BOX_MADE "program"

struct box;
struct box_language {
    const char *name;
    bool needs_jail; // compilers write files
    int (*warm)(struct wire_hello *hello);
    int (*bind)(struct wire_hello *hello, const struct box *box); // what the root holds
};

struct box {
    bool jail;     // else a cage
    bool own_user; // that nothing else runs as, in this user namespace
    int landlock;  // the version that the kernel has
    int cpus;      // that a program's threads could use at once
    const struct box_language *language;
    struct sock_fprog filters[WIRE_JOB_KINDS]; // empty: of another language
    size_t base_kib;                           // address space of the interpreter itself
    char *objects; // paths of the shared objects that are loaded or may be, each terminated, one
                   // after the other
    size_t objects_len;
};

// What could not be built, for struct wire_hello: sets errnum from errno and text, returns -1.
int box_fail(struct wire_hello *hello, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

int python_warm(struct wire_hello *hello);
const char *python_stdlib(void); // directory of the standard library; after python_warm
int python_note_objects(struct wire_hello *hello,
                        struct box *box); // sets box->objects

pid_t python_fork(void); // fork, with what the interpreter needs before and after it

int compiler_find(struct wire_hello *hello); // sets hello->compilers
// In the child. They return only when the executable cannot be started.
void compiler_exec(unsigned which);
void program_exec(int fd);

int root_enter(struct wire_hello *hello, const struct box *box);
int root_bind_python(struct wire_hello *hello, const struct box *box);
int root_bind_compiler(struct wire_hello *hello, const struct box *box);

// Landlock. files_prepare sets box->landlock. files_ruleset: a descriptor, or -1 with errno, for a
// run of that kind; the working directory must be there.
int files_prepare(struct wire_hello *hello, struct box *box);
int files_ruleset(const struct box *box, enum wire_kind kind);
int files_restrict(int ruleset); // this process and what it starts

// Serves runs until the supervisor closes the control socket. Returns the exit status of the box.
int zygote_serve(const struct box *box);

// The directory that is mounted just now.
struct workdir {
    bool mounted;
    uint32_t disk_kib, files;
    struct stat clean;   // as it was when it was made
    int ruleset;         // of Landlock, which names it; 0: not made yet
    enum wire_kind kind; // of which
};
// An empty directory of these limits. -1 with errno.
int workdir_prepare(struct workdir *w, const struct wire_limits *limits);
// After the last process of a run: keeps the directory only when the program left it untouched. -1
// with errno.
int workdir_settle(struct workdir *w);
// The executable that a compiler made, in a sealed file in memory; -1: there is none that could be
// taken.
int workdir_take_program(size_t size_max);

struct child {
    const struct box *box;
    enum wire_kind kind;
    unsigned compiler;
    struct wire_limits limits;
    int fds[WIRE_FDS];
    int ready;   // pipe: one byte when hardened, or struct child_failure, or both
    int ruleset; // of Landlock
    pid_t parent;
};
struct child_failure {
    uint8_t step;
    int32_t errnum;
};
_Noreturn void child_run(const struct child *child); // in the fork

// Runs the job of fd `job`, reporting to fd `records`; returns the exit status for the process.
int program_run(int job, int records);

// Typed values, Python's side. decode: a new reference, or NULL with an exception. encode: false
// when v is not plain data (*why then names the type or the reason, statically or in a buffer of
// its own that lives until the next call) or is too long.
struct python_bytes {
    unsigned char *data;
    size_t len, cap;
};
struct _object *python_decode(const unsigned char *in, size_t len, size_t *used);
bool python_encode(struct python_bytes *out, struct _object *v, char *why, size_t why_size);
int python_codec_prepare(
    void); // looks up the dict types of `collections`; before any program can patch them

#endif
