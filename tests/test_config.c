// SPDX-License-Identifier: Apache-2.0
// Configs: what a file, the file that it amends and --set options make together, what is derived,
// and that every fault is reported, with its place, in one message.
#include "base/error.h"
#include "base/file.h"
#include "rl/config.h"
#include "rl/config_table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define QUICKSTART TEST_GOLDEN "/../../configs/quickstart.json"

// A small config that is whole; tests change it by --set.
static const char small[] =
    "{ // learns something\n"
    "  \"model\": \"some/model\",\n"
    "  \"data\": {\"games\": {\"generate\": \"games\", \"holdout\": 10},\n"
    "           \"rows\": {\"file\": \"rows.jsonl\"},\n"
    "           \"real\": {\"file\": \"real.jsonl\", \"for\": \"eval\"}},\n"
    "  \"reward\": {\"games\": [{\"use\": \"steps\", \"per_step\": true}, {\"use\": \"steps\"}],\n"
    "             \"*\": [{\"use\": \"answer\", \"weight\": 0.5}]},\n"
    "  \"rollout\": {\"num_prompts\": 4, \"num_generations\": 6, \"top_p\": 0.9},\n"
    "  \"optimizer\": {\"learning_rate\": 1e-3, \"weight_decay\": 0.1},\n"
    "  \"stages\": [{\"kind\": \"sft\", \"steps\": 5, \"optimizer\": {\"learning_rate\": 2e-3}},\n"
    "             {\"kind\": \"prm\", \"steps\": 6, \"samples_from\": \"policy\"},\n"
    "             {\"kind\": \"grpo\", \"steps\": 7, \"rollout\": {\"top_p\": 0.5}, \"epsilon\": "
    "0.3}]\n"
    "}\n";

static int parse_text(struct config **out, const char *text, const char *const *sets, int count)
{
    struct option_list list = {(const char **)(uintptr_t)sets, count};
    return config_parse(out, text, strlen(text), "small.json", &list);
}

static struct config *parse_small(const char *set)
{
    struct config *c = NULL;
    if (parse_text(&c, small, &set, set ? 1 : 0) != 0)
        fail_msg("%s", err_message());
    return c;
}

static void assert_says(const char *words)
{
    if (!strstr(err_message(), words))
        fail_msg("\"%s\" does not say \"%s\"", err_message(), words);
}

static void assert_refused(const char *text, const char *words)
{
    struct config *c = NULL;
    assert_int_equal(parse_text(&c, text, NULL, 0), ERR_CONFIG);
    assert_null(c);
    assert_says(words);
}

static void assert_set_refused(const char *set, const char *words)
{
    struct config *c = NULL;
    assert_int_equal(parse_text(&c, small, &set, 1), ERR_CONFIG);
    assert_null(c);
    assert_says(words);
}

// ---- what a config becomes

static void an_empty_config_holds_the_defaults_of_the_table(void **state)
{
    (void)state;
    struct config *c = NULL;
    assert_int_equal(parse_text(&c, "{}", NULL, 0), 0);
    assert_int_equal(c->rollout.num_prompts, 64);
    assert_true(c->optimizer.adam_beta2 == 0.999);
    assert_int_equal(c->optimizer.schedule, SCHEDULE_CONSTANT);
    assert_int_equal(c->run.seed, 1);
    assert_int_equal(c->stages.count, 0);
    assert_int_equal(c->eval.k.count, 2);
    assert_int_equal(c->eval.k.items[1], c->eval.samples);
    assert_null(c->tokenizer);
    config_free(&c);
}

static void a_stage_inherits_the_sections_that_it_does_not_override(void **state)
{
    (void)state;
    struct config *c = parse_small(NULL);
    const struct config_stage *sft = &c->stages.items[0], *grpo = &c->stages.items[2];
    assert_true(c->optimizer.learning_rate == 1e-3);
    assert_true(sft->optimizer.learning_rate == 2e-3);
    assert_true(sft->optimizer.weight_decay == 0.1);
    assert_true(grpo->optimizer.learning_rate == 1e-3);
    assert_true(grpo->rollout.top_p == 0.5);
    assert_int_equal(grpo->rollout.num_generations, 6);
    assert_true(c->rollout.top_p == 0.9);
    config_free(&c);
    c = parse_small("optimizer.weight_decay=0.2"); // reaches the stages as well
    assert_true(c->stages.items[0].optimizer.weight_decay == 0.2);
    config_free(&c);
}

