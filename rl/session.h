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

struct session_options {
    const char *model, *adapter; // directories; adapter NULL: none
    const char *device, *dtype;  // as above; dtype NULL: "float32"
    int threads;                 // 0: as many as this process may use
    bool allow_nonfinite;        // policy_open_source
    bool need_tokenizer;         // false: a directory without tokenizer.json will do
};
// The rows of a verb's table that set them, but threads.
// clang-format off
#define SESSION_ROWS(o) \
    {"--model", "DIR", OPTION_STRING, &(o)->model, 0, 0, true, "a model directory"}, \
    {"--adapter", "DIR", OPTION_STRING, &(o)->adapter, 0, 0, false, \
     "a LoRA adapter in PEFT's files, merged into the weights"}, \
    {"--allow-nonfinite", NULL, OPTION_FLAG, &(o)->allow_nonfinite, 0, 0, false, \
     "weights that are NaN or Inf are counted, not refused"}, \
    {"--device", "NAME", OPTION_STRING, &(o)->device, 0, 0, false, \
     "cpu, cuda (the first GPU) or cuda:N (cpu)"}, \
    {"--dtype", "TYPE", OPTION_STRING, &(o)->dtype, 0, 0, false, \
     "what matrix products read: float32 or bfloat16 (float32)"}
// clang-format on

// Tells of the model. session_close takes a session that is zeroed or was opened in part.
int session_open(struct session *out, const struct session_options *o);
void session_close(struct session *s);

// Lines about what a model's files hold that is not used as it stands: layers for multi-token
// prediction, weights in float8, weights that are not finite; and an adapter that was merged in.
void session_tell_model(const struct policy *p, const char *model_dir);

#endif
