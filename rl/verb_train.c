// SPDX-License-Identifier: Apache-2.0
// `gradus train`: loads the config, chooses the run directory, and runs it.
#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "rl/train.h"
#include "rl/verb.h"

#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// runs/NAME, NAME being the config's file name; runs/NAME-2 and so on where that is taken. With
// resume: the last one that is.
static char *default_run(const char *config, bool resume)
{
    char *copy = mem_strdup(config);
    char *name = basename(copy);
    char *dot = strrchr(name, '.');
    if (dot != NULL && dot != name)
        *dot = '\0';
    char *found = NULL;
    for (int i = 1;; i++) {
        struct strbuf path = {0};
        strbuf_printf(&path, "runs/%s", name);
        if (i > 1)
            strbuf_printf(&path, "-%d", i);
        const bool taken = dir_exists(path.data);
        if (taken || !resume || found == NULL) {
            free(found);
            found = strbuf_take(&path);
        }
        strbuf_free(&path);
        if (!taken)
            break;
    }
    free(copy);
    return found;
}

static void print_stage(const struct config_stage *s)
{
    printf("  stage %s (%s): ", s->name, config_stage_kind_name(s->kind));
    if (s->kind == STAGE_EVAL) {
        printf("held-out items, %d samples each\n", s->eval.samples);
        return;
    }
    if (s->steps > 0)
        printf("%d steps", s->steps);
    else
        printf("%g epochs", s->epochs);
    const bool generates =
        s->kind == STAGE_GRPO || (s->kind == STAGE_PRM && s->samples_from == SAMPLES_FROM_POLICY);
    if (generates)
        printf(" of %d prompts x %d samples, at most %d tokens each", s->rollout.num_prompts,
               s->rollout.num_generations, s->rollout.max_completion_length);
    printf(generates ? ", updates of %d\n" : " of %d sequences\n", s->batch);
}

// What a run would do, from its config alone.
static void print_plan(const struct config *c)
{
    printf("plan:\n");
    if (c->model.dir != NULL)
        printf("  model: %s\n", c->model.dir);
    else
        printf("  model: new, %.2f M parameters, %.2f M active per token\n",
               (double)arch_num_parameters(&c->model.arch, false) / 1e6,
               (double)arch_num_parameters(&c->model.arch, true) / 1e6);
    for (int i = 0; i < c->stages.count; i++)
        print_stage(&c->stages.items[i]);
}

static int dry_run(const struct config *c)
{
    struct strbuf text = {0};
    config_dump(&text, c);
    printf("%s\n", text.data);
    strbuf_free(&text);
    print_plan(c);
    return 0;
}

int verb_train(int argc, char **argv)
{
    const char *path = NULL, *run = NULL;
    bool resume = false, dry = false;
    struct option_list sets = {0};
    const struct option options[] = {
        {"CONFIG", NULL, OPTION_STRING, &path, 0, 0, true, "the run's config"},
        {"--run", "DIR", OPTION_STRING, &run, 0, 0, false,
         "run directory; default: runs/NAME, or runs/NAME-2 and so on where that is taken"},
        {"--resume", NULL, OPTION_FLAG, &resume, 0, 0, false,
         "go on from the newest whole checkpoint of the run"},
        {"--set", "KEY=VALUE", OPTION_LIST, &sets, 0, 0, false,
         "amends the config: path.to.key=VALUE; may be repeated"},
        {"--dry-run", NULL, OPTION_FLAG, &dry, 0, 0, false,
         "prints the resolved config and the plan, and runs nothing"},
        {0},
    };
    bool done = false;
    struct config *config = NULL;
    int rc = options_parse(options, argc, argv, "runs a config's stages", &done);
    if (rc == 0 && !done)
        rc = config_load(&config, path, &sets);
    free(sets.items);
    if (rc != 0 || done)
        return rc;
    if (dry) {
        rc = dry_run(config);
    } else {
        char *dir = run != NULL ? mem_strdup(run) : default_run(path, resume);
        rc = train_run(config, dir, resume);
        free(dir);
    }
    config_free(&config);
    return rc;
}
