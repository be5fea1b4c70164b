// SPDX-License-Identifier: Apache-2.0
// One slot: a gradus-box process, and the program that it runs just now. Used by the supervisor's
// thread alone (slot_start apart, which comes before it). Nothing here waits, slot_stop excepted,
// which waits for a process that is ending.
#ifndef SANDBOX_SLOT_H
#define SANDBOX_SLOT_H

#include "base/str.h"
#include "sandbox/sandbox.h"
#include "sandbox/wire.h"
#include <sys/types.h>

enum slot_state { SLOT_DOWN, SLOT_STARTING, SLOT_IDLE, SLOT_BUSY };
enum slot_stream { SLOT_OUT, SLOT_ERR, SLOT_RECORDS, SLOT_STREAMS };

// What goes into the box: a program, its input, and for WIRE_JOB_CALLS the calls. A compiler's
// source is its input, and an executable comes as a descriptor, which stays the caller's.
struct slot_program {
    enum wire_kind kind;
    unsigned compiler; // for WIRE_JOB_COMPILE
    int executable;    // for WIRE_JOB_EXECUTE
    const char *source;
    size_t source_len;
    const struct strbuf *entry, *check, *args; // NULL: empty
    int calls;
    const char *input; // standard input
    size_t input_len;
    struct sandbox_limits limits; // none 0
};

struct slot {
    enum slot_state state;
    enum sandbox_tier tier;
    int compilers; // that its box has
    pid_t launcher;
    int control;
    int runs; // since it was started
    uint32_t serial;
    // Of the program that runs (SLOT_BUSY) or ran last:
    int fds[SLOT_STREAMS];           // read ends; -1 once closed
    struct strbuf got[SLOT_STREAMS]; // what was read: at most the limit and one byte
    size_t limit;                    // bytes of a stream
    uint8_t nonce[16];
    enum wire_kind kind;
    int made;                   // of WIRE_JOB_COMPILE: the executable; -1: there is none
    bool wall, output, starved; // killed for it
    // Seconds, monotonic. started: of the program, or while SLOT_STARTING of the box.
    double started, wall_deadline, kill_deadline; // kill_deadline 0: not killed
    double wall_limit;                            // seconds
};

double slot_clock(void); // seconds, monotonic

// language: as gradus-box calls it. ERR_ENV.
int slot_start(struct slot *s, const char *box_path, enum sandbox_tier tier, const char *language);
void slot_stop(struct slot *s);
void slot_free(struct slot *s); // stops it and frees the buffers

// Hands the program over; the slot is busy then. ERR_ENV: it could not be, and the slot is to be
// stopped.
int slot_begin(struct slot *s, const struct slot_program *p);
// Reads what there is of a stream. At its end, or past the limit, closes it.
void slot_read(struct slot *s, enum slot_stream i);
void slot_kill(struct slot *s); // the program; the box will report it
// The program is past its deadline: kills it, or, when it was kept from running, puts the deadline
// off.
void slot_overdue(struct slot *s, double now);
// One message of the box. 1: *done holds the end of the program; 2: it is ready (SLOT_IDLE); 0:
// nothing yet, or news of an old run; -1: the box is gone or talks nonsense, *hello_text (of size
// 256) says what it had to say.
int slot_receive(struct slot *s, struct wire_done *done, char *hello_text);
void slot_finish(struct slot *s); // reads the rest of the streams, closes them; the slot is idle

#endif
