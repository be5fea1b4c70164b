// SPDX-License-Identifier: Apache-2.0
#include "rl/agree.h"

#include "base/error.h"
#include "base/file.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define HASH_SIZE 33

// The hash of the hashes of all tensors; "none" of no policy.
static int hash_policy(char out[HASH_SIZE], const struct policy *p)
{
    memcpy(out, "none", sizeof "none");
    if (p == NULL)
        return 0;
    const struct params *list = &p->params;
    assert(!list->read_only);
    float *x = params_tensor_buffer(list);
    struct strbuf hashes = {0};
    int rc = 0;
    for (int i = 0; i < list->num_tensors && rc == 0; i++) {
        const struct param_tensor *t = &list->tensors[i];
        rc = p->dev->memory->download(p->dev, x, list->data + t->offset, t->size * sizeof *x);
        hash_hex(out, x, t->size * sizeof *x);
        strbuf_puts(&hashes, out);
    }
    hash_hex(out, hashes.data, hashes.len);
    strbuf_free(&hashes);
    free(x);
    return rc;
}

static int hash_file(char out[HASH_SIZE], const char *path, int code)
{
    struct file_map map;
    const int rc = file_map_open(&map, path, code);
    if (rc == 0) {
        hash_hex(out, map.data, map.size);
        file_map_close(&map);
    }
    return rc;
}

// The hash of the hashes of all data files.
static int hash_data(char out[HASH_SIZE], const struct config *c)
{
    struct strbuf hashes = {0};
    int rc = 0;
    for (int i = 0; i < c->data.count && rc == 0; i++) {
        if (c->data.items[i].file == NULL)
            continue;
        rc = hash_file(out, c->data.items[i].file, ERR_DATA);
        strbuf_puts(&hashes, out);
    }
    hash_hex(out, hashes.len > 0 ? hashes.data : "", hashes.len);
    strbuf_free(&hashes);
    return rc;
}

// The tokenizer's file, which stands in a model's directory where the config names none.
static int hash_tokenizer(char out[HASH_SIZE], const struct config *c)
{
    const char *path = c->tokenizer != NULL ? c->tokenizer : c->model.dir;
    char *file = dir_exists(path) ? path_join(path, "tokenizer.json") : mem_strdup(path);
    const int rc = hash_file(out, file, ERR_MODEL);
    free(file);
    return rc;
}

// What computes, without which of several it is: "cuda:1, NVIDIA H200".
static const char *kind_of_device(const struct device *dev)
{
    const char *comma = strstr(dev->name, ", ");
    return comma != NULL ? comma + 2 : dev->name;
}

int agree_start(struct trainer *t, const char *version, const char *config)
{
    char of_program[HASH_SIZE], of_config[HASH_SIZE], of_tokenizer[HASH_SIZE], of_data[HASH_SIZE],
        of_policy[HASH_SIZE], of_prm[HASH_SIZE];
    if (t->comm->size == 1)
        return 0;
    hash_hex(of_config, config, strlen(config));
    int rc = hash_file(of_program, "/proc/self/exe", ERR_ENV);
    if (rc == 0)
        rc = hash_tokenizer(of_tokenizer, t->config);
    if (rc == 0)
        rc = hash_data(of_data, t->config);
    if (rc == 0)
        rc = hash_policy(of_policy, t->policy);
    if (rc == 0)
        rc = hash_policy(of_prm, t->prm);
    if (rc != 0)
        return rc;
    const struct comm_claim claims[] = {
        {"program", version, ERR_ENV},
        {"build of the program", of_program, ERR_ENV},
        {"instruction set or GPU", kind_of_device(t->dev), ERR_ENV},
        {"config", of_config, ERR_CONFIG},
        {"tokenizer", of_tokenizer, ERR_MODEL},
        {"content of the data files", of_data, ERR_DATA},
        {"weights", of_policy, ERR_MODEL},
        {"weights of the process reward model", of_prm, ERR_MODEL},
    };
    return comm_agree(t->comm, claims, sizeof claims / sizeof claims[0]);
}

int agree_weights(struct trainer *t)
{
    char hash[HASH_SIZE];
    if (t->comm->size == 1)
        return 0;
    const int rc = hash_policy(hash, t->optimized);
    const struct comm_claim claim = {"weights after the same steps", hash, ERR_CHECK};
    return rc != 0 ? rc : comm_agree(t->comm, &claim, 1);
}
