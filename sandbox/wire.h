// SPDX-License-Identifier: Apache-2.0
// What the supervisor and gradus-box say to each other. Both are built from this tree at once, so
// structures travel as they are; a version guards against a box of another build. Three channels:
//  1. the control socket (SOCK_SEQPACKET), between supervisor and zygote: struct wire_run with
//  descriptors (enum wire_fd) and
//     WIRE_KILL one way, struct wire_hello and struct wire_done the other. The zygote only passes
//     the descriptors on: it never sees a program, its input or its output, so nothing of one run
//     is in the memory that the next one inherits.
//  2. the job, a sealed memory file: struct wire_job and the texts it announces; for
//  WIRE_JOB_EXECUTE
//     it is the executable itself, and WIRE_JOB_COMPILE has the source as its standard input.
//  3. the record pipe, from the program's process: hostile bytes, parsed by sandbox/records.h.
#ifndef SANDBOX_WIRE_H
#define SANDBOX_WIRE_H

#include <stdint.h>

#define WIRE_VERSION    3
#define WIRE_CONTROL_FD 3 // of gradus-box at its start

// gradus-box TIER LANGUAGE: what it is to be.
#define WIRE_JAIL   "jail"
#define WIRE_CAGE   "cage"
#define WIRE_PYTHON "python"
#define WIRE_C      "c"

enum wire_fd {
    WIRE_FD_STDIN,
    WIRE_FD_STDOUT,
    WIRE_FD_STDERR,
    WIRE_FD_JOB,
    WIRE_FD_RECORDS,
    WIRE_FDS
};

// The namespaces of a box, as /proc/PID/ns names them.
#define WIRE_NAMESPACES                                                                            \
    {                                                                                              \
        "user", "pid", "net", "mnt", "ipc", "uts", "cgroup"                                        \
    }
#define WIRE_NAMESPACES_NUM 7

// Zygote to supervisor, once. ok is 0 when the box could not be built: text then says why and
// errnum is the errno of it. namespaces are the ids of those that it is in.
struct wire_hello {
    uint32_t version;
    int32_t ok;
    int32_t errnum;
    uint32_t compilers;
    uint64_t namespaces[WIRE_NAMESPACES_NUM];
    char text[232];
};

enum wire_command { WIRE_RUN, WIRE_KILL };

struct wire_limits {
    uint32_t cpu_ms, memory_kib, disk_kib, files, threads;
};

// Supervisor to zygote. A WIRE_KILL carries the serial of the run that it means and no descriptors.
struct wire_run {
    uint32_t command;
    uint32_t serial;
    uint32_t kind;     // enum wire_kind
    uint32_t compiler; // which of the box's, for WIRE_JOB_COMPILE
    struct wire_limits limits;
};

// Zygote to supervisor: the process was reaped and everything in the box swept. After a successful
// WIRE_JOB_COMPILE the executable comes with it, a sealed memory file.
struct wire_done {
    uint32_t serial;
    int32_t status;       // as wait4 gives it
    uint32_t cpu_us;      // user and system
    uint32_t peak_kib;    // largest resident set
    uint8_t cpu_killed;   // killed for its CPU time
    uint8_t hardened;     // every step of the set-up was done before the program ran
    uint8_t failed_step;  // else the step, an index into the table of box_child.c,
    uint8_t swept;        // other processes found in the box: there should never be any
    int32_t failed_errno; // and the errno
};

enum wire_kind {
    WIRE_JOB_RUN,     // run the source; nothing to report but how it ended
    WIRE_JOB_CALLS,   // then call `entry` with each arguments list
    WIRE_JOB_ASSERTS, // then run `check` in the same namespace and give the nonce as the proof of
                      // its end
    WIRE_JOB_COMPILE, // make an executable of standard input
    WIRE_JOB_EXECUTE, // run it
    WIRE_JOB_KINDS
};

// Header of the job file. Then: source, entry, check, and for every call the arguments (an encoded
// list, value.h).
struct wire_job {
    uint32_t version, kind;
    uint32_t source_len, entry_len, check_len, calls, args_len; // args_len: of all calls together
    uint8_t nonce[16];
};

// Header of a record; `len` bytes follow.
struct wire_record {
    uint8_t kind;
    uint8_t cause; // enum wire_cause, for errors
    uint16_t zero;
    uint32_t call; // index; 0 where there is none
    uint32_t len;
};

enum wire_record_kind {
    WIRE_ANSWER = 'A',  // what a call returned: one encoded value
    WIRE_REFUSED = 'R', // a call returned something that is not plain data: text says what
    WIRE_RAISED = 'X',  // a call raised: text
    WIRE_ERROR = 'E',   // the program raised outside calls: text
    WIRE_PROOF = 'P'    // the nonce: the check ran to its end
};

enum wire_cause { WIRE_CAUSE_OTHER, WIRE_CAUSE_MEMORY, WIRE_CAUSE_ASSERT, WIRE_CAUSE_EXIT };

// Encoding of plain Python values: a tag, then
enum wire_tag {
    WIRE_NONE = 'N',    // nothing
    WIRE_TRUE = 'T',    // nothing
    WIRE_FALSE = 'F',   // nothing
    WIRE_INT = 'i',     // u32 length, hexadecimal digits with a leading '-' when negative, no
                        // superfluous zeros
    WIRE_FLOAT = 'f',   // 8 bytes, IEEE double
    WIRE_COMPLEX = 'c', // two of them
    WIRE_STR = 's',     // u32 length, UTF-8 (lone surrogates encoded as if they were characters)
    WIRE_BYTES = 'b',   // u32 length, bytes
    WIRE_LIST = 'l',    // u32 count, values
    WIRE_TUPLE = 't',   // u32 count, values
    WIRE_SET = 'S',     // u32 count, values; frozensets as well, since they compare equal
    WIRE_DICT = 'd'     // u32 count, key and value each
};
#define WIRE_DEPTH_MAX 64
#define WIRE_VALUE_MAX (1u << 20) // bytes of one value

#endif
