// SPDX-License-Identifier: Apache-2.0
// Many programs, honest and hostile mixed, over more slots than there are processors: every honest
// one must be judged right, every hostile one as its kind may be, and nothing may pile up. Prints
// latencies. usage: sandbox_soak [PROGRAMS [SLOTS]] (2000, four a processor); speaks TAP.
// Interrupted by SIGTERM or SIGINT, it reports what it has done so far.
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "sandbox/sandbox.h"
#include "tests/left_behind.h"
#include "tests/sandbox_rows.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// One kind of program, made from a number.
struct kind {
    const char *name;
    int weight; // of 1000
    unsigned verdicts;
    enum sandbox_language language;
    const char *source; // holds %u, up to three times, for the number
    const char *tests;  // JSON, likewise with the number and then the answer; NULL: only run
    struct sandbox_limits limits;
};

#define HONEST OK

// The answer of test number n is always 7 n + 1.
static const struct kind kinds[] = {
    {"calls",
     300,
     HONEST,
     SANDBOX_PYTHON,
     "def f(n):\n    return sum(n for i in range(7)) + 1 if n != %u + 1 else 0\n",
     "{\"entry\":\"f\",\"calls\":[{\"args\":[%u],\"result\":%u}]}",
     {0}},
    {"standard input",
     250,
     HONEST,
     SANDBOX_PYTHON,
     "n = int(input())\nprint(7 * n + 1)  # %u\n",
     "[{\"stdin\":\"%u\\n\",\"stdout\":\"%u\\n\"}]",
     {0}},
    {"asserts",
     100,
     HONEST,
     SANDBOX_PYTHON,
     "def f(n):\n    return 7 * n + 1  # %u\n",
     "\"assert f(5) == 36\\nassert f(0) == 1\"",
     {0}},
    {"the library",
     80,
     HONEST,
     SANDBOX_PYTHON,
     "import collections, itertools, math, re\n"
     "n = int(re.match('[0-9]+', input()).group())  # %u\n"
     "print(math.prod([7, n]) + len(list(itertools.islice(collections.deque([1]), 1))))\n",
     "[{\"stdin\":\"%u\\n\",\"stdout\":\"%u\\n\"}]",
     {0}},
    {"files and threads",
     60,
     HONEST,
     SANDBOX_PYTHON,
     "import os, threading\n"
     "n = int(input())  # %u\n"
     "assert os.listdir('.') == []\n"
     "open('x', 'w').write(str(n))\n"
     "t = threading.Thread(target=lambda: print(7 * int(open('x').read()) + 1))\n"
     "t.start(); t.join()\n",
     "[{\"stdin\":\"%u\\n\",\"stdout\":\"%u\\n\"}]",
     {0}},
    {"a little work",
     30,
     HONEST,
     SANDBOX_PYTHON,
     "n = int(input())  # %u\n"
     "s = 0\n"
     "for i in range(100000): s += i & 1\n"
     "print(7 * n + 1 + s - 50000)\n",
     "[{\"stdin\":\"%u\\n\",\"stdout\":\"%u\\n\"}]",
     {0}},
    {"C",
     80,
     HONEST,
     SANDBOX_C,
     "#include <stdio.h>\n"
     "int main(void) { unsigned n; if (scanf(\"%%u\", &n) != 1) return 1; printf(\"%%u\\n\", 7 * n "
     "+ 1); "
     "return 0; }\n",
     "[{\"stdin\":\"%u\\n\",\"stdout\":\"%u\\n\"}]",
     {0}},
    {"C, a new source",
     2,
     HONEST,
     SANDBOX_C,
     "#include <stdio.h>\n"
     "int main(void) { unsigned n; if (scanf(\"%%u\", &n) != 1) return 1; printf(\"%%u\\n\", 7 * n "
     "+ 1); "
     "return 0; } // %u\n",
     "[{\"stdin\":\"%u\\n\",\"stdout\":\"%u\\n\"}]",
     {0}},
    // Hostile.
    {"a wrong answer",
     20,
     WRONG,
     SANDBOX_PYTHON,
     "def f(n): return 7 * n + 2  # %u\n",
     "{\"entry\":\"f\",\"calls\":[{\"args\":[%u],\"result\":%u}]}",
     {0}},
    {"exits early",
     15,
     ANY(SANDBOX_INCOMPLETE),
     SANDBOX_PYTHON,
     "import os\nos._exit(0)  # %u\n",
     "{\"entry\":\"f\",\"calls\":[{\"args\":[%u],\"result\":%u}]}",
     {0}},
    {"a forbidden system call",
     15,
     VIOLATION,
     SANDBOX_PYTHON,
     CTYPES "c.syscall(101)  # %u\n",
     NULL,
     {0}},
    {"forks", 10, RUNTIME, SANDBOX_PYTHON, "import os\nos.fork()  # %u\n", NULL, {0}},
    {"kills",
     10,
     OK,
     SANDBOX_PYTHON,
     "import os\n"
     "for p in (-1, 1, os.getppid()):\n"
     "    try: os.kill(p, 9)\n"
     "    except OSError: pass\n# %u\n",
     NULL,
     {0}},
    {"leaves files",
     10,
     OK | RUNTIME,
     SANDBOX_PYTHON,
     "for i in range(300): open('n%u-%%d' %% i, 'w').close()\n",
     NULL,
     {0}},
    {"garbage on every descriptor",
     5,
     ANY(SANDBOX_INCOMPLETE),
     SANDBOX_PYTHON,
     "import os\n"
     "for i in range(3, 64):\n"
     "    try: os.write(i, b'\\0' * 64)\n"
     "    except OSError: pass\n"
     "def f(n): return 7 * n + 1  # %u\n",
     "{\"entry\":\"f\",\"calls\":[{\"args\":[%u],\"result\":%u}]}",
     {0}},
    {"memory",
     3,
     MEMORY,
     SANDBOX_PYTHON,
     "a = [bytearray(1 << 28) for i in range(9)]  # %u\n",
     NULL,
     {0}},
    {"output",
     3,
     OUTPUT,
     SANDBOX_PYTHON,
     "while True: print('x' * 9999)  # %u\n",
     NULL,
     {.output_kib = 64}},
    {"crashes",
     3,
     SIGNAL,
     SANDBOX_C,
     "int main(void) { *(volatile int *)0 = 1; } // %u\n",
     NULL,
     {0}},
    {"loops", 2, CPU, SANDBOX_PYTHON, "while True: pass  # %u\n", NULL, {.cpu_ms = 50}},
    {"sleeps",
     2,
     WALL,
     SANDBOX_PYTHON,
     "import time\ntime.sleep(60)  # %u\n",
     NULL,
     {.wall_ms = 100}},
};
enum { NUM_KINDS = sizeof kinds / sizeof *kinds };

