// SPDX-License-Identifier: Apache-2.0
// Small honest and hostile programs, each with the verdict it must get; nothing they do outlives
// them. Where the box cannot be built, every test is skipped with the reason.
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "base/error.h"
#include "base/json.h"
#include "base/mem.h"
#include "sandbox/sandbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct sandbox *box; // one slot, so that a program is followed by the next in the same box;
                            // NULL: cannot be built

static int open_box(void **state)
{
    (void)state;
    const struct sandbox_options options = {.slots = 1};
    if (sandbox_open(&box, &options) != 0)
        print_message("# %s\n", err_message());
    return 0;
}

static int close_box(void **state)
{
    (void)state;
    sandbox_close(&box);
    return 0;
}

static void need_box(void)
{
    if (box == NULL) {
        print_message("# the box cannot be built here\n");
        skip();
    }
}

static struct sandbox_tests *tests_of(const char *json)
{
    struct json_doc *doc = NULL;
    struct sandbox_tests *t = NULL;
    assert_int_equal(json_parse(&doc, json, strlen(json), 0, "tests", 1, ERR_DATA), 0);
    assert_int_equal(sandbox_tests_from_json(&t, doc, json_root(doc), "tests"), 0);
    json_free(&doc);
    return t;
}

// tests NULL: only run.
static struct sandbox_result run_with(const char *source, const struct sandbox_tests *tests,
                                      struct sandbox_limits limits)
{
    struct sandbox_tests *none = sandbox_tests_new_run("", 0);
    const struct sandbox_job job = {.source = source,
                                    .source_len = strlen(source),
                                    .tests = tests != NULL ? tests : none,
                                    .limits = limits};
    struct sandbox_result r;
    assert_int_equal(sandbox_run_batch(box, &job, 1, &r), 0);
    sandbox_tests_free(&none);
    return r;
}

#define ANY(v)      (1u << (v))
#define OK          ANY(SANDBOX_OK)
#define RUNTIME     ANY(SANDBOX_RUNTIME)
#define VIOLATION   ANY(SANDBOX_VIOLATION)
#define CTYPES      "import ctypes, os\nc = ctypes.CDLL(None, use_errno=True)\n"
#define SYSCALL(nr) CTYPES "c.syscall(" #nr ", 0, 0, 0, 0, 0, 0)\n"
#define QUICK                                                                                      \
    {                                                                                              \
        .cpu_ms = 300, .wall_ms = 1500                                                             \
    }

struct program {
    const char *name;
    unsigned verdicts; // any of these
    const char *source;
    const char *says; // what standard output is, or is in the detail when it begins with '~'; NULL:
                      // whatever
    struct sandbox_limits limits;
};