static void what_follows_from_other_keys_is_derived(void **state)
{
    (void)state;
    struct config *c = parse_small(NULL);
    const struct config_stage *sft = &c->stages.items[0], *prm = &c->stages.items[1];
    const struct config_stage *grpo = &c->stages.items[2];
    assert_string_equal(sft->name, "sft");
    assert_int_equal(sft->batch, 64);
    assert_int_equal(grpo->batch, 24); // 4 prompts, 6 samples each
    assert_true(grpo->epsilon_high == 0.3);
    assert_int_equal(grpo->advantage.scale, GRPO_SCALE_GROUP);
    assert_int_equal(config_source_of(c, "games")->for_, FOR_BOTH);
    assert_int_equal(config_source_of(c, "rows")->for_, FOR_TRAIN);
    assert_int_equal(grpo->sources.count, 2); // not the one for evaluation
    assert_true(grpo->sources.items[0].share == 0.5);
    assert_int_equal(prm->sources.count, 1); // only where the step checker is in the reward
    assert_string_equal(prm->sources.items[0].source, "games");
    config_free(&c);
}

static void components_of_the_star_are_added_to_every_source(void **state)
{
    (void)state;
    struct config *c = parse_small(NULL);
    const struct config_reward *games = config_reward_of(&c->reward, "games");
    assert_int_equal(games->own, 2);
    assert_int_equal(games->count, 3);
    assert_string_equal(games->items[2].use, "answer");
    const struct config_reward *rows = config_reward_of(&c->stages.items[2].reward, "rows");
    assert_string_equal(rows->source, "*");
    assert_int_equal(rows->count, 1);
    assert_true(rows->items[0].weight == 0.5);
    config_free(&c);
}

static void shares_of_sources_are_brought_to_a_sum_of_one(void **state)
{
    (void)state;
    struct config *c = parse_small("stages.grpo.sources={\"games\": 3, \"rows\": 1}");
    const struct config_shares *shares = &c->stages.items[2].sources;
    assert_string_equal(shares->items[0].source, "games");
    assert_true(shares->items[0].share == 0.75);
    assert_true(shares->items[1].share == 0.25);
    config_free(&c);
}

static void set_reaches_members_elements_and_new_sections(void **state)
{
    (void)state;
    struct config *c = parse_small("reward.games.0.weight=3");
    assert_true(c->stages.items[2].reward.items[0].items[0].weight == 3);
    config_free(&c);
    c = parse_small("stages.grpo.name=short"); // text needs no quotes; a stage goes by its kind
    assert_string_equal(c->stages.items[2].name, "short");
    config_free(&c);
    c = parse_small("eval.k=[1, 2]");
    assert_int_equal(c->eval.k.count, 2);
    assert_int_equal(c->stages.items[0].eval.k.items[1], 2);
    config_free(&c);
    c = parse_small("run.seed=null");
    assert_int_equal(c->run.seed, 1);
    config_free(&c);
}