static const struct kind *kind_of(unsigned number)
{
    int at = (int)(number * 2654435761u >> 8) % 1000; // Knuth's multiplicative hash
    for (int i = 0; i < NUM_KINDS; i++) {
        at -= kinds[i].weight;
        if (at < 0)
            return &kinds[i];
    }
    return &kinds[0];
}

struct flight { // a program on its way
    uint64_t id;
    double begun;
    const struct kind *kind;
    struct sandbox_tests *tests;
};

struct soak {
    struct sandbox *sb;
    int programs, slots;
    struct flight *flights; // [slots]
    float *latencies;       // [programs] seconds
    int done, wrong_honest, wrong_hostile, internal;
    int counts[NUM_KINDS];
    struct left {
        int processes, descriptors, mounts;
        long own_kib, largest_kib;
    } first, last;
};

// The format strings are ours, above.
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static struct sandbox_tests *make_tests(const struct kind *k, unsigned n)
{
    char text[512];
    struct json_doc *doc = NULL;
    struct sandbox_tests *t = NULL;
    if (k->tests == NULL)
        return sandbox_tests_new_run("", 0);
    snprintf(text, sizeof text, k->tests, n, 7 * n + 1);
    if (json_parse(&doc, text, strlen(text), 0, "tests", 1, ERR_DATA) == 0)
        (void)sandbox_tests_from_json(&t, doc, json_root(doc), "tests");
    json_free(&doc);
    return t;
}

