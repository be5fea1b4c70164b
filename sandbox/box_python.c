// SPDX-License-Identifier: Apache-2.0
// The warm interpreter: started once a slot, inherited by every program's process through fork.
#include <Python.h> // first, as CPython asks

#include "sandbox/box.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char stdlib[PATH_MAX];

// Imported before any program: what programs commonly use. A module that this Python lacks is
// passed over.
static const char *const prelude[] = {
    "abc",         "array",     "ast",         "atexit", "bisect",          "builtins",
    "calendar",    "cmath",     "collections", "copy",   "collections.abc", "contextlib",
    "dataclasses", "datetime",  "decimal",     "enum",   "fractions",       "functools",
    "gc",          "heapq",     "inspect",     "io",     "itertools",       "json",
    "math",        "numbers",   "operator",    "os",     "random",          "re",
    "statistics",  "string",    "struct",      "sys",    "textwrap",        "threading",
    "time",        "traceback", "types",       "typing", "unicodedata",
};

// Not imported, because every fork would pay for it, but what they load has to be in the root.
static const char *const extras[] = {"_ctypes", "_hashlib", "_uuid", "bz2",
                                     "hashlib", "lzma",     "zlib"};

// The streams are made while descriptors 0, 1 and 2 are pipes, as they will be: so they are
// buffered, and not seekable.
static int standard_pipes(void)
{
    int p[2];
    if (pipe2(p, O_CLOEXEC) != 0)
        return -1;
    if (dup2(p[0], 0) < 0 || dup2(p[1], 1) < 0 || dup2(p[1], 2) < 0)
        return -1;
    if (p[0] > 2)
        close(p[0]);
    if (p[1] > 2)
        close(p[1]);
    return 0;
}

static PyStatus initialize(void)
{
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config); // no environment, no user site, no signal handlers
    config.site_import = 0;
    config.use_hash_seed = 1; // the same order of sets in every run: a verdict can be repeated
    config.hash_seed = 0;
    config.write_bytecode = 0;
    config.buffered_stdio = 1;
    PyPreConfig preconfig;
    PyPreConfig_InitIsolatedConfig(&preconfig);
    preconfig.utf8_mode = 1;
    PyStatus status = Py_PreInitialize(&preconfig);
    if (!PyStatus_Exception(status))
        status = PyConfig_SetString(&config, &config.program_name, L"/usr/bin/python3");
    if (!PyStatus_Exception(status))
        status = PyWideStringList_Append(&config.argv, L"");
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    return status;
}

// The random module would seed itself anew in every fork. Programs that do not seed it get the same
// numbers in every run, so that a verdict can be repeated; os.urandom is what it is. The threading
// module would look for threads of the parent, which has none.
static const char seed_once[] = "import os\n"
                                "register = os.register_at_fork\n"
                                "os.register_at_fork = lambda **functions: None\n"
                                "import random, threading\n"
                                "os.register_at_fork = register\n"
                                "random.seed(0)\n";

// exit, quit: programs end with them, and the site module, which is not run, would have defined
// them. Path: the standard library alone.
static const char settle[] = "import site, sys, os, gc, random\n"
                             "site.setquit()\n"
                             "del sys.modules['site']\n"
                             "stdlib = os.path.dirname(os.__file__)\n"
                             "sys.path[:] = [stdlib, stdlib + '/lib-dynload']\n"
                             "gc.collect()\n"
                             "gc.freeze()\n";

static int find_stdlib(void)
{
    PyObject *os = PyImport_ImportModule("os");
    PyObject *file = os != NULL ? PyObject_GetAttrString(os, "__file__") : NULL;
    const char *text = file != NULL ? PyUnicode_AsUTF8(file) : NULL;
    const char *slash = text != NULL ? strrchr(text, '/') : NULL;
    int rc = -1;
    if (slash != NULL && (size_t)(slash - text) < sizeof stdlib) {
        memcpy(stdlib, text, (size_t)(slash - text));
        rc = 0;
    }
    Py_XDECREF(file);
    Py_XDECREF(os);
    return rc;
}

