// SPDX-License-Identifier: Apache-2.0
// `gradus sandbox run`: one untrusted program, its verdict as JSON. `gradus sandbox check`: which
// layers of isolation are active here.
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "rl/verb.h"
#include "sandbox/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROGRAM_MAX ((size_t)16 << 20)
#define INPUT_MAX   ((size_t)256 << 20)

struct run_options {
    const char *file, *lang, *tier, *tests, *input;
    double time_limit, wall_limit; // seconds
    int memory_mb, output_kb, disk_kb, files, threads;
};

// "-" is standard input.
static int read_named(struct strbuf *out, const char *path, size_t max)
{
    return file_read(out, strcmp(path, "-") == 0 ? "/dev/stdin" : path, max, ERR_DATA);
}

static int read_program(struct strbuf *out, const char *path)
{
    const int rc = read_named(out, path, PROGRAM_MAX);
    if (rc != 0)
        return rc;
    const size_t valid = utf8_valid_prefix(out->len > 0 ? out->data : "", out->len);
    if (valid != out->len)
        return err_set(ERR_DATA, "'%s': byte %zu is not UTF-8", path, valid);
    return 0;
}

// The tests of a file: a data row, or the value of a row's `tests`.
static int read_tests(struct sandbox_tests **out, const char *path)
{
    struct json_doc *doc = NULL;
    int rc = json_parse_file(&doc, path, 0, ERR_DATA);
    if (rc != 0)
        return rc;
    const struct json *root = json_root(doc);
    rc = sandbox_row_has_tests(root) ? sandbox_tests_from_row(out, doc, root, path)
                                     : sandbox_tests_from_json(out, doc, root, path);
    json_free(&doc);
    return rc;
}

static int open_tests(struct sandbox_tests **out, const struct run_options *o)
{
    if (o->tests != NULL && o->input != NULL)
        return err_set(ERR_CONFIG, "sandbox run: tests bring their own input; give --tests or "
                                   "--stdin");
    if (o->tests != NULL)
        return read_tests(out, o->tests);
    struct strbuf input = {0};
    const int rc = o->input != NULL ? read_named(&input, o->input, INPUT_MAX) : 0;
    if (rc == 0)
        *out = sandbox_tests_new_run(input.len > 0 ? input.data : "", input.len);
    strbuf_free(&input);
    return rc;
}

static void print_result(const struct sandbox_result *r)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_begin_object(&w);
    json_put_key(&w, "verdict");
    json_put_string(&w, sandbox_verdict_name(r->verdict));
    json_put_key(&w, "detail");
    json_put_string(&w, r->detail);
    json_put_key(&w, "tests_passed");
    json_put_int(&w, r->tests_passed);
    json_put_key(&w, "tests_total");
    json_put_int(&w, r->tests_total);
    json_put_key(&w, "tier");
    json_put_string(&w, sandbox_tier_name(r->tier));
    json_put_key(&w, "weak");
    json_put_bool(&w, r->weak);
    json_put_key(&w, "exit_code");
    if (r->exit_code >= 0)
        json_put_int(&w, r->exit_code);
    else
        json_put_null(&w);
    json_put_key(&w, "signal");
    if (r->signal != 0)
        json_put_int(&w, r->signal);
    else
        json_put_null(&w);
    json_put_key(&w, "cpu_ms");
    json_put_double(&w, r->cpu_us / 1e3);
    json_put_key(&w, "wall_ms");
    json_put_double(&w, r->wall_us / 1e3);
    json_put_key(&w, "peak_kb");
    json_put_int(&w, r->peak_kib);
    json_put_key(&w, "stdout");
    json_put_text(&w, r->out != NULL ? r->out : "", r->out_len);
    json_put_key(&w, "stderr");
    json_put_text(&w, r->err != NULL ? r->err : "", r->err_len);
    json_end_object(&w);
    printf("%s\n", text.data);
    strbuf_free(&text);
}

static int find_tier(enum sandbox_tier *out, const char *name)
{
    if (!sandbox_tier_find(out, name))
        return err_set(ERR_CONFIG, "sandbox: --tier is \"%s\"; there are: jail, cage", name);
    return 0;
}

