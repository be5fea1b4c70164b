// SPDX-License-Identifier: Apache-2.0
#include "rl/bench_sandbox.h"

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "rl/programs.h"
#include "sandbox/sandbox.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BATCH = 128, REPEATS = 5, PROCESS_MIB = 8, CPU_BATCHES = 8 };
static const double min_seconds = 0.5;

// ---- the limit: fork, exit and wait, in as many processes as there are slots

// Forks for a while from a process with as much memory of its own as a warm interpreter has.
static int count_forks(void)
{
    const size_t size = (size_t)PROCESS_MIB << 20;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 0;
    memset(memory, 1, size);
    int count = 0;
    for (const double start = log_clock(); log_clock() - start < min_seconds; count++) {
        const pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        if (pid < 0 || waitpid(pid, NULL, 0) != pid)
            break;
    }
    return count;
}

// Forks a second.
static double fork_rate(int processes)
{
    int fds[2], total = 0, count = 0;
    if (pipe(fds) != 0)
        return 0;
    for (int i = 0; i < processes; i++) {
        if (fork() == 0) {
            count = count_forks();
            _exit(write(fds[1], &count, sizeof count) != (ssize_t)sizeof count);
        }
    }
    close(fds[1]);
    while (read(fds[0], &count, sizeof count) == (ssize_t)sizeof count)
        total += count;
    close(fds[0]);
    while (wait(NULL) > 0)
        ;
    return total / min_seconds;
}

// ---- cases

struct bench_case {
    const char *name;
    unsigned batches; // that were filled
    struct sandbox_job jobs[BATCH];
    struct sandbox_tests *tests[BATCH];
    char *sources[BATCH];
};

static void put_job(struct bench_case *c, int i, const char *source, struct sandbox_tests *tests)
{
    c->sources[i] = mem_strdup(source);
    c->tests[i] = tests;
    c->jobs[i] =
        (struct sandbox_job){.source = c->sources[i], .source_len = strlen(source), .tests = tests};
}

static struct sandbox_tests *tests_of(const char *text)
{
    struct json_doc *doc = NULL;
    struct sandbox_tests *t = NULL;
    if (json_parse(&doc, text, strlen(text), 0, "tests", 1, ERR_DATA) == 0)
        (void)sandbox_tests_from_json(&t, doc, json_root(doc), "tests");
    json_free(&doc);
    return t;
}

// The list programs of configs/quickstart.json: some calls each, compared outside.
static int fill_calls(struct bench_case *c)
{
    const struct programs_settings settings = {.depth = 2, .examples = 3, .holdout = 0, .seed = 1};
    struct programs *p = NULL;
    struct arena arena = {0};
    struct strbuf source = {0};
    const int rc = programs_open(&p, &settings);
    for (int i = 0; i < BATCH && rc == 0; i++) {
        struct problem problem = {0};
        programs_problem(&problem, &arena, p, (uint64_t)i);
        strbuf_clear(&source);
        programs_source(&source, problem.completion, strlen(problem.completion));
        put_job(c, i, source.data, tests_of(problem.tests));
    }
    strbuf_free(&source);
    arena_free(&arena);
    programs_close(&p);
    return rc;
}

static int fill_trivial(struct bench_case *c)
{
    for (int i = 0; i < BATCH; i++)
        put_job(c, i, "print(2)\n", tests_of("[{\"stdin\": \"\", \"stdout\": \"2\\n\"}]"));
    return 0;
}

static int fill_stdin(struct bench_case *c)
{
    for (int i = 0; i < BATCH; i++)
        put_job(c, i, "print(sum(map(int, input().split())))\n",
                tests_of("[{\"stdin\": \"1 2 3 4\\n\", \"stdout\": \"10\\n\"}]"));
    return 0;
}

static void put_c(struct bench_case *c, int i, unsigned number)
{
    char source[256];
    snprintf(source, sizeof source,
             "#include <stdio.h>\n"
             "int main(void) { int s = 0, x; while (scanf(\"%%d\", &x) == 1) s += x; "
             "printf(\"%%d\\n\", s); return 0; } // %u\n",
             number);
    put_job(c, i, source, tests_of("[{\"stdin\": \"1 2 3 4\\n\", \"stdout\": \"10\\n\"}]"));
    c->jobs[i].language = SANDBOX_C;
}

