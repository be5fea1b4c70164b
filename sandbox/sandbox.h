// SPDX-License-Identifier: Apache-2.0
// The sandbox: runs untrusted programs against tests, and says what happened. A supervisor thread
// in this process feeds slots; a slot is a gradus-box process, a warm Python interpreter (or, for
// C, what starts compilers and executables) that is PID 1 of its own user, pid, net, mount, ipc,
// uts and cgroup namespaces with a read-only root of its own; every program runs in a fork of it
// that is hardened first (rlimits, no_new_privs, no capabilities, Landlock, seccomp allow-list).
// Expected outputs never enter a box: what a program printed or returned is compared here. Where
// the box cannot be built, sandbox_open refuses; nothing is ever run outside.
//
// All functions may be called from several threads at once, sandbox_close excepted.
#ifndef SANDBOX_SANDBOX_H
#define SANDBOX_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json;
struct json_doc;
struct sandbox;
struct sandbox_tests;

// In order of precedence, the weakest first: when several hold, the last of them is the verdict.
enum sandbox_verdict {
    SANDBOX_OK,         // every test passed
    SANDBOX_WRONG,      // ran, and a result differs from what was expected
    SANDBOX_INCOMPLETE, // ended by itself without the proof that it ran to its end
    SANDBOX_RUNTIME,    // an uncaught exception (syntax errors included), or an exit status that is
                        // not 0
    SANDBOX_SIGNAL,     // killed by a signal of its own making
    SANDBOX_COMPILE,    // could not be compiled, or not within the compiler's limits
    SANDBOX_MEMORY,     // needed more memory than the limit
    SANDBOX_WALL,       // did not end within the wall-clock limit
    SANDBOX_CPU,        // used up its CPU time
    SANDBOX_OUTPUT,     // wrote more than the limit
    SANDBOX_VIOLATION,  // tried a system call that only an attack makes, and was killed for it
    SANDBOX_INTERNAL // our fault, or no tests: says nothing about the program and is never scored
};
const char *sandbox_verdict_name(
    enum sandbox_verdict v); // "ok", "wrong", ... as in files and on the command line

// What holds a program, the strongest first.
enum sandbox_tier {
    SANDBOX_JAIL, // namespaces, a root of its own, Landlock, system call filter, limits
    SANDBOX_CAGE  // where namespaces are forbidden, as they are in most containers: Landlock
                  // (version 6), system call filter, limits. The host's files cannot be opened or
                  // listed, but that they are there can be seen; there is no directory to write to;
                  // Python only
};
const char *sandbox_tier_name(enum sandbox_tier t); // "jail", "cage"
bool sandbox_tier_find(enum sandbox_tier *out, const char *name);

enum sandbox_language {
    SANDBOX_PYTHON,
    SANDBOX_C, // compiled in the box, once a source: by tcc when there is one, by gcc when there is
               // none or tcc does not know what the program uses
    SANDBOX_LANGUAGES
};
const char *sandbox_language_name(enum sandbox_language l); // "python", "c"
bool sandbox_language_find(enum sandbox_language *out, const char *name);

// Of one program, each test's process alone. 0 means the default in brackets.
struct sandbox_limits {
    int cpu_ms;     // [2000] CPU time, all threads
    int wall_ms;    // [2 cpu_ms + 1000]
    int memory_kib; // [262144] address space beyond the interpreter's own
    int output_kib; // [1024] standard output and standard error, each; and all results returned by
                    // function calls
    int disk_kib;   // [16384] what the working directory can hold
    int files;      // [256] files and directories in it
    int threads;    // [16] besides the first
};

struct sandbox_options {
    enum sandbox_tier tier; // [jail] the weakest that will do; what is weaker is refused
    int slots;              // [the number of CPUs this process may use] programs that run at once
    const char *box_path; // [beside the running executable, or in ../sandbox/ of it] the gradus-box
                          // executable
    int retire_runs; // [1000] programs after which a slot's interpreter is replaced by a fresh one
    int keep_output; // [4096] bytes of output and of errors that a result carries
};

