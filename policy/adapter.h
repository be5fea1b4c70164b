// SPDX-License-Identifier: Apache-2.0
// A LoRA adapter (arXiv:2106.09685) in PEFT's files, adapter_config.json and
// adapter_model.safetensors: matrices W + s B A, A [r,in], B [out,r], s = lora_alpha / r or, with
// use_rslora, lora_alpha / sqrt(r) (arXiv:2312.03732). What else the files may ask for is refused
// rather than passed over. Internal to policy/.
#ifndef POLICY_ADAPTER_H
#define POLICY_ADAPTER_H

#include "policy/params.h"
#include "policy/tensor_report.h"

struct adapter_config {
    int r;
    double scale; // s
    char *base;   // base_model_name_or_path; NULL: not given
    char **targets;
    int num_targets; // names of modules, or the ends of them
};

// The object of an adapter_config.json; faults go to the report, one a key. out is to be freed in
// either case.
void adapter_config_read(struct adapter_config *out, const struct json_doc *doc,
                         struct tensor_report *faults);
void adapter_config_free(struct adapter_config *c);

struct adapter;

// Reads the directory's files and checks them against the matrices of p, whose layout is filled:
// everything that is wrong comes in one list, with both values. Values that are NaN or Inf are
// wrong unless allow_nonfinite.
int adapter_open(struct adapter **out, const char *dir, const struct params *p,
                 bool allow_nonfinite);
void adapter_free(struct adapter **a);
int adapter_matrices(const struct adapter *a); // that it changes

// w += s B A, w [out,in] being the tensor t of p, in float32; does nothing where the adapter has
// none for it. The bits do not depend on the team's threads.
void adapter_merge(const struct adapter *a, const struct param_tensor *t, float *w,
                   struct team *team);

#endif
