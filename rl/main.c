// SPDX-License-Identifier: Apache-2.0
// The program: finds the verb and runs it. A verb's return code, negated, is the exit code; its
// message is printed here and nowhere else.
#include "base/error.h"
#include "base/log.h"
#include "rl/options.h"
#include "rl/verb.h"
#include "rl/version.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static const struct verb verbs[] = {
    {"bench", "speed of the kernels or the sandbox, with the share of what is possible",
     verb_bench},
    {"config", "every key of a config: type, default, range, meaning", verb_config},
    {"doctor", "what this machine can do", verb_doctor},
    {"eval", "pass@1, pass@k, maj@k and best of n on a data file", verb_eval},
    {"logprobs", "log-probability and entropy of every given token", verb_logprobs},
    {"plan", "what a config's stages do, and the memory that they take", verb_plan},
    {"sample", "completions of prompts", verb_sample},
    {"sandbox", "runs one untrusted program, or checks the isolation", verb_sandbox},
    {"score", "scores existing completions: per component and per step", verb_score},
    {"tokenize", "token ids of texts", verb_tokenize},
    {"train", "runs the stages of a config", verb_train},
};
enum { NUM_VERBS = sizeof verbs / sizeof *verbs };

static const struct verb *find_verb(const char *name)
{
    for (int i = 0; i < NUM_VERBS; i++)
        if (!strcmp(verbs[i].name, name))
            return &verbs[i];
    return NULL;
}

static int unknown_verb(const char *name)
{
    const char *names[NUM_VERBS];
    for (int i = 0; i < NUM_VERBS; i++)
        names[i] = verbs[i].name;
    const char *near = options_nearest(name, names, NUM_VERBS);
    if (near)
        return err_set(ERR_CONFIG, "unknown verb \"%s\"; did you mean \"%s\"?", name, near);
    return err_set(ERR_CONFIG, "unknown verb \"%s\"; see `gradus help`", name);
}

static void print_help(void)
{
    printf("usage: gradus VERB ...\n\n"
           "Trains reasoning models by reinforcement learning with process rewards.\n\n");
    for (int i = 0; i < NUM_VERBS; i++)
        printf("  %-10s %s\n", verbs[i].name, verbs[i].summary);
    printf("\n"
           "  help VERB  a verb's arguments\n"
           "  --version  version and commit\n"
           "  -q, -v     less, or more, on standard error (before or after the verb)\n\n"
           "Exit codes: 0 done, 1 a check failed, 2 usage or config, 3 data, 4 model or tokenizer\n"
           "files, 5 environment, 6 writing, 7 NaN or Inf computed, 75 interrupted and saved.\n");
}

static int help(int argc, char **argv)
{
    if (argc < 2) {
        print_help();
        return 0;
    }
    const struct verb *verb = find_verb(argv[1]);
    if (!verb)
        return unknown_verb(argv[1]);
    char word[] = "--help", *args[] = {argv[1], word, NULL};
    return verb->run(2, args);
}

static int dispatch(int argc, char **argv)
{
    int at = 1;
    for (; at < argc && (!strcmp(argv[at], "-q") || !strcmp(argv[at], "-v")); at++)
        log_set_level(argv[at][1] == 'q' ? LOG_WARN : LOG_DEBUG);
    const char *word = at < argc ? argv[at] : "";
    if (!strcmp(word, "help") || !strcmp(word, "--help") || !strcmp(word, "-h"))
        return help(argc - at, argv + at);
    if (!strcmp(word, "--version")) {
        printf("gradus %s (%s)\n", GRADUS_VERSION, GRADUS_COMMIT);
        return 0;
    }
    if (!word[0])
        return err_set(ERR_CONFIG, "a verb is missing; see `gradus help`");
    const struct verb *verb = find_verb(word);
    return verb ? verb->run(argc - at, argv + at) : unknown_verb(word);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    int rc = dispatch(argc, argv);
    if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout)))
        rc = err_set(ERR_WRITE, "standard output: %s", strerror(errno));
    if (rc != 0 && err_message()[0] != '\0') // another rank may have said it
        fprintf(stderr, "gradus: %s\n", err_message());
    log_close_file();
    return -rc;
}
