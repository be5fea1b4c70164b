// SPDX-License-Identifier: Apache-2.0
// What a verb that works with one model has open: threads, device, tokenizer, weights.
#ifndef RL_SESSION_H
#define RL_SESSION_H

#include "policy/policy.h"
#include "policy/tokenizer.h"

struct session {
    struct team *team;
    struct device *dev;
    struct tokenizer *tokenizer; // NULL: the directory has none (only where that was allowed)
    struct policy *policy;
};

// The device of that name: "cpu", "cuda" (the first GPU) or "cuda:N"; NULL: "cpu". ERR_CONFIG for
// another name, ERR_ENV where there is no such device.
int session_open_device(struct device **out, const char *name, struct team *team);

// The name of a type, "float32" or "bfloat16", as configs have it; and the type of a name,
// ERR_CONFIG for another one.
const char *session_dtype_name(enum dtype type);
int session_dtype(enum dtype *out, const char *name);

// device, dtype: as above (dtype NULL: "float32"). threads 0: as many as this process may use.
// need_tokenizer false: a directory without tokenizer.json will do. Tells of the model.
// session_close takes a session that is zeroed or was opened in part.
int session_open(struct session *out, const char *model_dir, const char *device, const char *dtype,
                 int threads, bool need_tokenizer);
void session_close(struct session *s);

// Lines about what a model's files hold that is not used as it stands: layers for multi-token
// prediction, weights in float8.
void session_tell_model(const struct policy *p, const char *model_dir);

#endif
