// SPDX-License-Identifier: Apache-2.0
// Running a parsed chat template. Internal to the chat template.
#ifndef POLICY_JINJA_RUN_H
#define POLICY_JINJA_RUN_H

#include "policy/jinja_parse.h"

// Appends to r->out what the statements print; r->scope holds the variables. Errors: jinja_fail and
// jinja_refuse.
int jinja_run_statements(struct jinja_run *r, const struct jinja_node *statements);

#endif
