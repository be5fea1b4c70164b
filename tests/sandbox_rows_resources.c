// SPDX-License-Identifier: Apache-2.0
#include "tests/sandbox_rows.h"

#define QUICK                                                                                      \
    {                                                                                              \
        .cpu_ms = 300, .wall_ms = 1500                                                             \
    }

const struct row rows_resources[] = {
    {"loop", CPU, "while True: pass", "~300 ms of CPU", QUICK},
    {"loop that ignores every signal", CPU,
     "import signal\n"
     "for s in range(1, 65):\n"
     "    try: signal.signal(s, signal.SIG_IGN)\n"
     "    except (OSError, ValueError): pass\n"
     "while True: pass",
     NULL, QUICK},
    {"loops in threads add up", CPU,
     "import threading\n"
     "def f():\n"
     "    while True: pass\n"
     "[threading.Thread(target=f).start() for i in range(4)]",
     NULL, QUICK},
    {"loop inside C", CPU, "import re\nre.match('(a*)*b', 'a' * 40)", NULL, QUICK},
    {"large power", CPU | MEMORY, "10**10**9", NULL, QUICK},
    {"sleep",
     WALL,
     "import time\n"
     "time.sleep(60)",
     "~within 300 ms",
     {.wall_ms = 300}},
    {"stops itself",
     WALL,
     "import os, signal\n"
     "os.kill(os.getpid(), signal.SIGSTOP)",
     NULL,
     {.wall_ms = 300}},
    {"waits for a thread",
     WALL,
     "import threading, time\n"
     "threading.Thread(target=lambda: time.sleep(60)).start()",
     NULL,
     {.wall_ms = 300}},
    {"4 GiB at once", MEMORY, "bytearray(4 << 30)", NULL},
    {"memory bit by bit", MEMORY,
     "a = []\n"
     "while True: a.append(' ' * 1000000)",
     NULL},
    {"memory after catching it", OK,
     "try: bytearray(4 << 30)\n"
     "except MemoryError: print('no')",
     "no\n"},
    {"output flood", OUTPUT, "while True: print('x' * 10000)", NULL},
    {"flood of errors", OUTPUT,
     "import sys\n"
     "while True: sys.stderr.write('x' * 10000)",
     NULL},
    {"large file", RUNTIME,
     "f = open('f', 'wb')\n"
     "while True: f.write(b'x' * 1000000)",
     "~OSError", .cage = RUNTIME, .cage_says = "~PermissionError"},
    {"sparse file", RUNTIME, "open('f', 'wb').truncate(1 << 40)", "~OSError", .cage = RUNTIME,
     .cage_says = "~PermissionError"},
    {"many files", RUNTIME, "for i in range(1000): open(str(i), 'w').close()", "~OSError",
     .cage = RUNTIME, .cage_says = "~PermissionError"},
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
    {"many forks", OK,
     "import os\n" TRY "for i in range(400): t(os.fork)\n"
     "print(len(failed), set(failed))",
     "400 {1}\n"},
    {"as many threads as are allowed, and no more", OK,
     "import threading, time\n"
     "n = 0\n"
     "for i in range(400):\n"
     "    try: threading.Thread(target=time.sleep, args=(.5,)).start(); n += 1\n"
     "    except RuntimeError: pass\n"
     "print(n)",
     "16\n", .cage = OK, .cage_says = NULL},
    {"ignores the signal of the CPU limit", CPU,
     "import signal\n"
     "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
     "while True: pass",
     NULL, QUICK},
    {"ignores every signal and sleeps",
     WALL,
     "import signal, time\n"
     "for s in range(1, 65):\n"
     "    try: signal.signal(s, signal.SIG_IGN)\n"
     "    except (OSError, ValueError): pass\n"
     "time.sleep(60)",
     NULL,
     {.wall_ms = 300}},
    {"daemon", RUNTIME, "import os\nif os.fork() == 0: os.setsid()", "~PermissionError"},
    {"recursion with a raised limit", RUNTIME | SIGNAL | MEMORY | CPU,
     "import sys\n"
     "sys.setrecursionlimit(10**9)\n"
     "def f(): f()\n"
     "f()",
     NULL, QUICK},
    {"large text", CPU | MEMORY, "s = 'x'\nwhile True: s += s", NULL},
    {"descriptors to the last one", OK,
     "import os\n" TRY "for i in range(100): t(os.open, '/dev/null', os.O_RDONLY)\n"
     "print(set(failed))",
     "{24}\n"},
    {"closes its output and computes", OK,
     "import os\nos.close(1)\nos.close(2)\nx = sum(range(1000))", "", .cage = OK | RUNTIME},
    {"compressed bomb in memory", MEMORY,
     "import zlib\n"
     "d = zlib.decompressobj()\n"
     "b = zlib.compress(bytes(1 << 24)) \n"
     "a = []\n"
     "while True: a.append(zlib.decompress(b))",
     NULL},
    {"compressed bomb on disk", RUNTIME,
     "import zlib\n"
     "b = zlib.compress(bytes(1 << 20))\n"
     "f = open('x', 'wb')\n"
     "while True: f.write(zlib.decompress(b))",
     "~OSError", .cage = RUNTIME, .cage_says = "~PermissionError"},
    {"many files, small files, links and directories", OK,
     "import os\n" TRY "for i in range(1000):\n"
     "    t(os.mkdir, 'd%d' % i); t(os.symlink, 'x', 's%d' % i); t(lambda: open('f%d' % i, "
     "'w').close())\n"
     "print(len(os.listdir('.')) <= 256, {28} <= set(failed))",
     "True True\n", .cage = RUNTIME, .cage_says = "~PermissionError"},
    {"memory without a name", OK, CTYPES "print(c.memfd_create(b'x', 0), ctypes.get_errno())",
     "-1 1\n"},
    {"watches of files", OK, CTYPES "print(c.inotify_init(), c.fanotify_init(0, 0))", "-1 -1\n"},
    {"timers", OK,
     CTYPES "import signal\n"
            "for i in range(10000): signal.setitimer(signal.ITIMER_REAL, 100)\n"
            "print(c.timer_create(0, None, ctypes.byref(ctypes.c_void_p())))",
     "-1\n"},
    {"ends while threads spin", OK,
     "import threading\n"
     "def f():\n"
     "    while True: pass\n"
     "for i in range(2): threading.Thread(target=f, daemon=True).start()\n"
     "print('end')",
     "end\n"},
    {"core dump", SIGNAL, "import os, resource\nos.kill(os.getpid(), 11)", NULL},
    {"real-time priority", OK,
     "import os\n" TRY
     "t(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)); t(os.nice, -5)\n"
     "print(failed)",
     "[1, 1]\n"},
    // In C.
    {"C: memory, and then an exit status of its own", MEMORY,
     "#include <stdlib.h>\n"
     "#include <string.h>\n"
     "int main(void) { for (;;) { char *p = malloc(1 << 20); if (!p) return 3; memset(p, 1, 1 << "
     "20); } }",
     NULL, .language = SANDBOX_C},
    {"C: recursion", SIGNAL,
     "int f(volatile int *p) { volatile int x[100]; x[0] = *p; return f(x) + x[0]; }\n"
     "int main(void) { int x = 1; return f(&x); }",
     "~signal 11", .language = SANDBOX_C},
    {"C: loop", CPU, "int main(void) { for (;;) ; }", NULL, QUICK, .language = SANDBOX_C},
    {"C: loop that ignores signals", CPU,
     "#include <signal.h>\n"
     "int main(void) { for (int i = 1; i < 65; i++) signal(i, SIG_IGN); for (;;) ; }",
     NULL, QUICK, .language = SANDBOX_C},
    {"C: fork bomb", RUNTIME,
     "#include <unistd.h>\n"
     "int main(void) { int n = 0; for (int i = 0; i < 400; i++) n += fork() == -1; return n == 400 "
     "? "
     "7 : 0; }",
     "~exit status 7", .language = SANDBOX_C},
    {"C: output flood", OUTPUT,
     "#include <stdio.h>\nint main(void) { for (;;) puts(\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"); }",
     NULL, .language = SANDBOX_C},
    // Bombs for the compiler.
    {"C: includes what does not end", COMPILE, "#include \"/dev/urandom\"\nint main(void) {}", NULL,
     .language = SANDBOX_C},
    {"C: includes itself", COMPILE, "#include __FILE__\n#include \"/dev/stdin\"\n", NULL,
     .language = SANDBOX_C},
    {"C: a macro that grows", COMPILE,
     "#define A(x) x x x x x x x x x x x x x x x x\n"
     "#define B(x) A(A(A(A(x))))\n"
     "int main(void) { return B(B(+1)) 0; }",
     NULL, .language = SANDBOX_C},
    {"C: a large table", COMPILE,
     "char a[1 << 30] = {1}, b[1 << 30] = {1}; int main(void) { return a[5] + b[5]; }", NULL,
     .language = SANDBOX_C},
};
const int rows_resources_num = sizeof rows_resources / sizeof *rows_resources;