static void every_section_of_an_ordinary_config_is_taken(void **state)
{
    (void)state;
    static const char text[] =
        "{ \"model\": \"DIR\", \"tokenizer\": \"configs/data/quickstart.tokenizer.json\",\n"
        "  \"data\": {\"games\": {\"generate\": \"games\", \"numbers\": [3, 4], \"max\": 30,\n"
        "    \"target\": [10, 99], \"holdout\": 1000},\n"
        "    \"programs\": {\"generate\": \"programs\", \"depth\": 2, \"holdout\": 300},\n"
        "    \"games-real\": {\"file\": \"countdown.jsonl\", \"for\": \"eval\"}},\n"
        "  \"reward\": {\"games\": [{\"use\": \"steps\", \"weight\": 1},\n"
        "      {\"use\": \"prm\", \"per_step\": true, \"weight\": 0.5}],\n"
        "    \"programs\": [{\"use\": \"code\", \"weight\": 1}],\n"
        "    \"*\": [{\"use\": \"format\", \"weight\": 0.1}]},\n"
        "  \"rollout\": {\"num_prompts\": 64, \"num_generations\": 8, \"temperature\": 1.0,\n"
        "    \"top_p\": 1.0, \"max_completion_length\": 96},\n"
        "  \"optimizer\": {\"learning_rate\": 1e-4, \"warmup_steps\": 10, \"adam_beta1\": 0.9,\n"
        "    \"adam_beta2\": 0.95, \"weight_decay\": 0.0, \"max_grad_norm\": 1.0,\n"
        "    \"schedule\": \"constant\"},\n"
        "  \"eval\": {\"every\": 50, \"samples\": 4, \"k\": [1, 4]},\n"
        "  \"run\": {\"seed\": 1, \"threads\": 0, \"save_every\": 100},\n"
        "  \"stages\": [{\"kind\": \"sft\", \"steps\": 500, \"batch\": 256,\n"
        "      \"optimizer\": {\"learning_rate\": 2e-3, \"schedule\": \"cosine\"}},\n"
        "    {\"kind\": \"prm\", \"steps\": 100, \"samples_from\": \"policy\"},\n"
        "    {\"kind\": \"grpo\", \"steps\": 300, \"loss_type\": \"dapo\",\n"
        "      \"advantage\": {\"outcome\": 1.0, \"process\": 0.5}, \"beta\": 0.0,\n"
        "      \"epsilon\": 0.2, \"epsilon_high\": 0.28, \"scale_rewards\": \"group\"}] }";
    struct config *c = NULL;
    if (parse_text(&c, text, NULL, 0) != 0)
        fail_msg("%s", err_message());
    const struct config_stage *grpo = &c->stages.items[2];
    assert_int_equal(grpo->loss_type, GRPO_LOSS_DAPO);
    assert_true(grpo->epsilon_high == 0.28);
    assert_int_equal(config_reward_of(&grpo->reward, "games")->count, 3);
    assert_int_equal(c->stages.items[0].optimizer.schedule, SCHEDULE_COSINE);
    config_free(&c);
}

static void a_resolved_config_reads_back_the_same(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct config *c = NULL, *again = NULL;
        struct strbuf text = {0}, text_again = {0};
        if (i == 0)
            c = parse_small("stages.grpo.sources={\"games\": 1, \"rows\": 2}");
        else if (config_load(&c, QUICKSTART, NULL) != 0)
            fail_msg("%s", err_message());
        config_dump(&text, c);
        if (config_parse(&again, text.data, text.len, "again.json", NULL) != 0)
            fail_msg("%s", err_message());
        config_dump(&text_again, again);
        assert_string_equal(text.data, text_again.data);
        strbuf_free(&text);
        strbuf_free(&text_again);
        config_free(&c);
        config_free(&again);
    }
}

static void a_new_model_has_the_architecture_of_its_object(void **state)
{
    (void)state;
    struct config *c = NULL;
    const char *set = "model.init_seed=7";
    const struct option_list sets = {&set, 1};
    if (config_load(&c, QUICKSTART, &sets) != 0)
        fail_msg("%s", err_message());
    assert_null(c->model.dir);
    assert_int_equal(c->model.init_seed, 7);
    assert_int_equal(c->model.arch.kind, ARCH_DEEPSEEK_V3);
    assert_true(c->model.arch.E >= 8);
    config_free(&c);
}

// ---- files

struct folder {
    char path[64];
};

static void write_file(const struct folder *f, const char *name, const char *text)
{
    char *path = path_join(f->path, name);
    assert_int_equal(file_write_atomic(path, text, strlen(text)), 0);
    free(path);
}

static int load_file(struct config **out, const struct folder *f, const char *name)
{
    char *path = path_join(f->path, name);
    const int rc = config_parse(out, NULL, 0, path, NULL);
    free(path);
    return rc;
}