static int fill_c(struct bench_case *c)
{
    for (int i = 0; i < BATCH; i++)
        put_c(c, i, 0);
    return 0;
}

static int fill_new_c(struct bench_case *c)
{
    for (int i = 0; i < BATCH; i++)
        put_c(c, i, 1 + c->batches * BATCH + (unsigned)i);
    return 0;
}

static const struct {
    const char *name;
    int (*fill)(struct bench_case *c);
    bool afresh; // for every batch
} cases[] = {
    {"a trivial program", fill_trivial, false},
    {"list programs, tests by calls", fill_calls, false},
    {"sum of numbers, one test by standard input", fill_stdin, false},
    {"the same in C, compiled before", fill_c, false},
    {"the same in C, from new source", fill_new_c, true},
};
enum { NUM_CASES = sizeof cases / sizeof *cases };

static void case_free(struct bench_case *c)
{
    for (int i = 0; i < BATCH; i++) {
        sandbox_tests_free(&c->tests[i]);
        free(c->sources[i]);
    }
    *c = (struct bench_case){.batches = c->batches};
}

static int case_fill(struct bench_case *c, int which)
{
    case_free(c);
    const int rc = cases[which].fill(c);
    c->name = cases[which].name;
    c->batches++;
    return rc;
}

// One batch. Every verdict must be ok. *missing: the language is not there.
static int run_batch(struct sandbox *sb, const struct bench_case *c, bool *missing)
{
    struct sandbox_result results[BATCH];
    const int rc = sandbox_run_batch(sb, c->jobs, BATCH, results);
    if (rc != 0)
        return rc;
    enum sandbox_verdict worst = SANDBOX_OK;
    for (int i = 0; i < BATCH; i++) {
        worst = results[i].verdict > worst ? results[i].verdict : worst;
        sandbox_result_clear(&results[i]);
    }
    *missing = worst == SANDBOX_INTERNAL && c->jobs[0].language != SANDBOX_PYTHON;
    if (worst != SANDBOX_OK && !*missing)
        return err_set(ERR_CHECK, "bench sandbox: %s: a right program was judged \"%s\"", c->name,
                       sandbox_verdict_name(worst));
    return 0;
}

// Programs a second: the best of some repeats, each at least min_seconds long; 0: the language is
// not there.
static int measure(double *best, struct sandbox *sb, struct bench_case *c, int which)
{
    bool missing = false;
    *best = 0;
    int rc = run_batch(sb, c, &missing); // what is remembered is remembered, slots are there
    for (int repeat = 0; repeat < REPEATS && rc == 0 && !missing; repeat++) {
        double seconds = 0;
        int programs = 0;
        while (seconds < min_seconds && rc == 0) {
            if (cases[which].afresh)
                rc = case_fill(c, which);
            const double start = log_clock();
            if (rc == 0)
                rc = run_batch(sb, c, &missing);
            programs += BATCH;
            seconds += log_clock() - start;
        }
        *best = programs / seconds > *best ? programs / seconds : *best;
    }
    return rc;
}

// CPU time of this process and all that it has waited for.
static double cpu_seconds(void)
{
    struct rusage own, children;
    getrusage(RUSAGE_SELF, &own);
    getrusage(RUSAGE_CHILDREN, &children);
    const struct timeval *t[] = {&own.ru_utime, &own.ru_stime, &children.ru_utime,
                                 &children.ru_stime};
    double s = 0;
    for (int i = 0; i < 4; i++)
        s += (double)t[i]->tv_sec + (double)t[i]->tv_usec * 1e-6;
    return s;
}

