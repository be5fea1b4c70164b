// SPDX-License-Identifier: Apache-2.0
#include "rl/config_table.h"

#include "rl/config.h"
#include <string.h>

// ---- the tables

#define WORD_AT(constant, word)   [constant] = word,
#define WORD_NEXT(constant, word) word,
#define COUNT(a)                  ((int)(sizeof(a) / sizeof *(a)))
#define CHOICE_TYPE(name, LIST)                                                                    \
    static const char *const words_##name[] = {LIST(WORD_AT)};                                     \
    static const struct config_type type_##name = {                                                \
        .kind = CONFIG_CHOICE, .words = words_##name, .num_words = COUNT(words_##name)};
#define WORD_TYPE(name, LIST)                                                                      \
    static const char *const words_##name[] = {LIST(WORD_NEXT)};                                   \
    static const struct config_type type_##name = {                                                \
        .kind = CONFIG_WORD, .words = words_##name, .num_words = COUNT(words_##name)};

static const struct config_type type_int = {.kind = CONFIG_INT};
static const struct config_type type_int64 = {.kind = CONFIG_INT64};
static const struct config_type type_real = {.kind = CONFIG_REAL};
static const struct config_type type_flag = {.kind = CONFIG_FLAG};
static const struct config_type type_text = {.kind = CONFIG_TEXT};
static const struct config_type type_path = {.kind = CONFIG_PATH};
static const struct config_type type_ints = {.kind = CONFIG_INT_LIST};
static const struct config_type type_texts = {.kind = CONFIG_TEXT_LIST};
static const struct config_type type_model = {.kind = CONFIG_MODEL};
CHOICE_TYPE(stage_kind, CONFIG_STAGE_KIND)
CHOICE_TYPE(generator, CONFIG_GENERATOR)
CHOICE_TYPE(purpose, CONFIG_PURPOSE)
CHOICE_TYPE(samples_from, CONFIG_SAMPLES_FROM)
CHOICE_TYPE(loss_type, CONFIG_LOSS_TYPE)
CHOICE_TYPE(level, CONFIG_LEVEL)
CHOICE_TYPE(scale_rewards, CONFIG_SCALE_REWARDS)
CHOICE_TYPE(credit, CONFIG_CREDIT)
CHOICE_TYPE(kl_estimator, CONFIG_KL_ESTIMATOR)
CHOICE_TYPE(aggregate, CONFIG_AGGREGATE)
CHOICE_TYPE(schedule, CONFIG_SCHEDULE)
CHOICE_TYPE(dtype, CONFIG_DTYPE)
WORD_TYPE(scorer, CONFIG_SCORER)
WORD_TYPE(format, CONFIG_FORMAT)

