// SPDX-License-Identifier: Apache-2.0
// The transports of kernels/comm.h. Each fills in the transport and its state; rank, size and the
// place among the ranks of the machine are the launch's, or MPI's own. Internal to the comm files.
#ifndef KERNELS_COMM_TRANSPORT_H
#define KERNELS_COMM_TRANSPORT_H

#include "kernels/comm.h"

// MPI, whose launcher started this process. ERR_ENV where this build has none.
int comm_open_mpi(struct comm *out);
// A connection between every two ranks. Rank 0 listens on launch->port.
int comm_open_tcp(struct comm *out, const struct comm_launch *launch);
// NCCL on the memory of a GPU, joined by way of c's transport. Not a failure where NCCL cannot be
// loaded: c->on_device stays NULL, and *how says why.
int comm_open_nccl(struct comm *c, struct device *dev, const char **how);

// What a transport calls while it waits: a turn of polling that lets others have the CPU, the
// longer it lasts the more. 0, or the error of a rank that failed.
int comm_wait_turn(const struct comm *c, int turn);

#endif