static const struct program programs[] = {
    // Honest.
    {"prints", OK, "print('hello')", "hello\n"},
    {"reads the end of its input", OK, "import sys\nprint(len(sys.stdin.read()))", "0\n"},
    {"exit()", OK, "exit()", ""},
    {"exit status", RUNTIME, "import sys\nsys.exit(3)", "~exit status 3"},
    {"asyncio", OK,
     "import asyncio\n"
     "async def f():\n"
     "    await asyncio.sleep(0.01)\n"
     "    return 5\n"
     "print(asyncio.run(f()))",
     "5\n"},
    {"threads", OK,
     "import threading\n"
     "a=[]\n"
     "t=[threading.Thread(target=a.append,args=(i,)) for i in range(4)]\n"
     "[x.start() for x in t]\n"
     "[x.join() for x in t]\n"
     "print(sorted(a))",
     "[0, 1, 2, 3]\n"},
    {"temporary files", OK,
     "import tempfile\n"
     "with tempfile.TemporaryFile('w+') as f:\n"
     "    f.write('x'); f.seek(0); print(f.read())",
     "x\n"},
    {"exit functions run, output is flushed", OK,
     "import atexit,sys\n"
     "atexit.register(lambda: print('bye'))\n"
     "sys.stdout.write('a ')",
     "a bye\n"},
    {"random numbers repeat", OK, "import random\nprint(random.randrange(10**9))", "906691059\n"},
    {"its name is __main__", OK, "if __name__ == '__main__': print('main')", "main\n"},
    {"unicode", OK, "print('é\\u4e2d')", "é中\n"},
    {"closed standard output", OK | RUNTIME, "import os\nos.close(1)\nx = 1", NULL},
    // Faults.
    {"syntax error", RUNTIME, "def f(:\n", "~SyntaxError"},
    {"exception", RUNTIME, "1/0", "~ZeroDivisionError"},
    {"exception that cannot be printed", RUNTIME,
     "class E(Exception):\n"
     "    def __str__(s): raise s\n"
     "raise E()",
     NULL},
    {"hidden exception", RUNTIME,
     "import sys\n"
     "sys.excepthook = lambda *a: None\n"
     "1/0",
     "~ZeroDivisionError"},
    {"abort", ANY(SANDBOX_SIGNAL), "import os\nos.abort()", "~signal 6"},
    {"segmentation fault", ANY(SANDBOX_SIGNAL),
     "import ctypes\n"
     "ctypes.string_at(0)",
     "~signal 11"},
    {"kills itself", ANY(SANDBOX_SIGNAL), "import os\nos.kill(os.getpid(), 9)", NULL},
    {"recursion", RUNTIME, "def f(): f()\nf()", "~RecursionError"},
    {"recursion without limit",
     ANY(SANDBOX_SIGNAL) | RUNTIME | ANY(SANDBOX_MEMORY) | ANY(SANDBOX_CPU),
     "import sys\n"
     "sys.setrecursionlimit(10**9)\n"
     "class A:\n"
     "    def __getattr__(s, n): return getattr(s, n + 'x')\n"
     "A().a",
     NULL},
    // Resources.
    {"loop", ANY(SANDBOX_CPU), "while True: pass", "~300 ms of CPU", QUICK},
    {"loop that ignores every signal", ANY(SANDBOX_CPU),
     "import signal\n"
     "for s in range(1, 65):\n"
     "    try: signal.signal(s, signal.SIG_IGN)\n"
     "    except (OSError, ValueError): pass\n"
     "while True: pass",
     NULL, QUICK},
    {"loops in threads add up", ANY(SANDBOX_CPU),
     "import threading\n"
     "def f():\n"
     "    while True: pass\n"
     "[threading.Thread(target=f).start() for i in range(4)]",
     NULL, QUICK},
    {"loop inside C", ANY(SANDBOX_CPU), "import re\nre.match('(a*)*b', 'a' * 40)", NULL, QUICK},
    {"large power", ANY(SANDBOX_CPU) | ANY(SANDBOX_MEMORY), "10**10**9", NULL, QUICK},
    {"sleep",
     ANY(SANDBOX_WALL),
     "import time\n"
     "time.sleep(60)",
     "~within 300 ms",
     {.wall_ms = 300}},
    {"stops itself",
     ANY(SANDBOX_WALL),
     "import os, signal\n"
     "os.kill(os.getpid(), signal.SIGSTOP)",
     NULL,
     {.wall_ms = 300}},
    {"waits for a thread",
     ANY(SANDBOX_WALL),
     "import threading, time\n"
     "threading.Thread(target=lambda: time.sleep(60)).start()",
     NULL,
     {.wall_ms = 300}},
    {"4 GiB at once", ANY(SANDBOX_MEMORY), "bytearray(4 << 30)", NULL},
    {"memory bit by bit", ANY(SANDBOX_MEMORY),
     "a = []\n"
     "while True: a.append(' ' * 1000000)",
     NULL},
    {"memory after catching it", OK,
     "try: bytearray(4 << 30)\n"
     "except MemoryError: print('no')",
     "no\n"},
    {"output flood", ANY(SANDBOX_OUTPUT), "while True: print('x' * 10000)", NULL},
    {"flood of errors", ANY(SANDBOX_OUTPUT),
     "import sys\n"
     "while True: sys.stderr.write('x' * 10000)",
     NULL},
    {"large file", RUNTIME,
     "f = open('f', 'wb')\n"
     "while True: f.write(b'x' * 1000000)",
     "~OSError"},
    {"sparse file", RUNTIME, "open('f', 'wb').truncate(1 << 40)", "~OSError"},
    {"many files", RUNTIME, "for i in range(1000): open(str(i), 'w').close()", "~OSError"},
    {"many descriptors", RUNTIME, "a = [open('/dev/null') for i in range(100)]", "~OSError"},
    {"many threads", RUNTIME,
     "import threading, time\n"
     "for i in range(100): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
     "~start new thread"},
    {"fork", RUNTIME, "import os\nos.fork()", "~PermissionError"},
    {"vfork", OK, CTYPES "print(c.syscall(58), ctypes.get_errno())", "-1 1\n"},
    {"subprocess", RUNTIME | VIOLATION, "import subprocess\nsubprocess.run(['/bin/true'])", NULL},
    {"locks memory", OK, CTYPES "print(c.mlockall(3), ctypes.get_errno())", "-1 1\n"},
    {"shared memory", OK,
     CTYPES "print(c.shmget(0, 4096, 0o1600), c.semget(0, 1, 0o1600), c.syscall(240, b'/q', 66, "
            "0o600, 0), c.syscall(319, b'm', 0))",
     "-1 -1 -1 -1\n"},
    // Sights.
    {"environment", OK,
     "import os\n"
     "print(sorted(os.environ.items()))",
     "[('HOME', '/box'), ('LANG', 'C.UTF-8'), ('PATH', '/usr/bin')]\n"},
    {"descriptors", OK,
     "import os\n"
     "r = []\n"
     "for i in range(1024):\n"
     "    try: os.fstat(i); r.append(i)\n"
     "    except OSError: pass\n"
     "print(r)",
     "[0, 1, 2, 4]\n"},
    {"files", OK,
     "import os\n"
     "print(sorted(os.listdir('/')), sorted(os.listdir('/usr')), os.listdir('.'))",
     "['box', 'dev', 'tmp', 'usr'] ['lib'] []\n"},
    {"/etc/passwd", RUNTIME, "open('/etc/passwd')", "~FileNotFoundError"},
    {"/proc", RUNTIME, "open('/proc/1/environ')", "~FileNotFoundError"},
    {"writes to the root", RUNTIME, "open('/x', 'w')", "~Read-only file system"},
    {"writes to the library", RUNTIME, "import os\nopen(os.__file__, 'w')", "~OSError"},
    {"users", OK,
     "import os\n"
     "print(os.getuid() != 0, os.getgid() != 0, os.getppid())",
     "True True 1\n"},
    {"no network", RUNTIME,
     "import socket\n"
     "socket.create_connection(('127.0.0.1', 9), timeout=1)",
     "~PermissionError"},
    {"no sockets of any kind", OK,
     "import socket\n"
     "n = 0\n"
     "for f in (1, 2, 10, 16, 17, 38, 40):\n"
     "    try: socket.socket(f, socket.SOCK_DGRAM)\n"
     "    except OSError: n += 1\n"
     "print(n)",
     "7\n"},
    // Attacks.
    {"executes", VIOLATION, "import os\nos.execv('/usr/bin/python3', ['python3'])", "~forbidden"},
    {"ptrace", VIOLATION, SYSCALL(101), "~forbidden"},
    {"process_vm_readv", VIOLATION, SYSCALL(310), NULL},
    {"process_vm_writev", VIOLATION, SYSCALL(311), NULL},
    {"io_uring", VIOLATION, SYSCALL(425), NULL},
    {"bpf", VIOLATION, SYSCALL(321), NULL},
    {"perf_event_open", VIOLATION, SYSCALL(298), NULL},
    {"userfaultfd", VIOLATION, SYSCALL(323), NULL},
    {"keyctl", VIOLATION, SYSCALL(250), NULL},
    {"mount", VIOLATION, SYSCALL(165), NULL},
    {"fsopen", VIOLATION, SYSCALL(430), NULL},
    {"unshare", VIOLATION, SYSCALL(272), NULL},
    {"setns", VIOLATION, SYSCALL(308), NULL},
    {"chroot", VIOLATION, SYSCALL(161), NULL},
    {"mknod", VIOLATION, SYSCALL(133), NULL},
    {"a filter of its own", VIOLATION, SYSCALL(317), NULL},
    {"open_by_handle_at", VIOLATION, SYSCALL(304), NULL},
    {"execveat", VIOLATION, SYSCALL(322), NULL},
    {"pidfd_getfd", VIOLATION, SYSCALL(438), NULL},
    {"setuid", VIOLATION, "import os\nos.setuid(0)", NULL},
    {"x32", VIOLATION, SYSCALL(0x40000027), NULL},
    {"unknown system call", OK, CTYPES "print(c.syscall(999), ctypes.get_errno())", "-1 1\n"},
    {"clone3 is not there", OK, CTYPES "print(c.syscall(435, 0, 0), ctypes.get_errno())",
     "-1 38\n"},
    {"a new user namespace by clone", OK,
     CTYPES "print(c.syscall(56, 0x10000011, 0, 0, 0, 0), ctypes.get_errno())", "-1 1\n"},
    {"limits of others", OK,
     CTYPES "b = ctypes.create_string_buffer(16)\n"
            "print(c.prlimit(1, 0, None, b), c.prlimit(os.getppid(), 0, b, None), c.prlimit(0, 7, "
            "b, None), c.prlimit(0, 0, None, b))",
     "-1 -1 -1 0\n"},
    {"terminal input, with high bits as well", OK,
     CTYPES "print(c.syscall(16, 0, 0x5412, b'x'), ctypes.get_errno(), c.syscall(16, 0, "
            "ctypes.c_ulong(0x100005412), b'x'), ctypes.get_errno())",
     "-1 1 -1 1\n"},
    {"signals to others", OK,
     "import os\n"
     "n = 0\n"
     "for p in (-1, 1, os.getppid()):\n"
     "    try: os.kill(p, 9)\n"
     "    except OSError: n += 1\n"
     "print('alive')",
     "alive\n"},
    {"death signal, subreaper, dumpable", OK,
     CTYPES "print(c.prctl(1, 0), c.prctl(36, 1), c.prctl(4, 1))", "-1 -1 -1\n"},
    {"leaves notes", OK,
     "import os\n"
     "open('note', 'w').write('x'); open('/tmp/note2', 'w').write('x'); os.mkdir('d'); "
     "os.chmod('.', 0o777); os.utime('.', (1, 1))",
     NULL},
    {"finds none", OK,
     "import os\n"
     "s = os.stat('.')\n"
     "print(os.listdir('.'), oct(s.st_mode), s.st_mtime > 1000)",
     "[] 0o40700 True\n"},
    {"all is well after that", OK, "print(sum(range(10)))", "45\n"},
};

