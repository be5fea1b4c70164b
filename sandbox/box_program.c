// SPDX-License-Identifier: Apache-2.0
// The program's own process, locked in: reads the job, runs the program, reports. From the moment
// the program runs nothing here can be relied upon: it shares its memory. What is reported is a
// claim, and the supervisor treats it so.
#include <Python.h>

#include "sandbox/box.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// The job file in memory. The texts are terminated copies.
struct job {
    struct wire_job header;
    char *source, *entry, *check;
    unsigned char *args;
};

static void write_all(int fd, const void *bytes, size_t len)
{
    const char *p = bytes;
    while (len > 0) {
        const ssize_t n = write(fd, p, len);
        if (n <= 0)
            return; // the supervisor will miss the record
        p += n;
        len -= (size_t)n;
    }
}

static void report(int fd, enum wire_record_kind kind, enum wire_cause cause, uint32_t call,
                   const void *bytes, size_t len)
{
    const struct wire_record r = {
        .kind = (uint8_t)kind, .cause = (uint8_t)cause, .call = call, .len = (uint32_t)len};
    unsigned char *whole = malloc(sizeof r + len); // one write: a record is whole or not there
    if (whole == NULL)
        return;
    memcpy(whole, &r, sizeof r);
    if (len > 0)
        memcpy(whole + sizeof r, bytes, len);
    write_all(fd, whole, sizeof r + len);
    free(whole);
}

static char *read_text(int fd, size_t len)
{
    char *text = malloc(len + 1);
    size_t have = 0;
    while (text != NULL && have < len) {
        const ssize_t n = read(fd, text + have, len - have);
        if (n <= 0) {
            free(text);
            return NULL;
        }
        have += (size_t)n;
    }
    if (text != NULL)
        text[len] = 0;
    return text;
}

static bool read_job(int fd, struct job *job)
{
    if (read(fd, &job->header, sizeof job->header) != (ssize_t)sizeof job->header ||
        job->header.version != WIRE_VERSION)
        return false;
    job->source = read_text(fd, job->header.source_len);
    job->entry = read_text(fd, job->header.entry_len);
    job->check = read_text(fd, job->header.check_len);
    job->args = (unsigned char *)read_text(fd, job->header.args_len);
    close(fd);
    return job->source != NULL && job->entry != NULL && job->check != NULL && job->args != NULL;
}

// "TypeError: text" of the current exception, which stays set. The text is the program's doing.
static void describe_exception(char *out, size_t size)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyObject *text = value != NULL ? PyObject_Str(value) : NULL;
    const char *s = text != NULL ? PyUnicode_AsUTF8(text) : NULL;
    if (s == NULL) {
        PyErr_Clear();
        s = "";
    }
    const char *name =
        type != NULL && PyType_Check(type) ? ((PyTypeObject *)type)->tp_name : "exception";
    PyOS_snprintf(out, size, "%.80s%s%.400s", name, s[0] != 0 ? ": " : "", s);
    Py_XDECREF(text);
    PyErr_Restore(type, value, trace);
}

static enum wire_cause exception_cause(void)
{
    if (PyErr_ExceptionMatches(PyExc_MemoryError))
        return WIRE_CAUSE_MEMORY;
    if (PyErr_ExceptionMatches(PyExc_AssertionError))
        return WIRE_CAUSE_ASSERT;
    return PyErr_ExceptionMatches(PyExc_SystemExit) ? WIRE_CAUSE_EXIT : WIRE_CAUSE_OTHER;
}

// The status that Python would exit with on SystemExit, which is cleared.
static int exit_status(void)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyObject *code = value != NULL ? PyObject_GetAttrString(value, "code") : NULL;
    int status = 1;
    if (code == NULL || code == Py_None)
        status = 0;
    else if (PyLong_Check(code))
        status = (int)PyLong_AsLong(code) & 0xff;
    else
        PySys_FormatStderr("%S\n", code);
    PyErr_Clear();
    Py_XDECREF(code);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    return status;
}

// The current exception ends the program: reports it, shows it, and gives the exit status.
static int end_by_exception(int records)
{
    if (PyErr_ExceptionMatches(PyExc_SystemExit))
        return exit_status();
    char text[512];
    const enum wire_cause cause = exception_cause();
    describe_exception(text, sizeof text);
    report(records, WIRE_ERROR, cause, 0, text, strlen(text));
    PyErr_Print();
    return 1;
}

