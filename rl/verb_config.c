// SPDX-License-Identifier: Apache-2.0
// gradus config: the keys of a config as a person, an editor or a script reads them.
#include "base/error.h"
#include "base/str.h"
#include "rl/config.h"
#include "rl/verb.h"
#include <stdio.h>
#include <stdlib.h>

int verb_config(int argc, char **argv)
{
    const char *path = NULL, *key = NULL;
    bool schema = false, done = false;
    struct option_list sets = {0};
    const struct option options[] = {
        {"CONFIG", NULL, OPTION_STRING, &path, 0, 0, false, "a config to check and print resolved"},
        {"--schema", NULL, OPTION_FLAG, &schema, 0, 0, false, "print the JSON Schema of configs"},
        {"--explain", "KEY", OPTION_STRING, &key, 0, 0, false,
         "print one key or section, such as rollout.top_p"},
        {"--set", "KEY=VALUE", OPTION_LIST, &sets, 0, 0, false, "override a key of CONFIG"},
        {0}};
    struct strbuf text = {0};
    int rc = options_parse(options, argc, argv,
                           "Prints every key of a config with its type, default, range and "
                           "meaning; or checks a config.",
                           &done);
    if (rc != 0 || done)
        goto out;
    if ((path != NULL) + (key != NULL) + schema > 1)
        rc = err_set(ERR_CONFIG, "config: CONFIG, --schema and --explain exclude each other");
    else if (path) {
        struct config *config = NULL;
        rc = config_load(&config, path, &sets);
        if (rc == 0)
            config_dump(&text, config);
        config_free(&config);
    } else if (schema) {
        config_schema(&text);
    } else {
        rc = config_explain(&text, key);
    }
    if (rc == 0)
        fwrite(text.data, 1, text.len, stdout);
out:
    strbuf_free(&text);
    free(sets.items);
    return rc;
}
