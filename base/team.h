// SPDX-License-Identifier: Apache-2.0
// A persistent team of threads. team_run calls fn once on each of the team's ranks, the caller
// being rank 0, and returns when all have finished. Waiting spins briefly, then sleeps. A team is
// used by one thread at a time; fn may not call team_run on it.
#ifndef BASE_TEAM_H
#define BASE_TEAM_H

#ifdef __cplusplus
extern "C" {
#endif

struct team;

// threads >= 1, or 0 for the number of CPUs this process may use.
int team_open(struct team **out, int threads);
void team_close(struct team **team);    // NULL and *team == NULL are fine
int team_size(const struct team *team); // NULL: 1

typedef void team_fn(void *arg, int rank, int size);
void team_run(struct team *team, team_fn *fn, void *arg); // team NULL: fn(arg, 0, 1)

// The share [*begin, *end) of n items that rank takes: contiguous, sizes differing by at most
// `grain`.
void team_share(int n, int grain, int rank, int size, int *begin, int *end);

#ifdef __cplusplus
}
#endif

#endif
