// SPDX-License-Identifier: Apache-2.0
// `gradus plan`: what a run's stages do and what memory they take, before it is run.
#include "rl/launch.h"
#include "rl/train.h"
#include "rl/verb.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int print_plan(const char *path, const struct option_list *sets, struct comm *comm,
                      bool json)
{
    struct config *config = NULL;
    struct strbuf text = {0};
    int rc = config_load(&config, path, sets);
    if (rc == 0)
        rc = train_plan(&text, config, comm, json);
    if (comm->rank == 0 && text.len > 0)
        printf("%s", text.data);
    strbuf_free(&text);
    config_free(&config);
    return rc;
}

int verb_plan(int argc, char **argv)
{
    const char *path = NULL;
    bool json = false, done = false;
    struct option_list sets = {0};
    struct comm comm = {0};
    const struct option options[] = {
        {"CONFIG", NULL, OPTION_STRING, &path, 0, 0, true, "the run's config"},
        {"--set", "KEY=VALUE", OPTION_LIST, &sets, 0, 0, false,
         "amends the config: path.to.key=VALUE; may be repeated"},
        {"--json", NULL, OPTION_FLAG, &json, 0, 0, false, "one JSON object"},
        {0},
    };
    int rc = options_parse(options, argc, argv,
                           "Says what a run's stages do and what memory they take; ends with exit "
                           "code 5 when there is not so much.",
                           &done);
    if (rc == 0 && !done)
        rc = launch_open(&comm, environ);
    if (rc == 0 && !done) {
        rc = print_plan(path, &sets, &comm, json);
        rc = comm_close(&comm, rc);
    }
    free(sets.items);
    return rc;
}
