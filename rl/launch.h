// SPDX-License-Identifier: Apache-2.0
// Whether this process is one of several ranks, as the launcher's environment says.
#ifndef RL_LAUNCH_H
#define RL_LAUNCH_H

#include "kernels/comm.h"

struct launch {
    struct comm_launch comm;
    char host[256]; // that comm.address may point to
};

// environment: NAME=VALUE, NULL at the end. In this order: MPI's launcher (OMPI_COMM_WORLD_SIZE,
// PMI_SIZE, or PMIX_RANK within a step of SLURM); RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT
// with LOCAL_RANK and LOCAL_WORLD_SIZE, as torchrun sets them; a step of SLURM (srun) of several
// tasks. Otherwise, and for a run of one, size is 1. Rank 0 listens on the port after MASTER_PORT,
// which torchrun uses itself. ERR_CONFIG: variables that are missing or are not numbers.
int launch_read(struct launch *out, char *const *environment);

// Joins the ranks. Only rank 0 is to be heard from then on.
int launch_open(struct comm *out, char *const *environment);

// Collective. CPUs of this rank: those that it may use, divided among the ranks that may use the
// same ones (a launcher may have given each its own). 0 in a run of one process: all.
int launch_cpus(int *out, struct comm *c);

#endif