static void launch(struct soak *s, struct flight *f, unsigned number)
{
    char source[1024];
    const unsigned n = number % 100000;
    f->kind = kind_of(number);
    snprintf(source, sizeof source, f->kind->source, n);
    f->tests = make_tests(f->kind, n);
    const struct sandbox_job job = {.language = f->kind->language,
                                    .source = source,
                                    .source_len = strlen(source),
                                    .tests = f->tests,
                                    .limits = f->kind->limits};
    f->begun = log_clock();
    (void)sandbox_submit(s->sb, &job, &f->id);
}

static void land(struct soak *s, struct flight *f, const struct sandbox_result *r)
{
    const bool right = (ANY(r->verdict) & f->kind->verdicts) != 0;
    s->latencies[s->done++] = (float)(log_clock() - f->begun);
    s->counts[f->kind - kinds]++;
    s->internal += r->verdict == SANDBOX_INTERNAL;
    if (!right && (f->kind->verdicts & OK) != 0)
        s->wrong_honest++;
    else if (!right)
        s->wrong_hostile++;
    if (!right)
        printf("# %s: %s (%s)\n", f->kind->name, sandbox_verdict_name(r->verdict), r->detail);
    sandbox_tests_free(&f->tests);
}

static struct left look(void)
{
    return (struct left){left_descendants(), left_descriptors(), left_mounts(),
                         left_resident_kib(getpid()), left_largest_kib()};
}

// When nothing runs: the same twice, since boxes that were retired are replaced meanwhile.
static struct left look_when_quiet(void)
{
    struct left now = look(), before;
    const double give_up = log_clock() + 30;
    do {
        const struct timespec pause = {.tv_nsec = 300000000};
        before = now;
        nanosleep(&pause, NULL);
        now = look();
    } while (log_clock() < give_up &&
             (now.processes != before.processes || now.descriptors != before.descriptors ||
              now.mounts != before.mounts || now.mounts < 0));
    return now;
}

// Every slot of every language is busy once, so that all are there.
static int warm_up(const struct soak *s)
{
    static const char *const sleepers[SANDBOX_LANGUAGES] = {
        [SANDBOX_PYTHON] = "import time\ntime.sleep(0.5)",
        [SANDBOX_C] = "#include <unistd.h>\nint main(void) { usleep(500000); }"};
    struct sandbox_tests *none = sandbox_tests_new_run("", 0);
    struct sandbox_job *jobs = mem_array0((size_t)s->slots, sizeof *jobs);
    struct sandbox_result *results = mem_array0((size_t)s->slots, sizeof *results);
    int rc = 0;
    for (int l = 0; l < SANDBOX_LANGUAGES && rc == 0; l++) {
        for (int i = 0; i < s->slots; i++)
            jobs[i] = (struct sandbox_job){.language = (enum sandbox_language)l,
                                           .source = sleepers[l],
                                           .source_len = strlen(sleepers[l]),
                                           .tests = none};
        rc = sandbox_run_batch(s->sb, jobs, s->slots, results);
        for (int i = 0; i < s->slots && rc == 0; i++)
            sandbox_result_clear(&results[i]);
    }
    sandbox_tests_free(&none);
    free(jobs);
    free(results);
    return rc;
}

static volatile sig_atomic_t interrupted;

static void interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

