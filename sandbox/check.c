// SPDX-License-Identifier: Apache-2.0
#include "sandbox/check.h"

#include <stdio.h>
#include <string.h>

// A layer is active when the program gets this verdict and prints this, or (with '~') its detail
// holds this.
struct canary {
    const char *name, *what;
    const char *before; // a program that runs first in the same box; NULL: none
    const char *source;
    enum sandbox_verdict verdict;
    const char *says;
    struct sandbox_limits limits;
    bool jail_only;
};

#define CTYPES "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"

static const struct canary canaries[] = {
    {"namespaces",
     "user, pid, net, mount, ipc, uts and cgroup namespaces of its own",
     NULL,
     "import os\n"
     "print(os.getuid(), os.getppid(), os.uname().nodename)",
     SANDBOX_OK,
     "1000 1 box\n",
     {0},
     true},
    {"root",
     "a read-only root that holds Python's library and nothing else",
     NULL,
     "import os\n"
     "print(*sorted(os.listdir('/')), os.path.exists('/proc/self'))\n"
     "open('/x', 'w')",
     SANDBOX_RUNTIME,
     "~Read-only file system",
     {0},
     true},
    // What the root and the modes of files would let through.
    {"files", "Landlock: only what the language needs can be opened, and nothing written", NULL,
     "import os\n"
     "n = 0\n"
     "for path, mode in ('/etc/passwd', 'r'), ('/proc/self/maps', 'r'), ('/dev/urandom', 'wb'):\n"
     "    try: open(path, mode)\n"
     "    except OSError: n += 1\n"
     "print(n)\n"
     "open('/dev/urandom', 'wb')",
     SANDBOX_RUNTIME, "~[Errno 13]"},
    {"system calls", "an allow-list; what only an attack uses kills", NULL,
     CTYPES "c.syscall(101, 0, 0, 0, 0)", SANDBOX_VIOLATION, "~forbidden system call"},
    {"network", "no sockets of any family", NULL,
     "import socket\n"
     "n = 0\n"
     "for f in range(46):\n"
     "    for t in (1, 2, 3):\n"
     "        try: socket.socket(f, t); n += 1\n"
     "        except OSError: pass\n"
     "print(n)",
     SANDBOX_OK, "0\n"},
    {"privileges", "no new ones, and no capabilities", NULL,
     CTYPES "header = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
            "data = (ctypes.c_uint32 * 6)(*[1] * 6)\n"
            "print(c.prctl(39, 0, 0, 0, 0), c.capget(header, data), *data)",
     SANDBOX_OK, "1 0 0 0 0 0 0 0\n"},
    {"descriptors", "standard streams and the pipe for results, no others", NULL,
     "import os\n"
     "for i in range(4096):\n"
     "    try: os.fstat(i)\n"
     "    except OSError: continue\n"
     "    print(i, end=' ')",
     SANDBOX_OK, "0 1 2 4 "},
    {"environment", "three variables", NULL,
     "import os\n"
     "print(*sorted(os.environ))",
     SANDBOX_OK, "HOME LANG PATH\n"},
    {"processes", "no other processes can be started", NULL,
     "import os\n"
     "os.fork()",
     SANDBOX_RUNTIME, "~PermissionError"},
    {"threads",
     "as many as the limit says",
     NULL,
     "import threading, time\n"
     "for i in range(8): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
     SANDBOX_RUNTIME,
     "~can't start new thread",
     {.threads = 4}},
    {"CPU time",
     "ends at the limit",
     NULL,
     "while True: pass",
     SANDBOX_CPU,
     "~of CPU time",
     {.cpu_ms = 100}},
    {"wall-clock time",
     "ends at the limit",
     NULL,
     "import time\ntime.sleep(9)",
     SANDBOX_WALL,
     "~did not end",
     {.wall_ms = 200}},
    {"memory", "ends at the limit", NULL, "x = bytearray(1 << 30)", SANDBOX_MEMORY, "~MemoryError"},
    {"output",
     "ends at the limit",
     NULL,
     "while True: print('x' * 1000)",
     SANDBOX_OUTPUT,
     "~of output",
     {.output_kib = 16}},
    {"disk",
     "the working directory is a small file system in memory",
     NULL,
     "f = open('x', 'wb')\n"
     "for i in range(100): f.write(b'x' * 100000)",
     SANDBOX_RUNTIME,
     "~OSError",
     {.disk_kib = 1024},
     true},
    {"inodes",
     "as many files as the limit says",
     NULL,
     "for i in range(100): open(str(i), 'w').close()",
     SANDBOX_RUNTIME,
     "~OSError",
     {.files = 16},
     true},
    {"signals", "reach the program alone", NULL,
     "import os\n"
     "n = 0\n"
     "for pid in (1, os.getppid(), -1):\n"
     "    try: os.kill(pid, 0); n += pid != -1 and pid != os.getppid()\n"
     "    except OSError: pass\n"
     "print(n)",
     SANDBOX_OK, "0\n"},
    {"traces",
     "nothing is left to the next program",
     "open('note', 'w').write('x')",
     "import os\n"
     "print(os.listdir('.'), os.listdir('/tmp'))",
     SANDBOX_OK,
     "[] []\n",
     {0},
     true},
};

int sandbox_num_layers(void) { return (int)(sizeof canaries / sizeof *canaries); }

static int run(struct sandbox *sb, struct sandbox_result *r, const char *source,
               const struct sandbox_limits *limits)
{
    struct sandbox_tests *none = sandbox_tests_new_run("", 0);
    const struct sandbox_job job = {
        .source = source, .source_len = strlen(source), .tests = none, .limits = *limits};
    const int rc = sandbox_run_batch(sb, &job, 1, r);
    sandbox_tests_free(&none);
    return rc;
}

static void judge(struct sandbox_layer *out, const struct canary *c, const struct sandbox_result *r)
{
    const bool in_detail = c->says[0] == '~';
    const bool said = in_detail ? strstr(r->detail, c->says + 1) != NULL
                                : r->out != NULL && strcmp(r->out, c->says) == 0;
    *out = (struct sandbox_layer){.name = c->name,
                                  .what = c->what,
                                  .wanted = true,
                                  .active = r->verdict == c->verdict && said};
    const char *text = in_detail || r->out == NULL ? r->detail : r->out;
    snprintf(out->seen, sizeof out->seen, "%s: %.*s", sandbox_verdict_name(r->verdict),
             (int)(strcspn(text, "\n") < 200 ? strcspn(text, "\n") : 200), text);
}

int sandbox_check(struct sandbox *sb, struct sandbox_layer *out)
{
    int rc = 0;
    for (int i = 0; i < sandbox_num_layers() && rc == 0; i++) {
        const struct canary *c = &canaries[i];
        struct sandbox_result r = {0};
        if (c->jail_only && sandbox_tier_of(sb) != SANDBOX_JAIL) {
            out[i] = (struct sandbox_layer){.name = c->name, .what = c->what};
            continue;
        }
        if (c->before != NULL)
            rc = run(sb, &r, c->before, &c->limits);
        sandbox_result_clear(&r);
        if (rc == 0)
            rc = run(sb, &r, c->source, &c->limits);
        if (rc == 0)
            judge(&out[i], c, &r);
        sandbox_result_clear(&r);
    }
    return rc;
}
