// SPDX-License-Identifier: Apache-2.0
#include "policy/policy.h"

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "kernels/block.h"
#include "policy/activations.h"
#include "policy/adapter.h"
#include "policy/intake.h"
#include "policy/model_files.h"
#include "policy/parallel.h"
#include "policy/weights.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

// A policy without parameters.
static struct policy *policy_new(struct device *dev, const struct arch *arch, enum dtype dtype,
                                 bool read_only)
{
    struct policy *p = mem_alloc0(sizeof *p);
    p->arch = *arch;
    p->dtype = dtype;
    p->dev = dev;
    p->generation = generation_config_of(arch);
    p->expert_load = mem_array0((size_t)arch->L * arch->E, sizeof *p->expert_load);
    params_layout(&p->params, arch, read_only);
    return p;
}

// rc, which made p; on failure it is freed.
static int finish(struct policy **out, struct policy *p, int rc)
{
    if (rc) {
        policy_free(&p);
        return rc;
    }
    *out = p;
    return 0;
}

int policy_read_arch(struct arch *out, const char *dir)
{
    char *path = path_join(dir, "config.json");
    struct json_doc *doc = NULL;
    int rc = json_parse_file(&doc, path, 0, ERR_MODEL);
    rc = rc ? rc : arch_from_json(out, doc, json_root(doc), path, ERR_MODEL);
    json_free(&doc);
    free(path);
    return rc;
}

int policy_open(struct policy **out, struct device *dev, const char *dir, enum dtype dtype,
                bool value_head)
{
    return policy_open_source(out, dev,
                              &(struct policy_source){.dir = dir, .value_head = value_head}, dtype);
}

// Reads the weights of p from the files and the source's adapter.
static int load_weights(struct policy *p, const struct model_files *files,
                        const struct policy_source *source)
{
    struct adapter *adapter = NULL;
    int rc = 0;
    if (source->adapter) {
        rc = adapter_open(&adapter, source->adapter, &p->params, source->allow_nonfinite);
    }
    if (rc == 0) {
        struct model_load load = {.adapter = adapter, .allow_nonfinite = source->allow_nonfinite};
        rc = model_files_load(p, files, &load);
        p->nonfinite = load.nonfinite;
        p->adapted = adapter ? adapter_matrices(adapter) : 0;
    }
    adapter_free(&adapter);
    return rc;
}

int policy_open_source(struct policy **out, struct device *dev, const struct policy_source *source,
                       enum dtype dtype)
{
    struct arch arch;
    struct generation_config generation = {0};
    struct model_files *files = NULL;
    int rc = policy_read_arch(&arch, source->dir);
    rc = rc ? rc : generation_config_open(&generation, source->dir, &arch);
    rc = rc ? rc : model_files_open(&files, source->dir);
    if (rc) {
        generation_config_free(&generation);
        return rc;
    }
    arch.value_head = source->value_head || model_files_have(files, "score.weight") ||
                      model_files_have(files, "score.bias");
    const int mtp_layers = model_files_mtp_layers(files, &arch);
    struct policy *p = policy_new(dev, &arch, dtype, source->read_only);
    p->generation = generation;
    rc = load_weights(p, files, source);
    model_files_free(&files);
    p->arch.num_mtp_layers = mtp_layers;
    return finish(out, p, rc);
}

static int init_weights(struct policy *p, uint64_t seed)
{
    struct intake in;
    int rc = intake_open(&in, p);
    for (int i = 0; i < p->params.num_tensors && rc == 0; i++) {
        const struct param_tensor *t = &p->params.tensors[i];
        params_init(intake_room(&in, t), t, p->arch.init_range, seed, p->dev->team);
        rc = intake_take(&in, t);
    }
    intake_close(&in);
    return rc;
}

int policy_create(struct policy **out, struct device *dev, const struct arch *arch,
                  enum dtype dtype, uint64_t seed)
{
    struct policy *p = policy_new(dev, arch, dtype, /* read_only= */ false);
    return finish(out, p, init_weights(p, seed));
}

// Weights of q that p has as well; the others stay zero.
static int copy_weights(struct policy *q, const struct policy *p)
{
    int rc = params_alloc(&q->params, q->dev);
    rc = rc ? rc : weights_open(&q->packed, q);
    for (int i = 0; i < q->params.count && rc == 0; i++) {
        const struct param *to = &q->params.list[i];
        const struct param *of = params_find(&p->params, "%s", to->name);
        const float *from = of ? p->params.data + of->offset : NULL;
        if (of && params_hold(&q->params, to)) {
            rc = q->dev->memory->copy(q->dev, q->params.data + to->offset, from,
                                      to->size * sizeof *from);
        }
        if (of && rc == 0) {
            rc = weights_pack_param(q->packed, q, to, from, 0, params_parts(to));
        }
    }
    return rc;
}