const char *python_stdlib(void) { return stdlib; }

static bool run_text(const char *text)
{
    PyObject *names = PyDict_New(), *builtins = PyImport_ImportModule("builtins");
    PyObject *result = NULL;
    if (names != NULL && builtins != NULL &&
        PyDict_SetItemString(names, "__builtins__", builtins) == 0)
        result = PyRun_String(text, Py_file_input, names, names);
    const bool ok = result != NULL;
    Py_XDECREF(result);
    Py_XDECREF(builtins);
    Py_XDECREF(names);
    return ok;
}

static void import_all(const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        PyObject *module = PyImport_ImportModule(names[i]);
        if (module == NULL)
            PyErr_Clear();
        Py_XDECREF(module);
    }
}

int python_warm(struct wire_hello *hello)
{
    if (standard_pipes() != 0)
        return box_fail(hello, "making pipes");
    // An arena a thread would be 64 MiB of address space a thread.
    if (mallopt(M_ARENA_MAX, 1) != 1)
        return box_fail(hello, "mallopt");
    const PyStatus status = initialize();
    if (PyStatus_Exception(status))
        return box_fail(hello, "starting Python: %s",
                        status.err_msg != NULL ? status.err_msg : "unknown");
    bool ok = run_text(seed_once);
    if (ok)
        import_all(prelude, sizeof prelude / sizeof *prelude);
    ok = ok && run_text(settle) && find_stdlib() == 0 && python_codec_prepare() == 0;
    if (!ok) {
        PyErr_Clear();
        errno = 0;
        return box_fail(hello, "warming up Python: its standard library is incomplete");
    }
    return 0;
}

pid_t python_fork(void)
{
    const bool python = Py_IsInitialized();
    if (python)
        PyOS_BeforeFork();
    const pid_t pid = fork();
    if (python && pid == 0)
        PyOS_AfterFork_Child();
    else if (python)
        PyOS_AfterFork_Parent();
    return pid;
}

// The path by which the loader found an object, terminated. The executable has none, nor has what
// the kernel brings along.
static int put_object(struct dl_phdr_info *info, size_t size, void *out)
{
    (void)size;
    const char *path = info->dlpi_name;
    const size_t len = path[0] == '/' ? strlen(path) + 1 : 0;
    return fwrite(path, 1, len, out) == len ? 0 : -1;
}

// In a fork: what this process has loaded once the extras are there too.
_Noreturn static void tell_objects(int to)
{
    if (Py_IsInitialized())
        import_all(extras, sizeof extras / sizeof *extras);
    FILE *out = fdopen(to, "w");
    _exit(out == NULL || dl_iterate_phdr(put_object, out) != 0 || fclose(out) != 0);
}

static int read_objects(struct box *box, int from)
{
    char chunk[4096];
    ssize_t n;
    FILE *out = open_memstream(&box->objects, &box->objects_len);
    if (out == NULL)
        return -1;
    while ((n = read(from, chunk, sizeof chunk)) > 0)
        (void)fwrite(chunk, 1, (size_t)n, out); // a fault shows when it is closed
    return fclose(out) == 0 && n == 0 ? 0 : -1;
}

int python_note_objects(struct wire_hello *hello, struct box *box)
{
    int p[2], status = 1;
    if (pipe2(p, O_CLOEXEC) != 0)
        return box_fail(hello, "making a pipe");
    const pid_t pid = python_fork();
    if (pid == 0)
        tell_objects(p[1]);
    close(p[1]);
    const int rc = pid > 0 ? read_objects(box, p[0]) : -1;
    close(p[0]);
    if (rc != 0 || waitpid(pid, &status, 0) != pid || status != 0 || box->objects_len == 0)
        return box_fail(hello, "finding what Python has loaded");
    return 0;
}
