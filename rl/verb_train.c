// SPDX-License-Identifier: Apache-2.0
// `gradus train`: loads the config, chooses the run directory, and runs it.
#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "rl/launch.h"
#include "rl/train.h"
#include "rl/verb.h"
#include "rl/version.h"

#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

static int dry_run(const struct config *c, struct comm *comm)
{
    struct strbuf text = {0};
    config_dump(&text, c);
    printf("%s\n", text.data);
    strbuf_clear(&text);
    const int rc = train_plan(&text, c, comm, /* json= */ false);
    printf("%s", text.len > 0 ? text.data : "");
    strbuf_free(&text);
    return rc;
}

struct request {
    const char *config, *run; // run NULL: the default
    bool resume, dry;
    struct option_list sets;
};

// Rank 0 chooses the default run directory for all.
static int choose_run(char **out, const struct request *q, struct comm *comm)
{
    char name[4096] = "";
    char *path = q->run != NULL ? mem_strdup(q->run) : default_run(q->config, q->resume);
    int rc = 0;
    if (strlen(path) >= sizeof name)
        rc = err_set(ERR_CONFIG, "the run directory's path is too long");
    else
        memcpy(name, path, strlen(path) + 1);
    free(path);
    if (rc == 0)
        rc = comm_broadcast(comm, name, sizeof name, 0);
    if (rc == 0)
        *out = mem_strdup(name);
    return rc;
}

static int load_and_run(const struct request *q, struct comm *comm)
{
    struct config *config = NULL;
    char *dir = NULL;
    int rc = config_load(&config, q->config, &q->sets);
    if (rc == 0 && q->dry)
        rc = comm->rank == 0 ? dry_run(config, comm) : 0;
    else if (rc == 0)
        rc = choose_run(&dir, q, comm);
    if (rc == 0 && dir != NULL)
        rc = train_run(config, comm, GRADUS_VERSION " " GRADUS_COMMIT, dir, q->resume);
    free(dir);
    config_free(&config);
    return rc;
}

int verb_train(int argc, char **argv)
{
    struct request q = {0};
    const struct option options[] = {
        {"CONFIG", NULL, OPTION_STRING, &q.config, 0, 0, true, "the run's config"},
        {"--run", "DIR", OPTION_STRING, &q.run, 0, 0, false,
         "run directory; default: runs/NAME, or runs/NAME-2 and so on where that is taken"},
        {"--resume", NULL, OPTION_FLAG, &q.resume, 0, 0, false,
         "go on from the newest whole checkpoint of the run"},
        {"--set", "KEY=VALUE", OPTION_LIST, &q.sets, 0, 0, false,
         "amends the config: path.to.key=VALUE; may be repeated"},
        {"--dry-run", NULL, OPTION_FLAG, &q.dry, 0, 0, false,
         "prints the resolved config and the plan, and runs nothing"},
        {0},
    };
    bool done = false;
    struct comm comm = {0};
    int rc = options_parse(options, argc, argv, "runs a config's stages", &done);
    if (rc == 0 && !done)
        rc = launch_open(&comm, environ);
    if (rc == 0 && !done) {
        rc = load_and_run(&q, &comm);
        rc = comm_close(&comm, rc);
    }
    free(q.sets.items);
    return rc;
}