static int run_program(const struct run_options *o, const struct strbuf *program,
                       const struct sandbox_tests *tests)
{
    struct sandbox_options options = {.slots = 1, .keep_output = o->output_kb * 1024};
    struct sandbox_job job = {
        .source = program->len > 0 ? program->data : "",
        .source_len = program->len,
        .tests = tests,
        .limits = {.cpu_ms = (int)(o->time_limit * 1e3),
                   .wall_ms = (int)(o->wall_limit * 1e3),
                   .memory_kib = o->memory_mb * 1024,
                   .output_kib = o->output_kb,
                   .disk_kib = o->disk_kb,
                   .files = o->files,
                   .threads = o->threads},
        .run_all = true,
    };
    struct sandbox *sandbox = NULL;
    struct sandbox_result result = {0};
    int rc = find_tier(&options.tier, o->tier);
    if (rc == 0 && !sandbox_language_find(&job.language, o->lang))
        rc = err_set(ERR_CONFIG, "sandbox run: --lang is \"%s\"; there are: python, c", o->lang);
    if (rc == 0)
        rc = sandbox_open(&sandbox, &options);
    if (rc == 0)
        rc = sandbox_run_batch(sandbox, &job, 1, &result);
    if (rc == 0)
        print_result(&result);
    if (rc == 0 && result.verdict == SANDBOX_INTERNAL)
        rc = err_set(ERR_ENV, "sandbox: no verdict: %s", result.detail);
    sandbox_result_clear(&result);
    sandbox_close(&sandbox);
    return rc;
}

static int sandbox_run(int argc, char **argv)
{
    struct run_options o = {.lang = "python",
                            .tier = "jail",
                            .time_limit = 2,
                            .wall_limit = 0,
                            .memory_mb = 256,
                            .output_kb = 1024,
                            .disk_kb = 16384,
                            .files = 256,
                            .threads = 16};
    const struct option options[] = {
        {"FILE", NULL, OPTION_STRING, &o.file, 0, 0, true, "the program; - reads standard input"},
        {"--tests", "FILE", OPTION_STRING, &o.tests, 0, 0, false,
         "JSON: a data row with tests, or its `tests`; default: the program only has to end well"},
        {"--stdin", "FILE", OPTION_STRING, &o.input, 0, 0, false,
         "what the program reads, without tests; - passes standard input on (nothing)"},
        {"--lang", "LANG", OPTION_STRING, &o.lang, 0, 0, false, "python or c (python)"},
        {"--tier", "TIER", OPTION_STRING, &o.tier, 0, 0, false,
         "the weakest isolation that will do: jail, or cage where namespaces are forbidden (jail)"},
        {"--time-limit", "S", OPTION_REAL, &o.time_limit, 0.001, 3600, false,
         "seconds of CPU time (2)"},
        {"--wall-limit", "S", OPTION_REAL, &o.wall_limit, 0.001, 86400, false,
         "seconds, waiting included (twice the CPU time and 1)"},
        {"--memory-mb", "MB", OPTION_INT, &o.memory_mb, 1, 1 << 20, false,
         "address space beside the interpreter's own (256)"},
        {"--output-kb", "KB", OPTION_INT, &o.output_kb, 1, 1 << 20, false,
         "of each stream, and of all results (1024)"},
        {"--disk-kb", "KB", OPTION_INT, &o.disk_kb, 1, 1 << 20, false,
         "what the working directory holds (16384)"},
        {"--files", "N", OPTION_INT, &o.files, 1, 1 << 20, false, "files in it (256)"},
        {"--threads", "N", OPTION_INT, &o.threads, 1, 4096, false, "beside the first (16)"},
        {0}};
    bool done = false;
    int rc = options_parse(
        options, argc, argv,
        "Runs one program in a box of its own and prints its verdict as a JSON "
        "object: ok, wrong,\nincomplete, runtime, signal, cpu, wall, memory, "
        "output, violation, compile. The exit code is 0 whatever\nthe verdict; 5 when "
        "there is none. It is each test's process that the limits hold for.",
        &done);
    if (rc != 0 || done)
        return rc;
    if (o.input != NULL && strcmp(o.file, "-") == 0 && strcmp(o.input, "-") == 0)
        return err_set(ERR_CONFIG, "sandbox run: program and input cannot both be \"-\"");
    struct strbuf program = {0};
    struct sandbox_tests *tests = NULL;
    rc = read_program(&program, o.file);
    if (rc == 0)
        rc = open_tests(&tests, &o);
    if (rc == 0)
        rc = run_program(&o, &program, tests);
    sandbox_tests_free(&tests);
    strbuf_free(&program);
    return rc;
}

