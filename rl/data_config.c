// SPDX-License-Identifier: Apache-2.0
#include "rl/data_config.h"

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "rl/rows.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

// The scorer that the first row asks for.
static int default_scorer(const char **out, const char *data_file)
{
    struct rows *rows = NULL;
    struct arena arena = {0};
    struct problem p = {0};
    int rc = rows_open(&rows, data_file, 1, INT_MAX, data_file);
    if (rc == 0)
        rc = rows_problem(&p, &arena, rows, 0);
    if (rc == 0 && p.puzzle != NULL)
        *out = "steps";
    else if (rc == 0 && p.tests != NULL)
        *out = "code";
    else if (rc == 0 && p.answer != NULL)
        *out = "answer";
    else if (rc == 0)
        rc = err_set(ERR_DATA,
                     "'%s': its first row has no answer, tests or puzzle to be judged by; "
                     "name a reward (--reward FILE)",
                     data_file);
    arena_free(&arena);
    rows_close(&rows);
    return rc;
}

static int put_reward(struct json_writer *w, const char *data_file, const char *reward_file)
{
    if (reward_file == NULL) {
        const char *use = NULL;
        const int rc = default_scorer(&use, data_file);
        if (rc != 0)
            return rc;
        json_begin_array(w);
        json_begin_object(w);
        json_put_key(w, "use");
        json_put_string(w, use);
        json_end_object(w);
        json_end_array(w);
        return 0;
    }
    struct json_doc *doc = NULL;
    int rc = json_parse_file(&doc, reward_file, JSON_COMMENTS, ERR_CONFIG);
    if (rc == 0 && json_type(json_root(doc)) != JSON_ARRAY)
        rc = err_set(ERR_CONFIG, "%s: an array of components was expected, not %s", reward_file,
                     json_type_name(json_type(json_root(doc))));
    if (rc == 0)
        json_put_value(w, doc, json_root(doc));
    json_free(&doc);
    return rc;
}

int data_config_open(struct config **out, const char *data_file, const char *reward_file,
                     const char *model_dir)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_begin_object(&w);
    json_put_key(&w, "model");
    json_put_string(&w, model_dir != NULL ? model_dir : "");
    json_put_key(&w, "data");
    json_begin_object(&w);
    json_put_key(&w, "data");
    json_begin_object(&w);
    json_put_key(&w, "file");
    json_put_string(&w, data_file);
    json_put_key(&w, "for");
    json_put_string(&w, "eval");
    json_end_object(&w);
    json_end_object(&w);
    json_put_key(&w, "reward");
    json_begin_object(&w);
    json_put_key(&w, "data");
    int rc = put_reward(&w, data_file, reward_file);
    if (rc == 0) {
        json_end_object(&w);
        json_put_key(&w, "stages");
        json_begin_array(&w);
        json_begin_object(&w);
        json_put_key(&w, "kind");
        json_put_string(&w, "eval");
        json_end_object(&w);
        json_end_array(&w);
        json_end_object(&w);
        rc = config_parse(out, text.data, text.len, reward_file != NULL ? reward_file : "reward",
                          NULL);
    }
    strbuf_free(&text);
    return rc;
}