static int make_folder(void **state)
{
    struct folder *f = calloc(1, sizeof *f);
    strcpy(f->path, "/tmp/gradus-test-XXXXXX");
    *state = f;
    return mkdtemp(f->path) ? 0 : -1;
}

static int remove_folder(void **state)
{
    struct folder *f = *state;
    const int rc = dir_remove_all(f->path);
    free(f);
    return rc;
}

static void a_file_amends_its_base_member_by_member(void **state)
{
    const struct folder *f = *state;
    write_file(f, "base.json", small);
    write_file(f, "amend.json",
               "{\"base\": \"base.json\", \"rollout\": {\"top_p\": 0.7},\n"
               " \"data\": {\"rows\": null}, \"run\": {\"seed\": 9}}");
    struct config *c = NULL;
    if (load_file(&c, f, "amend.json") != 0)
        fail_msg("%s", err_message());
    assert_true(c->rollout.top_p == 0.7);
    assert_int_equal(c->rollout.num_prompts, 4);
    assert_int_equal(c->run.seed, 9);
    assert_int_equal(c->data.count, 2);
    assert_null(config_source_of(c, "rows"));
    config_free(&c);
}

static void a_fault_names_the_file_and_line_where_it_was_written(void **state)
{
    const struct folder *f = *state;
    write_file(f, "base.json", "{\n\"rollout\": {\n\"top_p\": 3}}");
    write_file(f, "amend.json", "{\"base\": \"base.json\",\n \"run\": {\"seed\": -1}}");
    struct config *c = NULL;
    assert_int_equal(load_file(&c, f, "amend.json"), ERR_CONFIG);
    assert_says("base.json:3: rollout.top_p is 3, expected a number in [1e-06, 1]");
    assert_says("amend.json:2: run.seed is -1");
}

static void bases_that_amend_each_other_are_refused(void **state)
{
    const struct folder *f = *state;
    write_file(f, "a.json", "{\"base\": \"b.json\"}");
    write_file(f, "b.json", "{\"base\": \"a.json\"}");
    struct config *c = NULL;
    assert_int_equal(load_file(&c, f, "a.json"), ERR_CONFIG);
    assert_says("amend each other");
    write_file(f, "a.json", "{\"base\": \"none.json\"}");
    assert_int_equal(load_file(&c, f, "a.json"), ERR_CONFIG);
    assert_says("none.json");
}

static void a_path_is_looked_for_beside_the_config_and_above(void **state)
{
    const struct folder *f = *state;
    char *deep = path_join(f->path, "one/two");
    assert_int_equal(dir_make_all(deep), 0);
    free(deep);
    write_file(f, "tok.json", "{}");
    write_file(f, "one/two/here.json", "{}");
    write_file(f, "one/two/c.json", "{\"tokenizer\": \"tok.json\", \"model\": \"nowhere/model\"}");
    write_file(f, "one/two/d.json", "{\"tokenizer\": \"here.json\"}");
    struct config *c = NULL;
    char expected[128];
    assert_int_equal(load_file(&c, f, "one/two/c.json"), 0);
    snprintf(expected, sizeof expected, "%s/tok.json", f->path);
    assert_string_equal(c->tokenizer, expected);
    assert_string_equal(c->model.dir, "nowhere/model");
    config_free(&c);
    assert_int_equal(load_file(&c, f, "one/two/d.json"), 0);
    snprintf(expected, sizeof expected, "%s/one/two/here.json", f->path);
    assert_string_equal(c->tokenizer, expected);
    config_free(&c);
}

static void a_missing_or_broken_file_is_refused(void **state)
{
    const struct folder *f = *state;
    struct config *c = NULL;
    assert_int_equal(load_file(&c, f, "absent.json"), ERR_CONFIG);
    assert_says("absent.json");
    write_file(f, "c.json", "{\n\"run\": {\n}");
    assert_int_equal(load_file(&c, f, "c.json"), ERR_CONFIG);
    assert_says("c.json:");
    write_file(f, "c.json", "{\"run\": {\"seed\": 1, \"seed\": 2}}");
    assert_int_equal(load_file(&c, f, "c.json"), ERR_CONFIG);
    assert_says("seed");
    write_file(f, "c.json", "{\"tokenizer\": \"\xff\"}");
    assert_int_equal(load_file(&c, f, "c.json"), ERR_CONFIG);
    assert_says("UTF-8");
    write_file(f, "c.json", "");
    assert_int_equal(load_file(&c, f, "c.json"), ERR_CONFIG);
    write_file(f, "c.json", "[1]");
    assert_int_equal(load_file(&c, f, "c.json"), ERR_CONFIG);
    assert_says("expected an object");
}

