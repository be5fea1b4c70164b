// SPDX-License-Identifier: Apache-2.0
// gradus bench sandbox: programs judged a second, beside the rate at which this machine forks bare
// processes of the same size.
#ifndef RL_BENCH_SANDBOX_H
#define RL_BENCH_SANDBOX_H

#include <stdbool.h>

// only: a part of the names of the cases to be measured; NULL: all.
// slots 0: as many as this process may use CPUs; measured with one slot and with that many. Errors:
// ERR_CONFIG, ERR_ENV.
int bench_sandbox(int slots, const char *only, bool json);

#endif
