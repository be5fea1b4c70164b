// SPDX-License-Identifier: Apache-2.0
#include "kernels/comm.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"
#include "kernels/comm_socket.h"
#include "kernels/comm_transport.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct comm comm_single(void) { return (struct comm){.size = 1, .local_size = 1}; }

// ---- opening and closing

static int check_launch(const struct comm_launch *l)
{
    if (l->mpi)
        return 0;
    if (l->rank < 0 || l->rank >= l->size)
        return err_set(ERR_CONFIG, "rank %d does not exist in a run of %d ranks", l->rank, l->size);
    if (l->local_size < 1 || l->local_rank < 0 || l->local_rank >= l->local_size)
        return err_set(ERR_CONFIG, "local rank %d does not exist among %d ranks of a machine",
                       l->local_rank, l->local_size);
    if (l->address == NULL || l->port < 1 || l->port > 65535)
        return err_set(ERR_CONFIG, "%d ranks without MPI need the address and the port of rank 0",
                       l->size);
    return 0;
}

// Rank 0's watch listens; the transport tells the others where.
static int open_watch(struct comm *c, const struct comm_launch *l)
{
    struct comm_watch_place place = {.host = "127.0.0.1"};
    int fd = -1;
    int rc = c->rank == 0 ? comm_watch_listen(&fd, &place) : 0;
    if (c->rank == 0 && !l->mpi)
        snprintf(place.host, sizeof place.host, "%s", l->address);
    else if (c->rank == 0 && c->local_size < c->size)
        gethostname(place.host, sizeof place.host - 1);
    if (rc == 0)
        rc = comm_broadcast(c, &place, sizeof place, 0);
    if (rc != 0) {
        if (fd >= 0)
            close(fd);
        return rc;
    }
    return comm_watch_open(&c->watch, c->rank, c->size, fd, &place,
                           l->open_timeout > 0.0 ? l->open_timeout : 60.0, l->abandon);
}

int comm_open(struct comm *out, const struct comm_launch *l)
{
    struct comm c = comm_single();
    int rc = check_launch(l);
    if (rc == 0 && l->mpi)
        rc = comm_open_mpi(&c);
    else if (rc == 0 && l->size > 1)
        rc = comm_open_tcp(&c, l);
    if (rc == 0 && c.size > 1)
        rc = open_watch(&c, l);
    if (rc != 0) {
        if (c.transport != NULL)
            c.transport->close(&c, /* orderly= */ false);
        return rc;
    }
    *out = c;
    return 0;
}

int comm_open_device(struct comm *c, struct device *dev, const char **how)
{
    *how = c->size > 1 ? c->transport->name : "one process";
    if (c->size == 1 || dev->cuda == NULL) // other devices have no library of their own
        return 0;
    return comm_open_nccl(c, dev, how);
}

int comm_close(struct comm *c, int rc)
{
    bool report = rc != 0, flag = false;
    if (c->watch != NULL) {
        if (rc == 0)
            rc = comm_any(c, &flag); // everybody is done
        rc = comm_watch_close(&c->watch, rc, c->common, &report);
    }
    if (c->on_device != NULL)
        c->on_device->close(c, rc == 0);
    if (c->transport != NULL)
        c->transport->close(c, rc == 0);
    free(c->staging);
    *c = (struct comm){0};
    return rc == 0 || report ? rc : err_set(rc, "%s", "");
}

int comm_common(struct comm *c, int rc)
{
    c->common = true;
    return rc;
}

int comm_check(const struct comm *c) { return c->watch != NULL ? comm_watch_check(c->watch) : 0; }

void comm_set_timeout(struct comm *c, double seconds)
{
    if (c->watch != NULL)
        comm_watch_set_timeout(c->watch, seconds);
}

int comm_wait_turn(const struct comm *c, int turn)
{
    const int spins = 200, yields = 500;
    if (turn > yields)
        nanosleep(&(struct timespec){.tv_nsec = turn < 4 * yields ? 50 * 1000 : 500 * 1000}, NULL);
    else if (turn > spins)
        sched_yield();
    return comm_check(c);
}

// ---- the exchange

static void count_bytes(struct comm *c, enum comm_traffic traffic, const struct comm_part *parts)
{
    for (int r = 0; r < c->size; r++)
        if (r != c->rank)
            c->count.bytes[traffic] += (int64_t)parts[r].send_bytes;
}