int policy_clone(struct policy **out, const struct policy *p, bool value_head, bool read_only)
{
    assert(!p->params.read_only);
    struct arch arch = p->arch;
    arch.value_head = value_head;
    struct policy *q = policy_new(p->dev, &arch, p->dtype, read_only);
    q->generation = p->generation;
    q->generation.text = p->generation.text ? mem_strdup(p->generation.text) : NULL;
    return finish(out, q, copy_weights(q, p));
}

void policy_free(struct policy **p)
{
    if (p && *p) {
        generation_config_free(&(*p)->generation);
        params_free(&(*p)->params);
        activations_free(&(*p)->acts);
        parallel_free(&(*p)->ranks);
        weights_free(&(*p)->packed);
        device_release((*p)->dev, (*p)->grad);
        device_release((*p)->dev, (*p)->grad_squares);
        free((*p)->expert_load);
        free(*p);
        *p = NULL;
    }
}

static int write_text(const char *dir, const char *name, struct strbuf *text)
{
    char *path = path_join(dir, name);
    strbuf_putc(text, '\n');
    int rc = file_write_atomic(path, text->data, text->len);
    free(path);
    strbuf_free(text);
    return rc;
}

static int save_config(const struct arch *a, const char *dir)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    arch_to_json(&w, a);
    return write_text(dir, "config.json", &text);
}

static void put_id(struct json_writer *w, const char *key, int id)
{
    if (id >= 0) {
        json_put_key(w, key);
        json_put_int(w, id);
    }
}

static void put_stop_ids(struct json_writer *w, const struct generation_config *g)
{
    json_put_key(w, "eos_token_id");
    json_begin_array(w);
    for (int i = 0; i < g->num_stop_ids; i++) {
        json_put_int(w, g->stop_ids[i]);
    }
    json_end_array(w);
}

// The file as it was, or one that says the special tokens.
static int save_generation_config(const struct policy *p, const char *dir)
{
    const struct generation_config *g = &p->generation;
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    if (g->text) {
        char *path = path_join(dir, "generation_config.json");
        int rc = file_write_atomic(path, g->text, strlen(g->text));
        free(path);
        return rc;
    }
    json_begin_object(&w);
    json_put_key(&w, "_from_model_config");
    json_put_bool(&w, true);
    put_id(&w, "bos_token_id", p->arch.bos_id);
    if (g->num_stop_ids > 1) {
        put_stop_ids(&w, g);
    } else {
        put_id(&w, "eos_token_id", p->arch.eos_id);
    }
    put_id(&w, "pad_token_id", p->arch.pad_id);
    json_end_object(&w);
    return write_text(dir, "generation_config.json", &text);
}

int policy_save(const struct policy *p, const char *dir)
{
    int rc = save_config(&p->arch, dir);
    rc = rc ? rc : save_generation_config(p, dir);
    if (rc) {
        return rc;
    }
    struct tensor *tensors = mem_array0((size_t)p->params.num_tensors, sizeof *tensors);
    params_view(tensors, &p->params, p->params.data);
    const char *metadata[] = {"format", "pt"}; // what transformers asks for
    char *path = path_join(dir, "model.safetensors");
    rc = safetensors_write(path, p->dev, tensors, p->params.num_tensors, metadata, 1);
    free(path);
    free(tensors);
    return rc;
}

int policy_weights_changed(struct policy *p) { return weights_pack(p->packed, p); }

int policy_train_begin(struct policy *p)
{
    assert(!p->params.read_only);
    if (p->grad) {
        return 0;
    }
    int rc = 0;
    if (!p->grad_squares) {
        rc = p->dev->memory->alloc(p->dev, (void **)&p->grad_squares,
                                   PARALLEL_BLOCKS * sizeof *p->grad_squares);
    }
    rc = rc ? rc : device_alloc_floats(p->dev, &p->grad, p->params.size);
    p->grad_is_zero = rc == 0;
    return rc ? rc : weights_pack(p->packed, p);
}

int policy_train_end(struct policy *p)
{
    const bool trained = p->grad != NULL;
    activations_free(&p->acts);
    parallel_free(&p->ranks);
    device_release(p->dev, p->grad);
    device_release(p->dev, p->grad_squares);
    p->grad = NULL;
    p->grad_squares = NULL;
    return trained ? weights_pack(p->packed, p) : 0;
}

int policy_grad_zero(struct policy *p)
{
    const int rc = p->dev->memory->zero(p->dev, p->grad, p->params.size * sizeof *p->grad);
    p->grad_is_zero = rc == 0;
    return rc;
}
