// SPDX-License-Identifier: Apache-2.0
// Finding out which rank failed. Each rank has a thread that is connected with that of rank 0 and
// tells it every second how many collectives its rank has entered. From this rank 0 sees who failed
// first: a rank that reports an error, one whose connection closes (it died), or one that others
// have waited for longer than the timeout (it stalled), and tells all ranks. A rank then leaves its
// collective with an error that names the culprit; one that does not come to a collective within
// COMM_GRACE_SECONDS is abandoned: its process ends.
#ifndef KERNELS_COMM_WATCH_H
#define KERNELS_COMM_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COMM_GRACE_SECONDS 30.0

struct comm_watch;

// Ends the process, which hangs in something else than a collective; called by the watching thread.
// report: this rank is to say why.
typedef void comm_abandon(int code, const char *message, bool report);

struct comm_watch_place { // where rank 0 listens, told to all ranks
    char host[256];
    int port;
    uint64_t token; // a connection that does not know it is not one of ours
};

// On rank 0: opens the port; fills in place->port and token. The descriptor goes to
// comm_watch_open.
int comm_watch_listen(int *fd, struct comm_watch_place *place);
// Connects with rank 0, or waits for all ranks to do so (ERR_ENV naming those missing after
// `seconds`), and starts the thread. fd: of rank 0, which it closes; else -1.
int comm_watch_open(struct comm_watch **out, int rank, int size, int fd,
                    const struct comm_watch_place *place, double seconds, comm_abandon *abandon);

void comm_watch_set_timeout(struct comm_watch *w, double seconds);
// This rank enters a collective.
void comm_watch_enter(struct comm_watch *w);
// 0, or, once a rank failed, its error code with the message set.
int comm_watch_check(struct comm_watch *w);

// Ends the watch: rc is 0 when this rank is done, else its error, whose message is told to the
// others unless they all have the same (common). Returns rc, or the error of the rank that failed
// first; *report: this rank is to say it.
int comm_watch_close(struct comm_watch **w, int rc, bool common, bool *report);

#endif