static void programs_get_their_verdicts(void **state)
{
    (void)state;
    need_box();
    int failed = 0;
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        const struct program *p = &programs[i];
        struct sandbox_result r = run_with(p->source, NULL, p->limits);
        const bool verdict = (ANY(r.verdict) & p->verdicts) != 0;
        const bool in_detail = p->says != NULL && p->says[0] == '~';
        const bool says = p->says == NULL || (in_detail ? strstr(r.detail, p->says + 1) != NULL
                                                        : strcmp(r.out, p->says) == 0);
        if (!verdict || !says) {
            print_message("# %s: %s (%s), exit %d, signal %d, printed \"%s\"\n", p->name,
                          sandbox_verdict_name(r.verdict), r.detail, r.exit_code, r.signal, r.out);
            failed++;
        }
        sandbox_result_clear(&r);
    }
    assert_int_equal(failed, 0);
}

struct judged {
    const char *name;
    enum sandbox_verdict verdict;
    int passed;
    const char *source;
    const char *tests; // JSON
    bool weak;
};

#define ADD                                                                                        \
    "{\"entry\":\"add\",\"calls\":[{\"args\":[1,2],\"result\":3},{\"args\":[-1,1],\"result\":0}]}"
#define ONE(result)    "{\"entry\":\"f\",\"calls\":[{\"args\":[],\"result\":" result "}]}"
#define RETURNS(value) "def f(): return " value
#define ASSERTS        "\"assert add(1, 2) == 3\\nassert add(-1, 1) == 0\\n\""
#define SUM            "\"assert add(1, 2) + 0 == 3\\n\""