static void a_run_needs_a_model_and_stages(void **state)
{
    const struct folder *f = *state;
    struct config *c = NULL;
    char *path = path_join(f->path, "c.json");
    write_file(f, "c.json", "{}");
    assert_int_equal(config_load(&c, path, NULL), ERR_CONFIG);
    assert_says("c.json: a run needs \"model\"");
    write_file(f, "c.json", "{\"model\": \"m\", \"stages\": []}");
    assert_int_equal(config_load(&c, path, NULL), ERR_CONFIG);
    assert_says("c.json: a run needs \"stages\"");
    assert_null(c);
    free(path);
}

static void marks_and_line_ends_of_other_systems_are_accepted(void **state)
{
    (void)state;
    struct config *c = NULL;
    assert_int_equal(
        parse_text(&c, "\xef\xbb\xbf{ // a comment\r\n\t\"run\": {\"seed\": 4}\r\n}", NULL, 0), 0);
    assert_int_equal(c->run.seed, 4);
    config_free(&c);
}

// ---- faults

static void all_faults_are_reported_in_one_message(void **state)
{
    (void)state;
    assert_refused(
        "{\n"
        "\"rollout\": {\"num_promts\": 3, \"temperature\": \"1\"},\n"
        "\"modle\": 1,\n"
        "\"stages\": [{\"kind\": \"grpoo\"}, {\"steps\": 3}, {\"kind\": \"sft\", \"beta\": 1}]\n"
        "}",
        "small.json:2: unknown key \"num_promts\" in \"rollout\"; did you mean "
        "\"num_prompts\"?");
    assert_says("small.json:2: rollout.temperature is \"1\", expected a number in [0.01, 100]");
    assert_says("small.json:3: unknown key \"modle\" in the config; did you mean \"model\"?");
    assert_says(
        "small.json:4: stages[0].kind is \"grpoo\", expected one of \"sft\" \"prm\" \"grpo\" "
        "\"eval\"; did you mean \"grpo\"?");
    assert_says("small.json:4: stages[1] has no \"kind\"");
    assert_says("stages[2].beta is for kind \"grpo\" only; this one is \"sft\"");
    // A section's faults are not told again for every stage that inherits it.
    const char *first = strstr(err_message(), "num_promts");
    assert_null(strstr(first + 1, "num_promts"));
}

static void contradictions_are_refused(void **state)
{
    (void)state;
    assert_set_refused("rollout.num_generations=1", "a group of one has no advantage");
    assert_set_refused("stages.grpo.advantage={\"outcome\": 0}", "both advantages have weight 0");
    assert_set_refused("eval.k=[1, 9]", "eval.k holds 9");
    assert_set_refused("stages.sft.name=grpo", "two stages are called \"grpo\"");
    assert_set_refused("stages.sft.steps=0", "either \"steps\" or \"epochs\"");
    assert_set_refused("stages.sft.epochs=1", "either \"steps\" or \"epochs\"");
    assert_set_refused("stages.grpo.batch=25", "more than the 24 samples");
    assert_set_refused("data.games.file=x", "either \"generate\" or \"file\"");
    assert_set_refused("data.games.target=[5]", "lowest and highest");
}

static void sources_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    assert_set_refused("stages.grpo.sources.real=1", "which is for evaluation");
    assert_set_refused("stages.grpo.sources.gamess=1", "did you mean \"games\"?");
    assert_set_refused("stages.prm.sources.rows=1", "whose reward has no \"steps\"");
    assert_set_refused("eval.sources=[\"reall\"]", "did you mean \"real\"?");
    assert_set_refused("data.games={\"generate\": \"games\", \"for\": \"eval\"}",
                       "\"holdout\" is 0");
}

