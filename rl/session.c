// SPDX-License-Identifier: Apache-2.0
#include "rl/session.h"

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "base/team.h"
#include "kernels/device_cuda.h"
#include "rl/config.h"

#include <stdlib.h>
#include <string.h>

static int open_tokenizer(struct session *s, const char *model_dir, bool needed)
{
    char *path = path_join(model_dir, "tokenizer.json");
    const bool there = file_exists(path);
    free(path);
    if (!there && !needed)
        return 0;
    const int rc = tokenizer_open(&s->tokenizer, model_dir);
    if (rc != 0)
        return rc;
    const int tokens = tokenizer_vocab_size(s->tokenizer);
    if (tokens > s->policy->arch.V)
        return err_set(ERR_MODEL, "'%s': the tokenizer has %d tokens, the model's vocabulary %d",
                       model_dir, tokens, s->policy->arch.V);
    return 0;
}

int session_open_device(struct device **out, const char *name, struct team *team)
{
    long long index = 0;
    if (name == NULL || strcmp(name, "cpu") == 0)
        return device_open(out, team, DEVICE_BEST);
    if (strcmp(name, "cuda") == 0 ||
        (strncmp(name, "cuda:", 5) == 0 && str_to_int(name + 5, 0, 1023, &index)))
        return device_open_cuda(out, team, (int)index);
    return err_set(ERR_CONFIG, "unknown device \"%s\"; there are cpu, cuda and cuda:N", name);
}

#define NAME_AT(constant, word) [constant] = word,
static const char *const dtype_names[] = {CONFIG_DTYPE(NAME_AT)};

const char *session_dtype_name(enum dtype type) { return dtype_names[type]; }

int session_dtype(enum dtype *out, const char *name)
{
    for (int i = DTYPE_F32; i <= DTYPE_BF16; i++)
        if (strcmp(name, dtype_names[i]) == 0) {
            *out = (enum dtype)i;
            return 0;
        }
    return err_set(ERR_CONFIG, "unknown dtype \"%s\"; there are float32 and bfloat16", name);
}

void session_tell_model(const struct policy *p, const char *model_dir)
{
    const struct arch *a = &p->arch;
    if (a->num_mtp_layers > 0)
        log_line(LOG_INFO, "%s: %d layer%s for multi-token prediction %s passed over", model_dir,
                 a->num_mtp_layers, a->num_mtp_layers > 1 ? "s" : "",
                 a->num_mtp_layers > 1 ? "are" : "is");
    if (a->fp8_rows > 0)
        log_line(LOG_INFO, "%s: weights in float8 with a scale a block of %d x %d, dequantised",
                 model_dir, a->fp8_rows, a->fp8_columns);
    if (p->adapted > 0)
        log_line(LOG_INFO, "%s: an adapter is merged into %d of its matrices", model_dir,
                 p->adapted);
    if (p->nonfinite > 0)
        log_line(LOG_WARN, "%s: %lld of its weights are NaN or Inf, which was allowed", model_dir,
                 (long long)p->nonfinite);
}

int session_open(struct session *out, const struct session_options *o)
{
    struct session s = {0};
    enum dtype type = DTYPE_F32;
    const struct policy_source source = {
        .dir = o->model,
        .adapter = o->adapter,
        .allow_nonfinite = o->allow_nonfinite,
        .read_only = true,
    };
    int rc = o->dtype != NULL ? session_dtype(&type, o->dtype) : 0;
    if (rc == 0)
        rc = team_open(&s.team, o->threads);
    if (rc == 0)
        rc = session_open_device(&s.dev, o->device, s.team);
    if (rc == 0)
        rc = policy_open_source(&s.policy, s.dev, &source, type);
    if (rc == 0)
        session_tell_model(s.policy, o->model);
    if (rc == 0)
        rc = open_tokenizer(&s, o->model, o->need_tokenizer);
    if (rc != 0) {
        session_close(&s);
        return rc;
    }
    *out = s;
    return 0;
}

void session_close(struct session *s)
{
    policy_free(&s->policy);
    tokenizer_free(&s->tokenizer);
    device_free(&s->dev);
    team_close(&s->team);
}
