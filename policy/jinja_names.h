// SPDX-License-Identifier: Apache-2.0
// The one place where Jinja's scopes are not what they look like. Internal to the chat template.
#ifndef POLICY_JINJA_NAMES_H
#define POLICY_JINJA_NAMES_H

#include "policy/jinja_parse.h"

// Refuses (ERR_MODEL, "NAME:LINE: what") a template that sets a variable, for the first time that
// its scope mentions it, after a loop of that scope has used the name: to Jinja the loop's name is
// then that variable, not yet set, even where a variable of that name was given to the template.
int jinja_check_names(const struct jinja_node *statements, struct arena *a, const char *name);

#endif