static int copy_own(struct device *dev, const struct comm_part *own)
{
    if (own->send_bytes == 0 || own->recv == own->send)
        return 0;
    if (dev != NULL)
        return dev->memory->copy(dev, own->recv, own->send, own->send_bytes);
    memcpy(own->recv, own->send, own->send_bytes);
    return 0;
}

// A GPU's memory by way of the host's.
static int exchange_staged(struct comm *c, struct device *dev, const struct comm_part *parts)
{
    size_t bytes = 0;
    for (int r = 0; r < c->size; r++)
        bytes += r == c->rank ? 0 : parts[r].send_bytes + parts[r].recv_bytes;
    if (bytes > c->cap_staging) {
        free(c->staging);
        c->staging = mem_aligned(bytes);
        c->cap_staging = bytes;
    }
    struct comm_part *host = mem_array0((size_t)c->size, sizeof *host);
    char *at = c->staging;
    int rc = 0;
    for (int r = 0; r < c->size && rc == 0; r++) {
        if (r == c->rank)
            continue;
        host[r] = (struct comm_part){at, at + parts[r].send_bytes, parts[r].send_bytes,
                                     parts[r].recv_bytes};
        rc = dev->memory->download(dev, at, parts[r].send, parts[r].send_bytes);
        at += parts[r].send_bytes + parts[r].recv_bytes;
    }
    if (rc == 0)
        rc = c->transport->exchange(c, host);
    for (int r = 0; r < c->size && rc == 0; r++)
        if (r != c->rank)
            rc = dev->memory->upload(dev, parts[r].recv, host[r].recv, parts[r].recv_bytes);
    free(host);
    return rc;
}

int comm_exchange(struct comm *c, struct device *dev, enum comm_traffic traffic,
                  const struct comm_part *parts)
{
    int rc = copy_own(dev, &parts[c->rank]);
    if (c->size == 1 || rc != 0)
        return rc;
    const double start = comm_clock();
    if (c->watch != NULL)
        comm_watch_enter(c->watch);
    if (dev == NULL || dev->memory->of_host)
        rc = c->transport->exchange(c, parts);
    else if (c->on_device != NULL)
        rc = c->on_device->exchange(c, parts);
    else
        rc = exchange_staged(c, dev, parts);
    count_bytes(c, traffic, parts);
    c->count.seconds += comm_clock() - start;
    return rc;
}

// ---- of host memory

// The same bytes to everybody, or (root >= 0) to one rank; recv: places of as many as each gives.
static int spread(struct comm *c, int root, enum comm_traffic traffic, const void *mine,
                  size_t bytes, char *recv, const size_t *offset)
{
    struct comm_part *parts = mem_array0((size_t)c->size, sizeof *parts);
    for (int r = 0; r < c->size; r++) {
        if (root < 0 || root == r)
            parts[r] = (struct comm_part){.send = mine, .send_bytes = bytes};
        if (root < 0 || root == c->rank) {
            parts[r].recv = recv + offset[r];
            parts[r].recv_bytes = offset[r + 1] - offset[r];
        }
    }
    const int rc = comm_exchange(c, NULL, traffic, parts);
    free(parts);
    return rc;
}

// x [n] of every rank, in the order of ranks: [size, n]; free().
static int gather_equal(struct comm *c, enum comm_traffic traffic, const void *x, size_t bytes,
                        void **all)
{
    size_t *offset = mem_array0((size_t)c->size + 1, sizeof *offset);
    for (int r = 0; r < c->size; r++)
        offset[r + 1] = offset[r] + bytes;
    *all = mem_alloc((size_t)c->size * bytes);
    const int rc = spread(c, -1, traffic, x, bytes, *all, offset);
    free(offset);
    if (rc != 0)
        free(*all);
    return rc;
}

int comm_gather(struct comm *c, enum comm_traffic traffic, const void *mine, size_t bytes,
                void **out, size_t *offset)
{
    return comm_gather_to(c, -1, traffic, mine, bytes, out, offset);
}

int comm_gather_to(struct comm *c, int root, enum comm_traffic traffic, const void *mine,
                   size_t bytes, void **out, size_t *offset)
{
    const uint64_t size = bytes;
    void *sizes;
    int rc = gather_equal(c, COMM_CONTROL, &size, sizeof size, &sizes);
    if (rc != 0)
        return rc;
    offset[0] = 0;
    for (int r = 0; r < c->size; r++)
        offset[r + 1] = offset[r] + ((const uint64_t *)sizes)[r];
    free(sizes);
    void *all = root < 0 || root == c->rank ? mem_alloc(offset[c->size]) : NULL;
    rc = spread(c, root, traffic, mine, bytes, all, offset);
    if (rc != 0) {
        free(all);
        return rc;
    }
    *out = all;
    return 0;
}

