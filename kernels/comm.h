// SPDX-License-Identifier: Apache-2.0
// The ranks of a run: processes that train one model together, on one machine or several. There is
// one primitive, an exchange in which every rank gives every other one some bytes; all else is made
// of it, here and where it is used, so that no result depends on what a transport finds fastest:
// sums over ranks are taken in one order that is written down (comm_sum). Transports: Open MPI on
// host memory, sockets where a launcher other than MPI's started the ranks, NCCL on the memory of
// GPUs.
//
// Every function is a collective unless it says otherwise: all ranks call it, in the same order. A
// rank that fails, dies or stalls ends the collectives of the others with an error that names it
// (kernels/comm_watch.h). Used by one thread at a time.
#ifndef KERNELS_COMM_H
#define KERNELS_COMM_H

#include "kernels/comm_watch.h"
#include "kernels/device.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// What bytes are for, by which they are counted.
enum comm_traffic {
    COMM_CONTROL,   // counts, sums, checks
    COMM_GRADIENTS, // reduced to the ranks that update the weights
    COMM_WEIGHTS,   // spread after an update
    COMM_EXPERTS,   // rows to the experts and back, and their gradients
    COMM_SAMPLES,   // of rollouts, with their scores
    COMM_TRAFFICS
};

struct comm_count {
    int64_t bytes[COMM_TRAFFICS]; // that this rank sent to others
    double seconds;               // in collectives, waiting for others included
};

// What goes to one rank and comes from it. Both sides of a pair give the same sizes.
struct comm_part {
    const void *send;
    void *recv;
    size_t send_bytes, recv_bytes;
};

struct comm;
struct comm_transport {
    const char *name;
    // parts [size]; that of the rank itself is not looked at. Host memory, or, on a device's
    // transport, the device's.
    int (*exchange)(struct comm *c, const struct comm_part *parts);
    // orderly: every rank comes here, and nothing failed.
    void (*close)(struct comm *c, bool orderly);
};

// A zeroed struct is not open; comm_single makes a run of one process, where exchanges are copies
// and nothing can fail.
struct comm {
    int rank, size;
    int local_rank, local_size; // among the ranks on the same machine
    struct comm_count count;
    const struct comm_transport *transport; // NULL: one process
    void *state;                            // of the transport
    const struct comm_transport *on_device; // NULL: the device's memory goes by way of the host
    void *device_state;
    struct comm_watch *watch; // NULL: one process
    bool common;              // the error is every rank's: comm_common
    void *staging;            // [cap_staging] host memory for what a GPU sends and receives
    size_t cap_staging;
};

struct comm comm_single(void);

// How a launcher started the ranks; host names are borrowed.
struct comm_launch {
    bool mpi;              // by one of MPI, which knows all of the below
    int rank, size;        // size 1: one process
    int local_rank;        // 0 where it is not said
    int local_size;        // 1 likewise
    const char *address;   // of rank 0's machine
    int port;              // on which rank 0 listens for the others
    double open_timeout;   // seconds in which all ranks must have come; 0: 60
    comm_abandon *abandon; // see kernels/comm_watch.h
};

// Joins the ranks; not ready for GPUs' memory yet. ERR_ENV when they do not all come in time, or
// this build has no MPI; ERR_CONFIG for a launch that makes no sense.
int comm_open(struct comm *out, const struct comm_launch *launch);
// Whether this build can be started by MPI's launcher; whether it has NCCL, and its library is
// there.
bool comm_have_mpi(void);
bool comm_have_nccl(void);

// From now on the memory of a GPU is exchanged by NCCL, when there is one and it can be loaded;
// otherwise by way of the host. A CPU's is the host's anyway. *how (borrowed) says what it will be.
int comm_open_device(struct comm *c, struct device *dev, const char **how);

// Leaves the ranks, having ended with rc (0, or an error with its message set). An error is told to
// the others. Returns what this rank is to end with: rc, or the error of the rank that failed
// first; the message is empty ("") where another rank reports it.
int comm_close(struct comm *c, int rc);

// Not a collective: says of an error, and returns it, that all ranks have the same for the same
// reason. It is then told once and not as the failure of one of them.
int comm_common(struct comm *c, int rc);
// Not a collective: 0, or the error of a rank that failed. For long work between collectives.
int comm_check(const struct comm *c);
// Seconds after which a rank that others wait for counts as stalled.
void comm_set_timeout(struct comm *c, double seconds);

// Exchanges parts [size] in the memory of dev (NULL: the host). A rank's part to itself is copied.
// Nothing may overlap.
int comm_exchange(struct comm *c, struct device *dev, enum comm_traffic traffic,
                  const struct comm_part *parts);

// ---- of host memory

// What every rank has, in the order of ranks: *all [offset[size]], offset [size + 1]; free().
int comm_gather(struct comm *c, enum comm_traffic traffic, const void *mine, size_t bytes,
                void **all, size_t *offset);
// The same for rank `root` alone; elsewhere *all is NULL.
int comm_gather_to(struct comm *c, int root, enum comm_traffic traffic, const void *mine,
                   size_t bytes, void **all, size_t *offset);
// The bytes of rank `root` on every rank.
int comm_broadcast(struct comm *c, void *x, size_t bytes, int root);
// x[i] becomes the sum over ranks; doubles are added in the order of comm_pairwise.
int comm_sum(struct comm *c, double *x, size_t n);
int comm_sum_int64(struct comm *c, int64_t *x, size_t n);
// Whether some rank says yes.
int comm_any(struct comm *c, bool *flag);

// The order in which n values are summed, over ranks and over the shards of a batch: neighbours in
// pairs, then pairs of pairs, what is left over being carried. Sums of 2^k neighbours that were
// added before in this order can stand for them. add(arg, i, j): value i += value j.
void comm_pairwise(int n, void (*add)(void *arg, int i, int j), void *arg);

// That all ranks hold the same text for each of n things. If not: the code of the first that
// differs, with a message that names the ranks that differ from rank 0, and in what.
struct comm_claim {
    const char *name, *value; // "config", and what stands for it
    int code;                 // ERR_*
};
int comm_agree(struct comm *c, const struct comm_claim *claims, int n);

#endif
