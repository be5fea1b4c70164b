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
#include <sys/wait.h>
#include <unistd.h>

enum { BATCH = 128, REPEATS = 5, PROCESS_MIB = 8 };
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
    c->name = "list programs, tests by calls";
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

static int fill_stdin(struct bench_case *c)
{
    c->name = "sum of numbers, one test by standard input";
    for (int i = 0; i < BATCH; i++)
        put_job(c, i, "print(sum(map(int, input().split())))\n",
                tests_of("[{\"stdin\": \"1 2 3 4\\n\", \"stdout\": \"10\\n\"}]"));
    return 0;
}

static void case_free(struct bench_case *c)
{
    for (int i = 0; i < BATCH; i++) {
        sandbox_tests_free(&c->tests[i]);
        free(c->sources[i]);
    }
    *c = (struct bench_case){0};
}

// Programs a second: the best of some repeats, each at least min_seconds long. Every verdict must
// be ok.
static int measure(double *best, struct sandbox *sb, const struct bench_case *c)
{
    struct sandbox_result results[BATCH];
    *best = 0;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        const double start = log_clock();
        double seconds;
        int programs = 0;
        do {
            const int rc = sandbox_run_batch(sb, c->jobs, BATCH, results);
            if (rc != 0)
                return rc;
            enum sandbox_verdict worst = SANDBOX_OK;
            for (int i = 0; i < BATCH; i++) {
                worst = results[i].verdict > worst ? results[i].verdict : worst;
                sandbox_result_clear(&results[i]);
            }
            if (worst != SANDBOX_OK)
                return err_set(ERR_CHECK, "bench sandbox: %s: a right program was judged \"%s\"",
                               c->name, sandbox_verdict_name(worst));
            programs += BATCH;
            seconds = log_clock() - start;
        } while (seconds < min_seconds);
        *best = programs / seconds > *best ? programs / seconds : *best;
    }
    return 0;
}

static void print_case(const char *name, int slots, double value, double limit, bool json)
{
    if (!json) {
        printf("%-44s %2d slots  %7.0f programs/s  %3.0f %% of bare forks (%.0f/s)\n", name, slots,
               value, 100 * value / limit, limit);
        return;
    }
    char title[96];
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    snprintf(title, sizeof title, "%s: %d slots", name, slots);
    json_begin_object(&w);
    json_put_key(&w, "bench");
    json_put_string(&w, "sandbox");
    json_put_key(&w, "case");
    json_put_string(&w, title);
    json_put_key(&w, "metric");
    json_put_string(&w, "programs");
    json_put_key(&w, "value");
    json_put_double(&w, value);
    json_put_key(&w, "unit");
    json_put_string(&w, "1/s");
    json_put_key(&w, "limit");
    json_put_double(&w, limit);
    json_put_key(&w, "share");
    json_put_double(&w, value / limit);
    json_end_object(&w);
    printf("%s\n", text.data);
    strbuf_free(&text);
}

static int bench_slots(int slots, bool json)
{
    static int (*const fills[])(struct bench_case *) = {fill_calls, fill_stdin};
    const struct sandbox_options options = {.slots = slots};
    const double limit = fork_rate(slots); // before there are threads
    struct sandbox *sb = NULL;
    int rc = sandbox_open(&sb, &options);
    for (size_t i = 0; i < sizeof fills / sizeof *fills && rc == 0; i++) {
        struct bench_case c = {0};
        double value = 0;
        rc = fills[i](&c);
        if (rc == 0)
            rc = measure(&value, sb, &c);
        if (rc == 0)
            print_case(c.name, slots, value, limit, json);
        case_free(&c);
    }
    sandbox_close(&sb);
    return rc;
}

int bench_sandbox(int slots, bool json)
{
    if (slots == 0) {
        struct sandbox *sb = NULL;
        const int rc = sandbox_open(&sb, NULL);
        if (rc != 0)
            return rc;
        slots = sandbox_slots(sb);
        sandbox_close(&sb);
    }
    const int rc = bench_slots(1, json);
    return rc != 0 || slots == 1 ? rc : bench_slots(slots, json);
}