static int run_text(const char *text, size_t len, const char *name, PyObject *names)
{
    if (memchr(text, 0, len) != NULL) {
        PyErr_SetString(PyExc_SyntaxError, "source code cannot contain null bytes");
        return -1;
    }
    PyObject *code = Py_CompileString(text, name, Py_file_input);
    PyObject *result = code != NULL ? PyEval_EvalCode(code, names, names) : NULL;
    Py_XDECREF(code);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

// One call. 0, or -1 when the program is to end (by an exception that is not an Exception:
// SystemExit, KeyboardInterrupt).
static int run_call(int records, uint32_t call, PyObject *function, PyObject *args)
{
    PyObject *tuple = PyList_Check(args) ? PyList_AsTuple(args) : NULL;
    PyObject *result = tuple != NULL ? PyObject_Call(function, tuple, NULL) : NULL;
    Py_XDECREF(tuple);
    char text[512];
    if (result == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return -1;
        const enum wire_cause cause = exception_cause();
        describe_exception(text, sizeof text);
        PyErr_Clear();
        report(records, WIRE_RAISED, cause, call, text, strlen(text));
        return 0;
    }
    struct python_bytes value = {0};
    if (python_encode(&value, result, text, sizeof text))
        report(records, WIRE_ANSWER, WIRE_CAUSE_OTHER, call, value.data, value.len);
    else
        report(records, WIRE_REFUSED, WIRE_CAUSE_OTHER, call, text, strlen(text));
    free(value.data);
    Py_DECREF(result);
    return 0;
}

static int run_calls(int records, const struct job *job, PyObject *names)
{
    PyObject *function = PyDict_GetItemString(names, job->entry);
    if (function == NULL) {
        PyErr_Format(PyExc_NameError, "name '%s' is not defined", job->entry);
        return -1;
    }
    Py_INCREF(function);
    int rc = 0;
    size_t at = 0;
    for (uint32_t i = 0; i < job->header.calls && rc == 0; i++) {
        size_t used = 0;
        PyObject *args = python_decode(job->args + at, job->header.args_len - at, &used);
        at += used;
        rc = args != NULL ? run_call(records, i, function, args) : -1;
        Py_XDECREF(args);
    }
    Py_DECREF(function);
    return rc;
}

static void call_if_there(const char *module, const char *function)
{
    PyObject *name = PyUnicode_FromString(module);
    PyObject *m = name != NULL ? PyImport_GetModule(name) : NULL;
    PyObject *result = m != NULL ? PyObject_CallMethod(m, function, NULL) : NULL;
    if (result == NULL && PyErr_Occurred())
        PyErr_Print();
    Py_XDECREF(result);
    Py_XDECREF(m);
    Py_XDECREF(name);
}

static bool flush(const char *name)
{
    PyObject *stream = PySys_GetObject(name);
    if (stream == NULL || stream == Py_None)
        return true;
    PyObject *closed = PyObject_GetAttrString(stream, "closed");
    const bool skip = closed != NULL && PyObject_IsTrue(closed) == 1;
    PyObject *result = skip ? NULL : PyObject_CallMethod(stream, "flush", NULL);
    const bool ok = skip || result != NULL;
    PyErr_Clear();
    Py_XDECREF(closed);
    Py_XDECREF(result);
    return ok;
}

// What the interpreter does at its end, without taking itself apart: threads are waited for, exit
// functions run, streams flushed.
static int finish(int status)
{
    if (PyThreadState_Next(PyInterpreterState_ThreadHead(PyInterpreterState_Get())) != NULL)
        call_if_there("threading", "_shutdown");
    call_if_there("atexit", "_run_exitfuncs");
    const bool out = flush("stdout"), err = flush("stderr");
    return out && err ? status : status != 0 ? status : 120; // 120: Python's own status for it
}

int program_run(int job_fd, int records)
{
    struct job job = {0};
    if (!read_job(job_fd, &job))
        return 1;
    PyObject *main = PyImport_AddModule("__main__");
    PyObject *names = main != NULL ? PyModule_GetDict(main) : NULL;
    if (names == NULL)
        return 1;
    int rc = run_text(job.source, job.header.source_len, "<program>", names);
    if (rc == 0 && job.header.kind == WIRE_JOB_CALLS)
        rc = run_calls(records, &job, names);
    if (rc == 0 && job.header.kind == WIRE_JOB_ASSERTS) {
        rc = run_text(job.check, job.header.check_len, "<tests>", names);
        if (rc == 0)
            report(records, WIRE_PROOF, WIRE_CAUSE_OTHER, 0, job.header.nonce,
                   sizeof job.header.nonce);
    }
    return finish(rc == 0 ? 0 : end_by_exception(records));
}