// options NULL: all defaults. ERR_ENV, with the reason and what would allow it, where the box
// cannot be built or is not found.
int sandbox_open(struct sandbox **out, const struct sandbox_options *options);
void sandbox_close(struct sandbox **sb); // cancels what still runs; NULL and *sb == NULL are fine
int sandbox_slots(const struct sandbox *sb);
enum sandbox_tier sandbox_tier_of(const struct sandbox *sb); // that programs run in

// Of all results since it was opened.
struct sandbox_counts {
    uint64_t verdicts[SANDBOX_INTERNAL + 1];
    uint64_t weak; // judged by tests in the program's own process
};
void sandbox_count(struct sandbox_counts *out, struct sandbox *sb);

struct sandbox_job {
    enum sandbox_language language;
    const char *source; // the program; UTF-8, need not be terminated
    size_t source_len;
    const struct sandbox_tests
        *tests; // must live until the result is collected; NULL gives SANDBOX_INTERNAL
    struct sandbox_limits limits;
    bool run_all; // go on after a failed stdin test, so that tests_passed counts them all (calls
                  // are always all made)
};

struct sandbox_result {
    enum sandbox_verdict verdict;
    int tests_passed, tests_total; // total 0: only run (sandbox_tests_new_run). Assert source that
                                   // could not be split is one test.
    int exit_code;            // of the process that decided the verdict; -1 when it did not exit
    int signal;               // that ended it; 0
    uint32_t cpu_us, wall_us; // sums over the tests' processes; wall from the hand-over to the box
                              // to the reaping
    uint32_t peak_kib;        // largest resident set, the interpreter's own (some 15 MiB) included
    enum sandbox_tier tier;
    bool weak;        // tests ran inside the program's process, which could have tampered with them
    char detail[240]; // why, one line of UTF-8: the exception, the call that differed, the limit
    char *out,
        *err; // heads of standard output and error (of the deciding process), terminated, any bytes
    size_t out_len, err_len; // bytes kept in them
};
void sandbox_result_clear(struct sandbox_result *r); // frees out and err, zeroes r

// Runs n jobs over the slots and waits. results[i] belongs to jobs[i]; each is to be cleared by the
// caller. ERR_ENV when the sandbox is broken beyond repair (a slot cannot be started again); a
// single run's trouble is SANDBOX_INTERNAL in its result.
int sandbox_run_batch(struct sandbox *sb, const struct sandbox_job *jobs, int n,
                      struct sandbox_result *results);

// The same in two halves, so that generation goes on meanwhile. submit copies source and queues;
// collect waits for that job, reap takes whichever is done first and waits at most timeout_ms (-1:
// as long as it takes): 1 when there was one, else 0. Every submitted id must be collected or
// reaped exactly once (or sandbox_close called). poll_fd is readable while a result can be taken.
int sandbox_submit(struct sandbox *sb, const struct sandbox_job *job, uint64_t *id);
int sandbox_collect(struct sandbox *sb, uint64_t id, struct sandbox_result *out);
int sandbox_reap(struct sandbox *sb, uint64_t *id, struct sandbox_result *out, int timeout_ms);
int sandbox_poll_fd(const struct sandbox *sb);

// Tests. Immutable once made, so that many jobs may share them.
// sandbox_tests_from_json reads the `tests` of a data row: [{"stdin","stdout"}, ...],
// {"entry","calls":[{"args","result"}, ...]}, or assert source as a string. Errors (ERR_DATA,
// "NAME:LINE: ..." by way of `name`): none of these, empty, a number too long.
int sandbox_tests_from_json(struct sandbox_tests **out, const struct json_doc *doc,
                            const struct json *tests, const char *name);
// Reads a whole row: `tests` as above, HumanEval's `test` + `entry_point`, or MBPP's `test_list` +
// `test_setup_code`.
int sandbox_tests_from_row(struct sandbox_tests **out, const struct json_doc *doc,
                           const struct json *row, const char *name);
bool sandbox_row_has_tests(const struct json *row);
// No tests: the program is run on this standard input, and is ok when it exits with status 0.
struct sandbox_tests *sandbox_tests_new_run(const char *input, size_t len);
int sandbox_tests_count(const struct sandbox_tests *t);
void sandbox_tests_free(struct sandbox_tests **t);

#endif
