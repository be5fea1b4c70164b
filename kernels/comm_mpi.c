// SPDX-License-Identifier: Apache-2.0
// Exchanges by MPI on host memory. Only the main thread calls MPI. Messages are started at once in
// both directions and polled, so that a wait can end when a rank has failed.
#include "kernels/comm_transport.h"

#include "base/error.h"
#include "base/mem.h"

#include <mpi.h>
#include <stdlib.h>

#define MESSAGE_MAX ((size_t)1 << 30) // MPI counts in int

struct requests {
    MPI_Request *items;
    int count, cap;
};

struct mpi_state {
    struct requests requests;
};

static int fault(int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING];
    int len = 0;
    MPI_Error_string(code, text, &len);
    return err_set(ERR_ENV, "MPI, %s: %.*s", what, len, text);
}

static MPI_Request *next_request(struct requests *r)
{
    if (r->count == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 16;
        r->items = mem_realloc(r->items, (size_t)r->cap * sizeof *r->items);
    }
    return &r->items[r->count++];
}

// Starts sending (or, data being written, receiving) in messages of at most MESSAGE_MAX.
static int start(struct requests *r, char *data, size_t bytes, int rank, bool sending)
{
    int rc = MPI_SUCCESS;
    for (size_t at = 0; at < bytes && rc == MPI_SUCCESS; at += MESSAGE_MAX) {
        const int n = (int)(bytes - at < MESSAGE_MAX ? bytes - at : MESSAGE_MAX);
        MPI_Request *request = next_request(r);
        rc = sending ? MPI_Isend(data + at, n, MPI_BYTE, rank, 0, MPI_COMM_WORLD, request)
                     : MPI_Irecv(data + at, n, MPI_BYTE, rank, 0, MPI_COMM_WORLD, request);
    }
    return rc;
}

static int exchange(struct comm *c, const struct comm_part *parts)
{
    struct requests *r = &((struct mpi_state *)c->state)->requests;
    r->count = 0;
    int rc = MPI_SUCCESS;
    for (int i = 0; i < c->size && rc == MPI_SUCCESS; i++)
        if (i != c->rank)
            rc = start(r, parts[i].recv, parts[i].recv_bytes, i, false);
    for (int i = 1; i < c->size && rc == MPI_SUCCESS; i++) { // not everybody to rank 0 first
        const int to = (c->rank + i) % c->size;
        rc = start(r, (char *)(uintptr_t)parts[to].send, parts[to].send_bytes, to, true);
    }
    int done = 0;
    for (int turn = 0; rc == MPI_SUCCESS; turn++) {
        rc = MPI_Testall(r->count, r->items, &done, MPI_STATUSES_IGNORE);
        if (rc != MPI_SUCCESS || done)
            break;
        const int failed = comm_wait_turn(c, turn);
        if (failed != 0)
            return failed;
    }
    return rc == MPI_SUCCESS ? 0 : fault(rc, "exchange");
}

// A rank that failed leaves the others' messages unanswered: MPI is not asked to finish.
static void close_mpi(struct comm *c, bool orderly)
{
    struct mpi_state *s = c->state;
    free(s->requests.items);
    free(s);
    if (orderly)
        MPI_Finalize();
}

static const struct comm_transport transport = {"MPI", exchange, close_mpi};

static int join(struct comm *c)
{
    MPI_Comm machine;
    int rc = MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (rc == MPI_SUCCESS)
        rc = MPI_Comm_rank(MPI_COMM_WORLD, &c->rank);
    if (rc == MPI_SUCCESS)
        rc = MPI_Comm_size(MPI_COMM_WORLD, &c->size);
    if (rc == MPI_SUCCESS)
        rc = MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
    if (rc != MPI_SUCCESS)
        return rc;
    rc = MPI_Comm_rank(machine, &c->local_rank);
    if (rc == MPI_SUCCESS)
        rc = MPI_Comm_size(machine, &c->local_size);
    MPI_Comm_free(&machine);
    return rc;
}

int comm_open_mpi(struct comm *out)
{
    int provided = 0;
    int rc = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    struct comm c = comm_single();
    if (rc == MPI_SUCCESS)
        rc = join(&c);
    if (rc != MPI_SUCCESS)
        return fault(rc, "start");
    if (provided < MPI_THREAD_FUNNELED)
        return err_set(ERR_ENV, "this MPI does not allow threads");
    c.transport = &transport;
    c.state = mem_alloc0(sizeof(struct mpi_state));
    *out = c;
    return 0;
}

bool comm_have_mpi(void) { return true; }
