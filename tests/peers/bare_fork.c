// SPDX-License-Identifier: Apache-2.0
// What a warm interpreter costs by itself: the interpreter of gradus-box, forked for every program,
// with a pipe for its output and nothing that isolates it. Prints programs a second and
// milliseconds of CPU time a program. usage: bare_fork PROGRAMS SOURCE EXPECTED
#include <Python.h>

#include "sandbox/box.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int box_fail(struct wire_hello *hello, const char *fmt, ...)
{
    va_list ap;
    (void)hello;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    return -1;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double cpu_seconds(void)
{
    double s = 0;
    static const int whose[] = {RUSAGE_SELF, RUSAGE_CHILDREN};
    for (int i = 0; i < 2; i++) {
        struct rusage u;
        getrusage(whose[i], &u);
        s += (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
             (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
    }
    return s;
}

static int run_source(const char *source)
{
    PyObject *names = PyModule_GetDict(PyImport_AddModule("__main__"));
    PyObject *code = Py_CompileString(source, "<program>", Py_file_input);
    PyObject *result = code != NULL ? PyEval_EvalCode(code, names, names) : NULL;
    PyObject *flushed = PyObject_CallMethod(PySys_GetObject("stdout"), "flush", NULL);
    return result != NULL && flushed != NULL ? 0 : 1;
}

static int run_fork(const char *source, const char *expected)
{
    int fds[2], status = 1;
    char out[256];
    if (pipe(fds) != 0)
        return -1;
    PyOS_BeforeFork();
    const pid_t pid = fork();
    if (pid == 0) {
        PyOS_AfterFork_Child();
        dup2(fds[1], 1);
        close(fds[0]);
        close(fds[1]);
        _exit(run_source(source));
    }
    PyOS_AfterFork_Parent();
    close(fds[1]);
    size_t len = 0;
    ssize_t n;
    while ((n = read(fds[0], out + len, sizeof out - 1 - len)) > 0)
        len += (size_t)n;
    close(fds[0]);
    out[len] = 0;
    return waitpid(pid, &status, 0) == pid && status == 0 && strcmp(out, expected) == 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
    struct wire_hello hello = {0};
    const int programs = argc == 4 ? atoi(argv[1]) : 0, out = dup(1);
    if (programs <= 0 || out < 0) {
        fprintf(stderr, "usage: bare_fork PROGRAMS SOURCE EXPECTED\n");
        return 2;
    }
    if (python_warm(&hello) != 0)
        return 1;
    const double start = seconds(), cpu = cpu_seconds();
    for (int i = 0; i < programs; i++) {
        if (run_fork(argv[2], argv[3]) != 0) {
            dprintf(2, "bare_fork: the program did not print what it should\n");
            return 1;
        }
    }
    dprintf(out, "%.1f %.4f\n", programs / (seconds() - start),
            1e3 * (cpu_seconds() - cpu) / programs);
    return 0;
}