// A sandbox opened, so many batches run, and closed again, so that all its CPU time is known.
static int cpu_of_batches(double *out, struct bench_case *c, int batches)
{
    const struct sandbox_options options = {.slots = 1};
    struct sandbox *sb = NULL;
    bool missing = false;
    const double before = cpu_seconds();
    int rc = sandbox_open(&sb, &options);
    for (int i = 0; i < batches && rc == 0; i++)
        rc = run_batch(sb, c, &missing);
    sandbox_close(&sb);
    *out = cpu_seconds() - before;
    return rc;
}

// Milliseconds of CPU time that one more program takes, all processes together.
static int measure_cpu(double *out, struct bench_case *c)
{
    double few = 0, many = 0;
    int rc = cpu_of_batches(&few, c, 1);
    if (rc == 0)
        rc = cpu_of_batches(&many, c, 1 + CPU_BATCHES);
    *out = 1e3 * (many - few) / (CPU_BATCHES * BATCH);
    return rc;
}

struct measured {
    const char *name, *metric, *unit;
    int slots;
    double value, limit; // limit 0: none
};

static void print_json(const struct measured *m)
{
    char title[96];
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    snprintf(title, sizeof title, "%s: %d slots", m->name, m->slots);
    json_begin_object(&w);
    json_put_key(&w, "bench");
    json_put_string(&w, "sandbox");
    json_put_key(&w, "case");
    json_put_string(&w, title);
    json_put_key(&w, "metric");
    json_put_string(&w, m->metric);
    json_put_key(&w, "value");
    json_put_double(&w, m->value);
    json_put_key(&w, "unit");
    json_put_string(&w, m->unit);
    if (m->limit > 0) {
        json_put_key(&w, "limit");
        json_put_double(&w, m->limit);
        json_put_key(&w, "share");
        json_put_double(&w, m->value / m->limit);
    }
    json_end_object(&w);
    printf("%s\n", text.data);
    strbuf_free(&text);
}

static void print_case(const struct measured *m, bool json)
{
    if (json) {
        print_json(m);
        return;
    }
    printf("%-44s %2d slots  %9.3g %s", m->name, m->slots, m->value, m->unit);
    if (m->limit > 0)
        printf("  %3.0f %% of bare forks (%.0f/s)", 100 * m->value / m->limit, m->limit);
    printf("\n");
}

static int bench_case(struct sandbox *sb, int which, int slots, double limit, bool json)
{
    struct bench_case *c = mem_alloc0(sizeof *c);
    double value = 0;
    int rc = case_fill(c, which);
    if (rc == 0)
        rc = measure(&value, sb, c, which);
    if (rc == 0 && value > 0)
        print_case(&(struct measured){c->name, "programs", "programs/s", slots, value, limit},
                   json);
    if (rc == 0 && slots == 1 && value > 0 && !cases[which].afresh) {
        rc = measure_cpu(&value, c);
        if (rc == 0)
            print_case(&(struct measured){c->name, "cpu", "ms of CPU", slots, value, 0}, json);
    }
    case_free(c);
    free(c);
    return rc;
}

static int bench_slots(int slots, const char *only, bool json)
{
    const struct sandbox_options options = {.slots = slots};
    const double limit = fork_rate(slots); // before there are threads
    struct sandbox *sb = NULL;
    int rc = sandbox_open(&sb, &options);
    for (int i = 0; i < NUM_CASES && rc == 0; i++) {
        if (only == NULL || strstr(cases[i].name, only) != NULL)
            rc = bench_case(sb, i, slots, limit, json);
    }
    sandbox_close(&sb);
    return rc;
}

int bench_sandbox(int slots, const char *only, bool json)
{
    int chosen = 0;
    for (int i = 0; i < NUM_CASES; i++)
        chosen += only == NULL || strstr(cases[i].name, only) != NULL;
    if (chosen == 0)
        return err_set(ERR_CONFIG, "bench sandbox: no case is called like \"%s\"", only);
    if (slots == 0) {
        struct sandbox *sb = NULL;
        const int rc = sandbox_open(&sb, NULL);
        if (rc != 0)
            return rc;
        slots = sandbox_slots(sb);
        sandbox_close(&sb);
    }
    const int rc = bench_slots(1, only, json);
    return rc != 0 || slots == 1 ? rc : bench_slots(slots, only, json);
}