static int fly(struct soak *s)
{
    int launched = 0;
    for (int i = 0; i < s->slots && launched < s->programs; i++)
        launch(s, &s->flights[i], (unsigned)launched++);
    while (s->done < s->programs) {
        struct sandbox_result r;
        uint64_t id;
        const int rc = sandbox_reap(s->sb, &id, &r, -1);
        if (rc < 0)
            return rc;
        struct flight *f = s->flights;
        while (f->id != id)
            f++;
        land(s, f, &r);
        sandbox_result_clear(&r);
        f->id = 0;
        if (interrupted)
            s->programs = launched;
        if (launched < s->programs)
            launch(s, f, (unsigned)launched++);
        if (s->done % 100000 == 0) {
            printf("# %d programs\n", s->done);
            fflush(stdout);
        }
    }
    return 0;
}

static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double percentile(const struct soak *s, double p)
{
    return 1e3 * (double)s->latencies[(int)(p * (s->done - 1))];
}

static int report(bool good, const char *name)
{
    static int number;
    printf("%s %d - %s\n", good ? "ok" : "not ok", ++number, name);
    return !good;
}

static int judge(struct soak *s, double seconds)
{
    int failed = 0;
    qsort(s->latencies, (size_t)s->done, sizeof *s->latencies, compare_floats);
    for (int i = 0; i < NUM_KINDS; i++)
        printf("# %7d %s\n", s->counts[i], kinds[i].name);
    printf(
        "# %d programs in %.1f s over %d slots: %.0f a second; from submission to result, in ms: "
        "median %.1f, p99 %.1f, largest %.1f\n",
        s->done, seconds, s->slots, s->done / seconds, percentile(s, 0.5), percentile(s, 0.99),
        percentile(s, 1));
    printf("# before and after: processes %d, %d; descriptors %d, %d; mounts %d, "
           "%d; own memory %ld, %ld KiB; largest box %ld, %ld KiB\n",
           s->first.processes, s->last.processes, s->first.descriptors, s->last.descriptors,
           s->first.mounts, s->last.mounts, s->first.own_kib, s->last.own_kib, s->first.largest_kib,
           s->last.largest_kib);
    failed += report(s->wrong_honest == 0, "no honest program is judged wrong");
    failed += report(s->wrong_hostile == 0, "every hostile program gets its verdict");
    failed += report(s->internal == 0, "every program gets a verdict");
    failed +=
        report(s->last.processes == s->first.processes &&
                   s->last.descriptors == s->first.descriptors && s->last.mounts == s->first.mounts,
               "processes, descriptors and mounts do not pile up");
    // Allocators keep some of what was freed: it may not grow with the number of programs.
    failed += report(s->last.own_kib < s->first.own_kib + 16384 &&
                         s->last.largest_kib < s->first.largest_kib + 8192,
                     "memory does not pile up");
    return failed;
}

int main(int argc, char **argv)
{
    struct soak s = {.programs = argc > 1 ? atoi(argv[1]) : 2000};
    s.slots = argc > 2 ? atoi(argv[2]) : 4 * (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (s.programs < 100 || s.slots < 1) {
        fprintf(stderr, "usage: sandbox_soak [PROGRAMS [SLOTS]]\n");
        return 2;
    }
    const struct sandbox_options options = {.slots = s.slots};
    if (sandbox_open(&s.sb, &options) != 0) {
        printf("1..0 # SKIP %s\n", err_message());
        return 0;
    }
    printf("1..6\n");
    signal(SIGTERM, interrupt);
    signal(SIGINT, interrupt);
    s.flights = mem_array0((size_t)s.slots, sizeof *s.flights);
    s.latencies = mem_array0((size_t)s.programs, sizeof *s.latencies);
    int rc = warm_up(&s);
    s.first = look_when_quiet();
    const double begun = log_clock();
    if (rc == 0)
        rc = fly(&s);
    const double seconds = log_clock() - begun;
    if (rc != 0)
        printf("Bail out! %s\n", err_message());
    s.last = look_when_quiet();
    int failed = rc == 0 ? judge(&s, seconds) : 1;
    sandbox_close(&s.sb);
    failed += rc == 0 && report(left_descendants() == 0, "closing leaves no process") != 0;
    free(s.flights);
    free(s.latencies);
    return failed != 0;
}
