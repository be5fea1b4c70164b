// SPDX-License-Identifier: Apache-2.0
// Sockets between ranks (TCP over IPv4 or IPv6). Internal to the comm files. Times are of
// comm_clock; a deadline is a point in it.
#ifndef KERNELS_COMM_SOCKET_H
#define KERNELS_COMM_SOCKET_H

#include <stdbool.h>
#include <stddef.h>

double comm_clock(void); // seconds, monotonic

// Listens on a port (0: any that is free, which *port receives). ERR_ENV.
int comm_listen(int *fd, int *port);
// Tries until the deadline. ERR_ENV.
int comm_connect(int *fd, const char *host, int port, double deadline);
// The next connection; -1 when none comes by the deadline.
int comm_accept(int fd, double deadline);

// All the bytes, by the deadline; false: the other side is gone or too slow.
bool comm_send_all(int fd, const void *data, size_t len, double deadline);
bool comm_recv_all(int fd, void *data, size_t len, double deadline);

#endif