static const struct judged judged[] = {
    {"right", SANDBOX_OK, 2, "def add(a, b): return a + b", ADD},
    {"wrong once", SANDBOX_WRONG, 1, "def add(a, b): return 3", ADD},
    {"raises once", SANDBOX_RUNTIME, 1,
     "def add(a, b):\n"
     "    if a < 0: raise ValueError('x')\n"
     "    return a + b",
     ADD},
    {"prints beside it", SANDBOX_OK, 2,
     "def add(a, b):\n"
     "    print('noise')\n"
     "    return a + b",
     ADD},
    {"no such function", SANDBOX_RUNTIME, 0, "def sub(a, b): return a - b", ADD},
    {"exits with 0", SANDBOX_INCOMPLETE, 0, "import sys\ndef add(a, b): sys.exit(0)", ADD},
    {"exits with 0 at once", SANDBOX_INCOMPLETE, 0, "import os\nos._exit(0)", ADD},
    {"right once, then exits with 0", SANDBOX_INCOMPLETE, 1,
     "import os\n"
     "def add(a, b):\n"
     "    if a < 0: os._exit(0)\n"
     "    return a + b",
     ADD},
    {"interrupts", SANDBOX_RUNTIME, 0, "def add(a, b): raise KeyboardInterrupt", ADD},
    {"all right, then fails", SANDBOX_RUNTIME, 2,
     "import atexit, os\n"
     "atexit.register(lambda: os._exit(1))\n"
     "def add(a, b): return a + b",
     ADD},
    {"equal to everything", SANDBOX_WRONG, 0,
     "class E:\n"
     "    def __eq__(s, o): return True\n"
     "def add(a, b): return E()",
     ADD},
    {"an int that is equal to everything", SANDBOX_WRONG, 0,
     "class E(int):\n"
     "    def __eq__(s, o): return True\n"
     "    def __hash__(s): return 0\n"
     "def add(a, b): return E(7)",
     ADD},
    {"a list subclass", SANDBOX_WRONG, 0,
     "class L(list): pass\n"
     "def f(): return L([1])",
     ONE("[1]")},
    {"a generator", SANDBOX_WRONG, 0, "def f(): yield 1", ONE("[1]")},
    {"patched builtins, json and sys", SANDBOX_WRONG, 0,
     "import builtins, json, sys\n"
     "builtins.isinstance = lambda *a: True\n"
     "builtins.repr = str = lambda *a: '3'\n"
     "json.dumps = lambda *a: '3'\n"
     "sys.stdout = None\n"
     "def add(a, b): return 4",
     ADD},
    {"patched output is its own affair", SANDBOX_OK, 2,
     "import sys, io\n"
     "sys.stdout = io.StringIO()\n"
     "def add(a, b): return a + b",
     ADD},
    {"garbage on every descriptor", SANDBOX_INCOMPLETE, 0,
     "import os\n"
     "for i in range(3, 64):\n"
     "    try: os.write(i, b'\\0' * 64)\n"
     "    except OSError: pass\n"
     "def add(a, b): return a + b",
     ADD},
    {"a forged record is an answer as good as its value", SANDBOX_WRONG, 0,
     "import os, struct\n"
     "os.write(4, struct.pack('<BBHII', ord('A'), 0, 0, 0, 6) + b'i' + struct.pack('<I', 1) + "
     "b'7')\n"
     "os.write(4, struct.pack('<BBHII', ord('A'), 0, 0, 1, 6) + b'i' + struct.pack('<I', 1) + "
     "b'7')\n"
     "os._exit(0)",
     ADD},
    {"a forged proof proves no calls", SANDBOX_INCOMPLETE, 0,
     "import os, struct\n"
     "os.write(4, struct.pack('<BBHII', ord('P'), 0, 0, 0, 16) + b'x' * 16)\n"
     "os._exit(0)",
     ADD},
    {"looks for what is expected in its frames", SANDBOX_RUNTIME, 0,
     "import sys, gc\n"
     "def add(a, b):\n"
     "    f = sys._getframe(1)\n"
     "    return f.f_locals['expected']",
     ADD},
    {"arguments are fresh for each call", SANDBOX_OK, 2,
     "def f(a):\n"
     "    a.append(1)\n"
     "    return a",
     "{\"entry\":\"f\",\"calls\":[{\"args\":[[0]],\"result\":[0,1]},{\"args\":[[0]],\"result\":[0,"
     "1]}]}"},
    {"True == 1 == 1.0", SANDBOX_OK, 1, RETURNS("[True, 1.0, 1, 1+0j, -0.0]"),
     ONE("[1,1,1.0,1,0]")},
    {"a tuple is no list", SANDBOX_WRONG, 0, RETURNS("(1,)"), ONE("[1]")},
    {"text is no bytes", SANDBOX_WRONG, 0, RETURNS("b'a'"), ONE("\"a\"")},
    {"NaN is not NaN", SANDBOX_WRONG, 0, RETURNS("[float('nan')]"), ONE("[0]")},
    {"0.1 + 0.2", SANDBOX_WRONG, 0, RETURNS("0.1 + 0.2"), ONE("0.3")},
    {"large integers", SANDBOX_OK, 1, RETURNS("[-10**30, 2**64, 10**22]"),
     ONE("[-1000000000000000000000000000000,18446744073709551616,1e22]")},
    {"dicts have no order", SANDBOX_OK, 1, RETURNS("{'b': [None], 'a': {'x': 'é'}}"),
     ONE("{\"a\":{\"x\":\"é\"},\"b\":[null]}")},
    {"dicts of collections are dicts", SANDBOX_OK, 1,
     "from collections import *\n"
     "d = defaultdict(int)\n"
     "d['a'] = 1\n"
     "def f(): return [Counter('a'), OrderedDict(a=1), d]",
     ONE("[{\"a\":1},{\"a\":1},{\"a\":1}]")},
    {"a value that is too long", SANDBOX_WRONG, 0, RETURNS("'x' * 2000000"), ONE("0")},
    {"a value that is too deep", SANDBOX_WRONG, 0,
     "def f():\n"
     "    a = []\n"
     "    for i in range(1000): a = [a]\n"
     "    return a",
     ONE("0")},
    {"a value that holds itself", SANDBOX_WRONG, 0,
     "def f():\n"
     "    a = []\n"
     "    a.append(a)\n"
     "    return a",
     ONE("0")},
    {"stdin", SANDBOX_OK, 2, "print(int(input()) * 2)",
     "[{\"stdin\":\"2\\n\",\"stdout\":\"4\\n\"},{\"stdin\":\"5\",\"stdout\":\"10\"}]"},
    {"stdin, white space at the ends", SANDBOX_OK, 1, "print('a  \\nb\\n\\n')",
     "[{\"stdin\":\"\",\"stdout\":\"a\\nb\"}]"},
    {"stdin, white space inside", SANDBOX_WRONG, 0, "print('a  b')",
     "[{\"stdin\":\"\",\"stdout\":\"a b\"}]"},
    {"stdin, all possible outputs", SANDBOX_WRONG, 0, "for i in range(100): print(i)",
     "[{\"stdin\":\"\",\"stdout\":\"4\"}]"},
    {"stdin, right output and a failure", SANDBOX_RUNTIME, 0,
     "print(4)\n"
     "1/0",
     "[{\"stdin\":\"\",\"stdout\":\"4\"}]"},
    {"stdin, right output on the wrong stream", SANDBOX_WRONG, 0,
     "import sys\n"
     "print(4, file=sys.stderr)",
     "[{\"stdin\":\"\",\"stdout\":\"4\"}]"},
    {"asserts as calls", SANDBOX_OK, 2, "def add(a, b): return a + b", ASSERTS},
    {"asserts as calls, equal to everything", SANDBOX_WRONG, 0,
     "class E:\n"
     "    def __eq__(s, o): return True\n"
     "def add(a, b): return E()",
     ASSERTS},
    {"asserts as calls, exit", SANDBOX_INCOMPLETE, 0, "def add(a, b): raise SystemExit", ASSERTS},
    {"asserts in the process", SANDBOX_OK, 1, "def add(a, b): return a + b", SUM, true},
    {"asserts in the process, wrong", SANDBOX_WRONG, 0, "def add(a, b): return 4", SUM, true},
    {"asserts in the process, exit", SANDBOX_INCOMPLETE, 0,
     "import sys\n"
     "def add(a, b): sys.exit(0)",
     SUM, true},
    {"asserts in the process, os._exit", SANDBOX_INCOMPLETE, 0,
     "import os\n"
     "os._exit(0)",
     SUM, true},
    {"asserts in the process, another AssertionError", SANDBOX_WRONG, 0,
     "import builtins\n"
     "builtins.AssertionError = type('X', (BaseException,), {})\n"
     "def add(a, b): return 0",
     SUM, true},
    {"asserts in the process, guessed proof", SANDBOX_INCOMPLETE, 0,
     "import os, struct\n"
     "os.write(4, struct.pack('<BBHII', ord('P'), 0, 0, 0, 16) + b'x' * 16)\n"
     "os._exit(0)",
     SUM, true},
};

