// SPDX-License-Identifier: Apache-2.0
// The config of a run as plain structs. A config is a JSON file with comments; it may name a "base"
// file that it amends, and --set options amend both. config_load merges them, lets every stage
// inherit the sections that it does not override, checks all keys against the tables of
// configs/config.h and reports every fault at once, each with its place. What it returns is
// complete: nothing is left to be derived, and it is never written to again, so any thread may read
// it.
#ifndef RL_CONFIG_H
#define RL_CONFIG_H

#include "base/json.h"
#include "configs/config.h"
#include "policy/arch.h"
#include "policy/optimizer.h"
#include "reward/prm.h"
#include "rl/grpo.h"
#include "rl/verb.h"
#include <stdbool.h>
#include <stdint.h>

#define CONFIG_ENUM_ITEM(constant, word) constant,
enum config_stage_kind { CONFIG_STAGE_KIND(CONFIG_ENUM_ITEM) };
enum config_generator { CONFIG_GENERATOR(CONFIG_ENUM_ITEM) };
enum config_purpose { CONFIG_PURPOSE(CONFIG_ENUM_ITEM) };
enum config_samples_from { CONFIG_SAMPLES_FROM(CONFIG_ENUM_ITEM) };
#undef CONFIG_ENUM_ITEM

struct config_ints {
    int count;
    const int *items;
};
struct config_texts {
    int count;
    const char *const *items;
};

// A model: a directory, or (dir == NULL) a new one.
struct config_model {
    const char *dir;
    struct arch arch;           // of a new model
    uint64_t init_seed;         // of a new model
    const struct json_doc *doc; // the key as it was written, for the dump
    const struct json *value;
};

#define CONFIG_TYPE_int           int
#define CONFIG_TYPE_int64         int64_t
#define CONFIG_TYPE_real          double
#define CONFIG_TYPE_flag          bool
#define CONFIG_TYPE_text          const char *
#define CONFIG_TYPE_path          const char *
#define CONFIG_TYPE_ints          struct config_ints
#define CONFIG_TYPE_texts         struct config_texts
#define CONFIG_TYPE_model         struct config_model
#define CONFIG_TYPE_scorer        const char *
#define CONFIG_TYPE_format        const char *
#define CONFIG_TYPE_stage_kind    enum config_stage_kind
#define CONFIG_TYPE_generator     enum config_generator
#define CONFIG_TYPE_purpose       enum config_purpose
#define CONFIG_TYPE_samples_from  enum config_samples_from
#define CONFIG_TYPE_loss_type     enum grpo_loss_type
#define CONFIG_TYPE_level         enum grpo_level
#define CONFIG_TYPE_scale_rewards enum grpo_scale
#define CONFIG_TYPE_credit        enum grpo_credit
#define CONFIG_TYPE_kl_estimator  enum grpo_kl
#define CONFIG_TYPE_aggregate     enum prm_aggregate
#define CONFIG_TYPE_schedule      enum schedule
#define CONFIG_TYPE_dtype         enum dtype
#define CONFIG_TYPE_advantage     struct grpo_advantage_config
#define CONFIG_TYPE_rollout       struct config_rollout
#define CONFIG_TYPE_optimizer     struct optimizer_settings
#define CONFIG_TYPE_eval          struct config_eval
#define CONFIG_TYPE_run           struct config_run
#define CONFIG_TYPE_sources       struct config_sources
#define CONFIG_TYPE_rewards       struct config_rewards
#define CONFIG_TYPE_shares        struct config_shares
#define CONFIG_TYPE_stages        struct config_stages

#define CONFIG_FIELD(type, name, default_, lo, hi, help) CONFIG_TYPE_##type name;

// The names of fields, their meanings and ranges are the rows of configs/config.h.
struct config_rollout {
    CONFIG_ROLLOUT_KEYS(CONFIG_FIELD)
};
struct config_eval {
    CONFIG_EVAL_KEYS(CONFIG_FIELD)
};
struct config_run {
    CONFIG_RUN_KEYS(CONFIG_FIELD)
};

struct config_source {
    const char *name; // its key in `data`
    CONFIG_SOURCE_KEYS(CONFIG_FIELD)
};
struct config_sources {
    int count;
    struct config_source *items;
};

struct config_component {
    CONFIG_COMPONENT_KEYS(CONFIG_FIELD)
};
// The reward of a source: its own components, then those of "*".
struct config_reward {
    const char *source;
    int count, own;
    struct config_component *items;
};
struct config_rewards {
    int count;
    struct config_reward *items;
};

struct config_share {
    const char *source;
    double share;
};
// In a resolved config: the sources that a stage trains on; shares are positive and sum to 1.
struct config_shares {
    int count;
    struct config_share *items;
};

struct config_stage {
    CONFIG_STAGE_KEYS(CONFIG_FIELD)
};
struct config_stages {
    int count;
    struct config_stage *items;
};

struct config_memory;

struct config {
    CONFIG_KEYS(CONFIG_FIELD)
    struct config_memory *memory; // owns all of the above
};
#undef CONFIG_FIELD

// Reads the config of a run, which has a model and stages; sets may be NULL. ERR_CONFIG with all
// faults in one message, one a line: missing or malformed file, unknown keys (with "did you mean"),
// wrong types, values out of range, contradictions. Relative paths are looked for beside the config
// file that names them, then in the folders above it, then in the working directory; a path that is
// nowhere is kept as it is, for its reader to report.
int config_load(struct config **out, const char *path, const struct option_list *sets);
// The same from memory (text NULL: from the file `name`), where nothing must be there; name is what
// errors call it and where relative paths start from.
int config_parse(struct config **out, const char *text, size_t len, const char *name,
                 const struct option_list *sets);
void config_free(struct config **c);

// The resolved config: reading it back gives the same config.
void config_dump(struct strbuf *out, const struct config *c);

// The reward of a source (that of "*" when it has none of its own), and the source itself; NULL
// when there is none.
const struct config_reward *config_reward_of(const struct config_rewards *rewards,
                                             const char *source);
const struct config_source *config_source_of(const struct config *c, const char *name);
const char *config_stage_kind_name(enum config_stage_kind kind);
bool config_stage_generates(const struct config_stage *s); // it trains on samples of the policy

// The tables as a person reads them (key NULL: all keys; else a dotted path such as
// "rollout.top_p", ERR_CONFIG when there is none), and as a JSON Schema (draft 2020-12).
int config_explain(struct strbuf *out, const char *key);
void config_schema(struct strbuf *out);

#endif
