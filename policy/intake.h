// SPDX-License-Identifier: Apache-2.0
// Weights on their way into a policy: tensors come one after the other, in the order of
// params.tensors, as floats in host memory. Each goes to its place in the block where it has one,
// and a matrix is packed as soon as all of it is there: what is only packed takes the memory of one
// matrix in float32 on the way. Internal to policy/.
#ifndef POLICY_INTAKE_H
#define POLICY_INTAKE_H

#include "policy/policy.h"

struct intake {
    struct policy *p; // borrowed
    float *staged; // in the memory of p->dev: a matrix that has no place in the block; NULL: none
    float *host;   // a tensor; NULL where p->dev's memory is the host's and is written itself
};

// Makes the block and the packed forms of p, whose layout is filled, all zero. What it opened in
// part is left to intake_close.
int intake_open(struct intake *out, struct policy *p);
// Where the values of the next tensor are to be put, [t->size]. A tensor that is passed over stays
// zero.
float *intake_room(const struct intake *in, const struct param_tensor *t);
int intake_take(const struct intake *in, const struct param_tensor *t); // they are there
void intake_close(struct intake *in);

#endif