// A row's field must have the row's type: some structs are those of other modules.
#define KEY(T_, name_, default_, lo_, hi_, help_)                                                  \
    {#name_, &type_##T_, offsetof(OWNER, name_), lo_, hi_, help_},
#define DEFAULT(T_, name_, default_, lo_, hi_, help_) .name_ = default_,
#define SAME_TYPE(T_, name_, default_, lo_, hi_, help_)                                            \
    _Static_assert(                                                                                \
        __builtin_types_compatible_p(__typeof__(((OWNER *)0)->name_), CONFIG_TYPE_##T_),           \
        "type of " #name_);
#define TABLE(name_, LIST)                                                                         \
    LIST(SAME_TYPE)                                                                                \
    static const struct config_key keys_##name_[] = {LIST(KEY)};                                   \
    static const OWNER defaults_##name_ = {LIST(DEFAULT)};                                         \
    static const struct config_table table_##name_ = {#name_, keys_##name_, COUNT(keys_##name_),   \
                                                      sizeof(OWNER), &defaults_##name_};
#define OBJECT_TYPE(name_)                                                                         \
    static const struct config_type type_##name_ = {.kind = CONFIG_OBJECT, .table = &table_##name_};
#define LIST_TYPE(name_, kind_, item_, list_, element_, value_, count_)                            \
    static const struct config_type type_##name_ = {.kind = kind_,                                 \
                                                    .item = &type_##item_,                         \
                                                    .item_size = sizeof(struct element_),          \
                                                    .item_value = value_,                          \
                                                    .count = offsetof(struct list_, count_),       \
                                                    .items = offsetof(struct list_, items)};

#define OWNER struct config_rollout
TABLE(rollout, CONFIG_ROLLOUT_KEYS)
OBJECT_TYPE(rollout)
#undef OWNER
#define OWNER struct optimizer_settings
TABLE(optimizer, CONFIG_OPTIMIZER_KEYS)
OBJECT_TYPE(optimizer)
#undef OWNER
#define OWNER struct config_eval
TABLE(eval, CONFIG_EVAL_KEYS)
OBJECT_TYPE(eval)
#undef OWNER
#define OWNER struct config_run
TABLE(run, CONFIG_RUN_KEYS)
OBJECT_TYPE(run)
#undef OWNER
#define OWNER struct grpo_advantage_config
TABLE(advantage, CONFIG_ADVANTAGE_KEYS)
OBJECT_TYPE(advantage)
#undef OWNER
#define OWNER struct config_source
TABLE(source, CONFIG_SOURCE_KEYS)
OBJECT_TYPE(source)
#undef OWNER
LIST_TYPE(sources, CONFIG_MAP, source, config_sources, config_source, 0, count)
#define OWNER struct config_component
TABLE(component, CONFIG_COMPONENT_KEYS)
OBJECT_TYPE(component)
#undef OWNER
LIST_TYPE(components, CONFIG_LIST, component, config_reward, config_component, 0, own)
LIST_TYPE(rewards, CONFIG_MAP, components, config_rewards, config_reward, 0, count)
LIST_TYPE(shares, CONFIG_MAP, real, config_shares, config_share,
          offsetof(struct config_share, share), count)
#define OWNER struct config_stage
TABLE(stage, CONFIG_STAGE_KEYS)
OBJECT_TYPE(stage)
#undef OWNER
LIST_TYPE(stages, CONFIG_LIST, stage, config_stages, config_stage, 0, count)
#define OWNER struct config
TABLE(config, CONFIG_KEYS)
#undef OWNER

const struct config_table *config_table_root(void) { return &table_config; }

// ---- what the tables say

int config_key_len(const struct config_key *k)
{
    const size_t len = strlen(k->name);
    return (int)(k->name[len - 1] == '_' ? len - 1 : len);
}

const struct config_key *config_table_find(const struct config_table *table, const char *name)
{
    for (int i = 0; i < table->num_keys; i++) {
        const struct config_key *k = &table->keys[i];
        const size_t len = (size_t)config_key_len(k);
        if (strlen(name) == len && !memcmp(k->name, name, len))
            return k;
    }
    return NULL;
}

const char *config_object_word(const struct config_table *table, const void *value)
{
    const struct config_key *k = &table->keys[0];
    const char *field = (const char *)value + k->offset, *word = NULL;
    if (k->type->kind == CONFIG_CHOICE) {
        int choice;
        memcpy(&choice, field, sizeof choice);
        return k->type->words[choice];
    }
    if (k->type->kind == CONFIG_WORD)
        memcpy(&word, field, sizeof word);
    return word ? word : "";
}

const char *config_key_word(const struct config_table *table, const struct config_key *k)
{
    const struct config_type *first = table->keys[0].type;
    for (int i = 0; i < first->num_words && k != table->keys; i++) {
        const size_t len = strlen(first->words[i]);
        if (len > 0 && !strncmp(k->help, first->words[i], len) && k->help[len] == ':')
            return first->words[i];
    }
    return NULL;
}

bool config_key_required(const struct config_table *table, const struct config_key *k)
{
    const struct config_type *type = k->type;
    return k == table->keys && (type->kind == CONFIG_CHOICE || type->kind == CONFIG_WORD) &&
           type->words[0][0];
}

bool config_key_applies(const struct config_table *table, const struct config_key *k,
                        const void *value)
{
    const char *word = config_key_word(table, k);
    return !word || !strcmp(word, config_object_word(table, value));
}