int comm_broadcast(struct comm *c, void *x, size_t bytes, int root)
{
    struct comm_part *parts = mem_array0((size_t)c->size, sizeof *parts);
    for (int r = 0; r < c->size && c->rank == root; r++)
        parts[r] = (struct comm_part){.send = x, .send_bytes = r == root ? 0 : bytes};
    if (c->rank != root)
        parts[root] = (struct comm_part){.recv = x, .recv_bytes = bytes};
    const int rc = comm_exchange(c, NULL, COMM_CONTROL, parts);
    free(parts);
    return rc;
}

void comm_pairwise(int n, void (*add)(void *arg, int i, int j), void *arg)
{
    for (int width = 1; width < n; width *= 2)
        for (int i = 0; i + width < n; i += 2 * width)
            add(arg, i, i + width);
}

struct rows { // [ranks, n]
    double *x;
    size_t n;
};

static void add_rows(void *arg, int i, int j)
{
    const struct rows *rows = arg;
    for (size_t k = 0; k < rows->n; k++)
        rows->x[(size_t)i * rows->n + k] += rows->x[(size_t)j * rows->n + k];
}

int comm_sum(struct comm *c, double *x, size_t n)
{
    if (c->size == 1 || n == 0)
        return 0;
    void *all;
    const int rc = gather_equal(c, COMM_CONTROL, x, n * sizeof *x, &all);
    if (rc != 0)
        return rc;
    struct rows rows = {all, n};
    comm_pairwise(c->size, add_rows, &rows);
    memcpy(x, all, n * sizeof *x);
    free(all);
    return 0;
}

int comm_sum_int64(struct comm *c, int64_t *x, size_t n)
{
    if (c->size == 1 || n == 0)
        return 0;
    void *all;
    const int rc = gather_equal(c, COMM_CONTROL, x, n * sizeof *x, &all);
    if (rc != 0)
        return rc;
    memset(x, 0, n * sizeof *x);
    for (int r = 0; r < c->size; r++)
        for (size_t k = 0; k < n; k++)
            x[k] += ((const int64_t *)all)[(size_t)r * n + k];
    free(all);
    return 0;
}

int comm_any(struct comm *c, bool *flag)
{
    int64_t n = *flag;
    const int rc = comm_sum_int64(c, &n, 1);
    if (rc == 0)
        *flag = n > 0;
    return rc;
}

// ---- agreement

// Names the ranks whose text differs from rank 0's; nothing when none does.
static void list_differences(struct strbuf *out, const struct comm *c,
                             const struct comm_claim *claim, const char *all, const size_t *offset)
{
    const size_t first = offset[1];
    int one = 0;
    for (int r = 1; r < c->size; r++) {
        if (offset[r + 1] - offset[r] == first && memcmp(all + offset[r], all, first) == 0)
            continue;
        if (one == 0)
            strbuf_printf(out, "%s in %s (rank %d", out->len > 0 ? "," : "", claim->name, r);
        else
            strbuf_printf(out, ", %d", r);
        one = r;
    }
    if (one > 0)
        strbuf_printf(out, ": %.60s; rank 0: %.60s)", all + offset[one], all);
}

int comm_agree(struct comm *c, const struct comm_claim *claims, int n)
{
    struct strbuf text = {0};
    size_t *offset = mem_array0((size_t)c->size + 1, sizeof *offset);
    int rc = 0, code = 0;
    for (int i = 0; i < n && rc == 0 && c->size > 1; i++) {
        void *all;
        rc = comm_gather(c, COMM_CONTROL, claims[i].value, strlen(claims[i].value) + 1, &all,
                         offset);
        if (rc == 0) {
            list_differences(&text, c, &claims[i], all, offset);
            free(all);
        }
        if (text.len > 0 && code == 0)
            code = claims[i].code;
    }
    if (rc == 0 && code != 0)
        rc = comm_common(c, err_set(code, "the ranks disagree%s", text.data));
    strbuf_free(&text);
    free(offset);
    return rc;
}