static void results_are_compared_outside_the_program(void **state)
{
    (void)state;
    need_box();
    int failed = 0;
    for (size_t i = 0; i < sizeof judged / sizeof *judged; i++) {
        const struct judged *j = &judged[i];
        struct sandbox_tests *t = tests_of(j->tests);
        struct sandbox_result r = run_with(j->source, t, (struct sandbox_limits){0});
        if (r.verdict != j->verdict || r.tests_passed != j->passed || r.weak != j->weak) {
            print_message("# %s: %s (%s), %d of %d passed%s\n", j->name,
                          sandbox_verdict_name(r.verdict), r.detail, r.tests_passed, r.tests_total,
                          r.weak ? ", weakly" : "");
            failed++;
        }
        sandbox_result_clear(&r);
        sandbox_tests_free(&t);
    }
    assert_int_equal(failed, 0);
}

static void a_program_without_tests_is_never_ok(void **state)
{
    (void)state;
    need_box();
    const struct sandbox_job job = {.source = "", .source_len = 0};
    struct sandbox_result r;
    assert_int_equal(sandbox_run_batch(box, &job, 1, &r), 0);
    assert_int_equal(r.verdict, SANDBOX_INTERNAL);
    sandbox_result_clear(&r);
    static const char *const bad[] = {"[]",
                                      "{\"entry\":\"f\",\"calls\":[]}",
                                      "\" \\n\"",
                                      "3",
                                      "[{\"stdin\":\"\"}]",
                                      "{\"entry\":\"f\",\"calls\":[{\"args\":3,\"result\":1}]}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct json_doc *doc = NULL;
        struct sandbox_tests *t = NULL;
        assert_int_equal(json_parse(&doc, bad[i], strlen(bad[i]), 0, "tests", 7, ERR_DATA), 0);
        assert_int_equal(sandbox_tests_from_json(&t, doc, json_root(doc), "tests"), ERR_DATA);
        assert_null(t);
        assert_non_null(strstr(err_message(), "tests:7: "));
        json_free(&doc);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(programs_get_their_verdicts),
        cmocka_unit_test(results_are_compared_outside_the_program),
        cmocka_unit_test(a_program_without_tests_is_never_ok),
    };
    return cmocka_run_group_tests(tests, open_box, close_box);
}
