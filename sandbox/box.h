// SPDX-License-Identifier: Apache-2.0
// The parts of gradus-box, the small executable that is a slot of the sandbox. It links CPython and
// libseccomp, nothing of the model, and is built without sanitizers, which cannot live under an
// address-space limit. Its life:
//   box_main.c    launcher: becomes an unprivileged user, makes the namespaces, forks PID 1 of them
//   and waits for it box_python.c  PID 1 starts the interpreter and imports what programs commonly
//   import box_root.c    and moves into a root that holds only the files which that interpreter
//   needs, read-only box_seccomp.c compiles the system call filter box_zygote.c  then runs one
//   program at a time, each in a fork of itself: box_child.c   the fork locks itself in, step by
//   step, box_program.c and only then reads the program and runs it.
#ifndef SANDBOX_BOX_H
#define SANDBOX_BOX_H

#include "sandbox/wire.h"
#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>

#define BOX_WORKDIR                                                                                \
    "/box" // the one writable directory, a fresh tmpfs for every program; /tmp is a link to it

// What could not be built, for struct wire_hello: sets errnum from errno and text, returns -1.
int box_fail(struct wire_hello *hello, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

int python_warm(struct wire_hello *hello);
const char *python_stdlib(void); // directory of the standard library; after python_warm
int root_enter(struct wire_hello *hello);
int filter_build(struct wire_hello *hello,
                 struct sock_fprog *out); // the program's memory stays for good

// Serves runs until the supervisor closes the control socket. Returns the exit status of the box.
int zygote_serve(const struct sock_fprog *filter, size_t base_kib);

struct child {
    struct wire_limits limits;
    int fds[WIRE_FDS];
    int ready;       // pipe: one byte when hardened, or struct child_failure
    size_t base_kib; // address space of the interpreter itself
    const struct sock_fprog *filter;
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
