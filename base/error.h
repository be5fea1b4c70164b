// SPDX-License-Identifier: Apache-2.0
// Errors. A fallible function returns 0 or one of the negative codes below and leaves its outputs
// untouched; the message is set once, where the fault is seen, and kept per thread. Callers clean
// up and return the code as it is. The codes are the program's exit codes, negated.
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

enum err {
    ERR_CHECK = -1,       // a check or comparison failed
    ERR_CONFIG = -2,      // usage, or a config that is missing or malformed
    ERR_DATA = -3,        // a data file that is missing or malformed
    ERR_MODEL = -4,       // model or tokenizer files, missing, malformed, or holding NaN or Inf
    ERR_ENV = -5,         // environment: device, sandbox, memory
    ERR_WRITE = -6,       // a file or directory could not be written
    ERR_NUMERIC = -7,     // NaN or Inf computed by a run
    ERR_INTERRUPTED = -75 // interrupted and saved
};

// Sets this thread's message (one line unless it lists several faults; values in quotes) and
// returns code.
int err_set(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// This thread's last message; "" when none was set. Valid until the next err_set of the thread.
const char *err_message(void);

// Ends the process with exit code 5 and a line on standard error: the host is out of memory.
void die_out_of_memory(unsigned long bytes) __attribute__((noreturn));

#ifdef __cplusplus
}
#endif

#endif