static void rewards_that_cannot_be_are_refused(void **state)
{
    (void)state;
    assert_set_refused("reward.games.0.use=answer", "cannot be per_step");
    assert_set_refused("reward.rows=[{\"use\": \"format\", \"pattern\": \"x\"}]",
                       "needs a \"pattern\" when its kind is pattern, and only then");
    assert_set_refused("reward.rows=[{\"use\": \"format\", \"kind\": \"pattern\"}]",
                       "needs a \"pattern\"");
    assert_set_refused("reward.games.0.fraction=true", "for use \"code\" only");
    assert_set_refused(
        "stages=[{\"kind\": \"grpo\", \"steps\": 1, \"advantage\": {\"process\": 1}, "
        "\"reward\": {\"games\": [{\"use\": \"steps\"}]}}]",
        "advantage.process needs a reward with \"per_step\"");
    assert_set_refused("stages=[{\"kind\": \"grpo\", \"steps\": 1, \"reward\": "
                       "{\"games\": [{\"use\": \"prm\"}]}}]",
                       "no prm stage comes before");
}

static void a_set_that_leads_nowhere_is_refused(void **state)
{
    (void)state;
    assert_set_refused("rollout.top_p", "expected path.to.key=VALUE");
    assert_set_refused("=1", "expected path.to.key=VALUE");
    assert_set_refused("rollout.top_q=1", "--set rollout.top_q=1: unknown key \"top_q\"");
    assert_set_refused("stages.eval.steps=1", "no element \"eval\"");
    assert_set_refused("model.x.y=1", "what stands before \"x\" is a string");
}

static void a_slip_in_a_models_key_is_refused(void **state)
{
    (void)state;
    struct config *c = NULL;
    const char *set = "model.hidden_siz=3";
    const struct option_list sets = {&set, 1};
    assert_int_equal(config_load(&c, QUICKSTART, &sets), ERR_CONFIG);
    assert_says("did you mean \"hidden_size\"?");
    set = "model.num_experts_per_tok=99";
    assert_int_equal(config_load(&c, QUICKSTART, &sets), ERR_CONFIG);
    assert_says("num_experts_per_tok");
    set = "model.num_hidden_layers=null";
    assert_int_equal(config_load(&c, QUICKSTART, &sets), ERR_CONFIG);
    assert_says("num_hidden_layers");
}

// ---- every row of the table

// Sets `section.key` of a config that has nothing else; returns what config_parse does.
static int parse_number(const char *section, const char *key, double value)
{
    char text[256];
    snprintf(text, sizeof text, "{\"%s\": {\"%s\": %.17g}}", section, key, value);
    struct config *c = NULL;
    const int rc = parse_text(&c, text, NULL, 0);
    config_free(&c);
    return rc;
}

static void every_number_keeps_its_range(void **state)
{
    (void)state;
    static const char *const sections[] = {"rollout", "optimizer", "run"};
    const struct config_table *root = config_table_root();
    int checked = 0;
    for (int s = 0; s < 3; s++) {
        const struct config_table *table = config_table_find(root, sections[s])->type->table;
        for (int i = 0; i < table->num_keys; i++) {
            const struct config_key *k = &table->keys[i];
            if (k->type->kind != CONFIG_INT && k->type->kind != CONFIG_INT64 &&
                k->type->kind != CONFIG_REAL)
                continue;
            assert_int_equal(parse_number(sections[s], k->name, k->lo), 0);
            assert_int_equal(parse_number(sections[s], k->name, k->hi), 0);
            assert_int_equal(parse_number(sections[s], k->name, k->lo - 1), ERR_CONFIG);
            assert_says(k->name);
            assert_int_equal(parse_number(sections[s], k->name, k->hi * 1.5 + 2), ERR_CONFIG);
            assert_says(k->name);
            checked++;
        }
    }
    assert_true(checked > 15);
}

