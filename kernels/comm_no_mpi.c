// SPDX-License-Identifier: Apache-2.0
// For builds without MPI.
#include "kernels/comm_transport.h"

#include "base/error.h"

int comm_open_mpi(struct comm *out)
{
    (void)out;
    return err_set(ERR_ENV,
                   "MPI started this process, but this build has no MPI: install Open MPI "
                   "and build anew, or give RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT");
}

bool comm_have_mpi(void) { return false; }