// ---- check

struct check {
    enum sandbox_tier tier;
    const struct sandbox_layer *layers;
    int num_layers;
    bool languages[SANDBOX_LANGUAGES];
    char why[SANDBOX_LANGUAGES][256]; // a language cannot be run
    const char *refusal;              // NULL: there is a box
};

static void put_languages(struct json_writer *w, const struct check *c)
{
    json_put_key(w, "languages");
    json_begin_array(w);
    for (int i = 0; i < SANDBOX_LANGUAGES && c->refusal == NULL; i++) {
        json_begin_object(w);
        json_put_key(w, "language");
        json_put_string(w, sandbox_language_name((enum sandbox_language)i));
        json_put_key(w, "works");
        json_put_bool(w, c->languages[i]);
        json_put_key(w, "why");
        json_put_string(w, c->why[i]);
        json_end_object(w);
    }
    json_end_array(w);
}

static void put_layers(struct json_writer *w, const struct check *c)
{
    json_put_key(w, "layers");
    json_begin_array(w);
    for (int i = 0; i < c->num_layers && c->refusal == NULL; i++) {
        const struct sandbox_layer *l = &c->layers[i];
        json_begin_object(w);
        json_put_key(w, "layer");
        json_put_string(w, l->name);
        json_put_key(w, "wanted");
        json_put_bool(w, l->wanted);
        json_put_key(w, "active");
        json_put_bool(w, l->active);
        json_put_key(w, "what");
        json_put_string(w, l->what);
        json_put_key(w, "seen");
        json_put_string(w, l->seen);
        json_end_object(w);
    }
    json_end_array(w);
}

static void print_json(const struct check *c)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_begin_object(&w);
    json_put_key(&w, "works");
    json_put_bool(&w, c->refusal == NULL);
    json_put_key(&w, "refusal");
    json_put_string(&w, c->refusal != NULL ? c->refusal : "");
    json_put_key(&w, "tier");
    json_put_string(&w, c->refusal == NULL ? sandbox_tier_name(c->tier) : "");
    put_languages(&w, c);
    put_layers(&w, c);
    json_end_object(&w);
    printf("%s\n", text.data);
    strbuf_free(&text);
}

static void print_text(const struct check *c)
{
    if (c->refusal != NULL)
        return;
    printf("tier %s\n", sandbox_tier_name(c->tier));
    for (int i = 0; i < SANDBOX_LANGUAGES; i++)
        printf("%-7s  %-15s  %s\n", c->languages[i] ? "works" : "absent",
               sandbox_language_name((enum sandbox_language)i), c->why[i]);
    for (int i = 0; i < c->num_layers; i++) {
        const struct sandbox_layer *l = &c->layers[i];
        printf("%-7s  %-15s  %s%s%s%s\n",
               !l->wanted  ? "none"
               : l->active ? "active"
                           : "MISSING",
               l->name, l->what, l->wanted ? "  (" : "", l->seen, l->wanted ? ")" : "");
    }
}

