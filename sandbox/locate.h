// SPDX-License-Identifier: Apache-2.0
// Where gradus-box is, and what to do when a box cannot be built.
#ifndef SANDBOX_LOCATE_H
#define SANDBOX_LOCATE_H

// The path of gradus-box, to be freed. given: the caller's choice, or NULL. ERR_ENV when there is
// none.
int locate_box(char **out, const char *given);

// ERR_ENV, with `reason` and what would allow it.
int locate_refuse(const char *reason);

#endif