// Visits the keys of all objects, with the path that a person would type.
static void visit(const struct config_table *table, const char *prefix, int depth,
                  void (*fn)(const char *path, const struct config_key *k))
{
    for (int i = 0; i < table->num_keys; i++) {
        const struct config_key *k = &table->keys[i];
        char path[256];
        snprintf(path, sizeof path, "%s%.*s", prefix, config_key_len(k), k->name);
        fn(path, k);
        const struct config_type *type = k->type;
        while (type->kind == CONFIG_LIST || type->kind == CONFIG_MAP)
            type = type->item;
        if (type->kind != CONFIG_OBJECT || depth > 3)
            continue;
        strncat(path, ".", sizeof path - strlen(path) - 1);
        visit(type->table, path, depth + 1, fn);
    }
}

static void explain(const char *path, const struct config_key *k)
{
    struct strbuf text = {0};
    if (config_explain(&text, path) != 0)
        fail_msg("%s", err_message());
    assert_non_null(strstr(text.data, k->help));
    strbuf_free(&text);
}

static void every_key_is_explained(void **state)
{
    (void)state;
    visit(config_table_root(), "", 0, explain);
    struct strbuf text = {0};
    assert_int_equal(config_explain(&text, "stages[2].optimizer.learning_rate"), 0);
    assert_int_equal(config_explain(&text, "data.games.max"), 0);
    assert_int_equal(config_explain(&text, "rollout.no"), ERR_CONFIG);
    assert_int_equal(config_explain(&text, ""), ERR_CONFIG);
    strbuf_free(&text);
}

// Follows every "$ref" and counts objects that list their properties.
static void check_schema(const struct json *root, const struct json *v, int *objects)
{
    const char *ref = json_string(json_get(v, "$ref"));
    if (ref) {
        assert_memory_equal(ref, "#/$defs/", 8);
        assert_non_null(json_get(json_get(root, "$defs"), ref + 8));
    }
    *objects += json_get(v, "properties") != NULL;
    for (const struct json *c = json_first(v); c; c = json_next(c))
        check_schema(root, c, objects);
}

static void the_schema_is_json_whose_references_lead_somewhere(void **state)
{
    (void)state;
    struct strbuf text = {0};
    struct json_doc *doc = NULL;
    config_schema(&text);
    assert_int_equal(json_parse(&doc, text.data, text.len, 0, "schema", 1, ERR_CHECK), 0);
    int objects = 0;
    check_schema(json_root(doc), json_root(doc), &objects);
    assert_int_equal(objects, 9); // the config, its 5 kinds of section, sources, components, stages
    json_free(&doc);
    strbuf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_config_holds_the_defaults_of_the_table),
        cmocka_unit_test(a_stage_inherits_the_sections_that_it_does_not_override),
        cmocka_unit_test(what_follows_from_other_keys_is_derived),
        cmocka_unit_test(components_of_the_star_are_added_to_every_source),
        cmocka_unit_test(shares_of_sources_are_brought_to_a_sum_of_one),
        cmocka_unit_test(set_reaches_members_elements_and_new_sections),
        cmocka_unit_test(every_section_of_an_ordinary_config_is_taken),
        cmocka_unit_test(a_resolved_config_reads_back_the_same),
        cmocka_unit_test(a_new_model_has_the_architecture_of_its_object),
        cmocka_unit_test_setup_teardown(a_file_amends_its_base_member_by_member, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(a_fault_names_the_file_and_line_where_it_was_written,
                                        make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(bases_that_amend_each_other_are_refused, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(a_path_is_looked_for_beside_the_config_and_above,
                                        make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_missing_or_broken_file_is_refused, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(a_run_needs_a_model_and_stages, make_folder, remove_folder),
        cmocka_unit_test(marks_and_line_ends_of_other_systems_are_accepted),
        cmocka_unit_test(all_faults_are_reported_in_one_message),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(sources_that_do_not_fit_are_refused),
        cmocka_unit_test(rewards_that_cannot_be_are_refused),
        cmocka_unit_test(a_set_that_leads_nowhere_is_refused),
        cmocka_unit_test(a_slip_in_a_models_key_is_refused),
        cmocka_unit_test(every_number_keeps_its_range),
        cmocka_unit_test(every_key_is_explained),
        cmocka_unit_test(the_schema_is_json_whose_references_lead_somewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
