// SPDX-License-Identifier: Apache-2.0
// Verbs of the command line. One row a verb in rl/main.c; a verb's options are a table that both
// parses and documents them.
#ifndef RL_VERB_H
#define RL_VERB_H

#include <stdbool.h>

enum option_kind {
    OPTION_FLAG,   // bool
    OPTION_STRING, // const char *
    OPTION_INT,    // int, within [lo, hi]
    OPTION_REAL,   // double, within [lo, hi]
    OPTION_LIST    // struct option_list: may be given several times
};

struct option_list {
    const char **items;
    int count;
};

struct option {
    const char *name;  // "--model", or "-n"; a positional argument is named without dashes
    const char *value; // what help calls the value: "DIR"; NULL for flags
    enum option_kind kind;
    void *target;  // written when the option is given; its value before is the default
    double lo, hi; // of OPTION_INT and OPTION_REAL
    bool required;
    const char *help;
};

struct verb {
    const char *name;
    const char *summary;               // one line
    int (*run)(int argc, char **argv); // argv[0] is the verb; returns 0 or ERR_*
};

// Parses argv[1..) by a table that ends with a row without a name. Unknown options (with "did you
// mean"), missing and out-of-range values are ERR_CONFIG. `--help` prints the table's help and sets
// *done: the verb returns 0 at once. The caller frees the items of lists.
int options_parse(const struct option *options, int argc, char **argv, const char *summary,
                  bool *done);

// Verbs, one file each.
int verb_train(int argc, char **argv);
int verb_plan(int argc, char **argv);
int verb_eval(int argc, char **argv);
int verb_sample(int argc, char **argv);
int verb_logprobs(int argc, char **argv);
int verb_tokenize(int argc, char **argv);
int verb_score(int argc, char **argv);
int verb_sandbox(int argc, char **argv); // sandbox run | check
int verb_bench(int argc, char **argv);   // bench kernels
int verb_config(int argc, char **argv);
int verb_doctor(int argc, char **argv);

#endif