// An honest program of each language.
static int check_languages(struct sandbox *sandbox, struct check *c)
{
    static const char *const honest[SANDBOX_LANGUAGES] = {
        [SANDBOX_PYTHON] = "print(2)\n",
        [SANDBOX_C] = "#include <stdio.h>\nint main(void) { puts(\"2\"); }\n"};
    struct sandbox_tests *none = sandbox_tests_new_run("", 0);
    int rc = 0;
    for (int i = 0; i < SANDBOX_LANGUAGES && rc == 0; i++) {
        const struct sandbox_job job = {.language = (enum sandbox_language)i,
                                        .source = honest[i],
                                        .source_len = strlen(honest[i]),
                                        .tests = none};
        struct sandbox_result r = {0};
        rc = sandbox_run_batch(sandbox, &job, 1, &r);
        c->languages[i] = rc == 0 && r.verdict == SANDBOX_OK && strcmp(r.out, "2\n") == 0;
        if (rc == 0 && !c->languages[i])
            snprintf(c->why[i], sizeof c->why[i], "%s", r.detail);
        sandbox_result_clear(&r);
    }
    sandbox_tests_free(&none);
    return rc;
}

static int check_layers(bool json, enum sandbox_tier tier)
{
    const struct sandbox_options options = {.slots = 1, .tier = tier};
    struct sandbox *sandbox = NULL;
    struct check c = {.num_layers = sandbox_num_layers()};
    struct sandbox_layer *layers = mem_array0((size_t)c.num_layers, sizeof *layers);
    int rc = sandbox_open(&sandbox, &options), missing = 0;
    if (rc == 0)
        rc = sandbox_check(sandbox, layers);
    if (rc == 0)
        rc = check_languages(sandbox, &c);
    if (rc == 0)
        c.tier = sandbox_tier_of(sandbox);
    c.layers = layers;
    c.refusal = rc == 0 ? NULL : err_message();
    (json ? print_json : print_text)(&c);
    for (int i = 0; i < c.num_layers && rc == 0; i++)
        missing += layers[i].wanted && !layers[i].active;
    if (missing > 0)
        rc = err_set(ERR_CHECK, "sandbox: %d of %d layers are not active", missing, c.num_layers);
    else if (rc == 0 && !c.languages[SANDBOX_PYTHON])
        rc = err_set(ERR_CHECK, "sandbox: an honest program fails: %s", c.why[SANDBOX_PYTHON]);
    sandbox_close(&sandbox);
    free(layers);
    return rc;
}

static int sandbox_check_verb(int argc, char **argv)
{
    bool json = false, done = false;
    const char *name = "jail";
    enum sandbox_tier tier = SANDBOX_JAIL;
    const struct option options[] = {
        {"--json", NULL, OPTION_FLAG, &json, 0, 0, false, "one JSON object"},
        {"--tier", "TIER", OPTION_STRING, &name, 0, 0, false,
         "the weakest isolation that will do: jail or cage (jail)"},
        {0}};
    int rc = options_parse(options, argc, argv,
                           "Tries every layer of isolation by a program that it must stop. Exit "
                           "code 5: no box of this\ntier can be built here (the message says what "
                           "would allow it); 1: a layer is not active.",
                           &done);
    if (rc == 0 && !done)
        rc = find_tier(&tier, name);
    return rc != 0 || done ? rc : check_layers(json, tier);
}

// ---- the verb

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    char title[16]; // what messages and help call it
} actions[] = {{"run", sandbox_run, "sandbox run"}, {"check", sandbox_check_verb, "sandbox check"}};
enum { NUM_ACTIONS = sizeof actions / sizeof *actions };

static int help(void)
{
    char word[] = "--help";
    for (int i = 0; i < NUM_ACTIONS; i++) {
        char title[sizeof actions[i].title];
        memcpy(title, actions[i].title, sizeof title);
        char *args[] = {title, word, NULL};
        actions[i].run(2, args);
        if (i + 1 < NUM_ACTIONS)
            printf("\n");
    }
    return 0;
}

int verb_sandbox(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        return help();
    for (int i = 0; i < NUM_ACTIONS; i++) {
        if (strcmp(word, actions[i].name) != 0)
            continue;
        char title[sizeof actions[i].title];
        memcpy(title, actions[i].title, sizeof title);
        argv[1] = title;
        return actions[i].run(argc - 1, argv + 1);
    }
    if (word[0] == 0)
        return err_set(ERR_CONFIG, "sandbox: run or check is missing; see `gradus help sandbox`");
    return err_set(ERR_CONFIG, "sandbox: \"%s\" is neither run nor check", word);
}
