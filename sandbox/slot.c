// SPDX-License-Identifier: Apache-2.0
#include "sandbox/slot.h"

#include "base/error.h"
#include "sandbox/delay.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KILL_GRACE_S = 5 };
#define DEADLINE_STEP_S 0.01 // deadlines are put off by at least this much
// A program that was kept from running for so many times its wall-clock limit, and for so many
// seconds, is given up: that says something about the machine, and nothing about the program.
enum { PATIENCE = 20, PATIENCE_S = 60 };

double slot_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// The box gets the control socket as descriptor 3, default signals, a session of its own (a ^C at
// the terminal is ours alone), and of an environment only what its loader is told.
static int spawn(pid_t *pid, char *const argv[], int control)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    char bind_now[] = "LD_BIND_NOW=1"; // else every program's process would bind functions anew
    char *envp[] = {bind_now, NULL};
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    int rc = posix_spawn_file_actions_adddup2(&actions, control, WIRE_CONTROL_FD);
    if (rc == 0)
        rc = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                 POSIX_SPAWN_SETSID);
    if (rc == 0)
        rc = posix_spawnattr_setsigmask(&attr, &none);
    if (rc == 0)
        rc = posix_spawnattr_setsigdefault(&attr, &all);
    if (rc == 0)
        rc = posix_spawn(pid, argv[0], &actions, &attr, argv, envp);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return rc;
}

int slot_start(struct slot *s, const char *box_path, enum sandbox_tier tier, const char *language)
{
    int pair[2];
    const char *argv[] = {box_path, tier == SANDBOX_CAGE ? WIRE_CAGE : WIRE_JAIL, language, NULL};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return err_set(ERR_ENV, "sandbox: a socket pair: %s", strerror(errno));
    pid_t pid = 0;
    const int rc = spawn(&pid, (char *const *)(uintptr_t)argv, pair[1]);
    close(pair[1]);
    if (rc != 0) {
        close(pair[0]);
        return err_set(ERR_ENV, "sandbox: starting %s: %s", box_path, strerror(rc));
    }
    s->launcher = pid;
    s->control = pair[0];
    s->state = SLOT_STARTING;
    s->tier = tier;
    s->made = -1;
    s->started = slot_clock();
    s->runs = 0;
    for (int i = 0; i < SLOT_STREAMS; i++)
        s->fds[i] = -1;
    return 0;
}

static void close_stream(struct slot *s, enum slot_stream i)
{
    if (s->fds[i] >= 0)
        close(s->fds[i]);
    s->fds[i] = -1;
}

static void close_made(struct slot *s)
{
    if (s->made >= 0)
        close(s->made);
    s->made = -1;
}

void slot_stop(struct slot *s)
{
    if (s->state == SLOT_DOWN)
        return;
    for (int i = 0; i < SLOT_STREAMS; i++)
        close_stream(s, i);
    close_made(s);
    close(s->control); // the box sees it and ends, and with its PID 1 all that is in it
    int status;
    const double give_up = slot_clock() + KILL_GRACE_S;
    while (waitpid(s->launcher, &status, WNOHANG) == 0) {
        if (slot_clock() > give_up) { // its PID 1 dies with it
            (void)kill(s->launcher, SIGKILL);
            (void)waitpid(s->launcher, &status, 0);
            break;
        }
        const struct timespec pause = {.tv_nsec = 200000};
        nanosleep(&pause, NULL);
    }
    s->state = SLOT_DOWN;
}

void slot_free(struct slot *s)
{
    slot_stop(s);
    for (int i = 0; i < SLOT_STREAMS; i++)
        strbuf_free(&s->got[i]);
}

enum { PIECES_MAX = 5 };

struct piece {
    const void *bytes;
    size_t len;
};

// All of the pieces, one after the other, from the beginning of the file on; its position stays
// there.
static bool write_pieces(int fd, const struct piece *pieces, int n)
{
    struct iovec iov[PIECES_MAX];
    size_t len = 0;
    for (int i = 0; i < n; i++) {
        iov[i] = (struct iovec){(void *)(uintptr_t)pieces[i].bytes, pieces[i].len};
        len += pieces[i].len;
    }
    return len == 0 || pwritev(fd, iov, n, 0) == (ssize_t)len;
}

// A file in memory that nobody can change any more, at its beginning.
static int sealed_file(const char *name, const struct piece *pieces, int n)
{
    const int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    if (!write_pieces(fd, pieces, n) ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static struct piece piece_of(const struct strbuf *b)
{
    return b != NULL ? (struct piece){b->data, b->len} : (struct piece){NULL, 0};
}

static int job_file(const struct slot *s, const struct slot_program *p)
{
    const struct piece entry = piece_of(p->entry), check = piece_of(p->check),
                       args = piece_of(p->args);
    struct wire_job job = {
        .version = WIRE_VERSION,
        .kind = p->kind,
        .source_len = (uint32_t)p->source_len,
        .entry_len = (uint32_t)entry.len,
        .check_len = (uint32_t)check.len,
        .calls = (uint32_t)p->calls,
        .args_len = (uint32_t)args.len,
    };
    memcpy(job.nonce, s->nonce, sizeof job.nonce);
    const struct piece pieces[] = {
        {&job, sizeof job}, {p->source, p->source_len}, entry, check, args};
    return sealed_file("job", pieces, PIECES_MAX);
}

// The descriptors of a run, ours and the box's: memory files for input and job, pipes for what
// comes out.
static int open_run(struct slot *s, const struct slot_program *p, int theirs[WIRE_FDS])
{
    static const enum wire_fd end[SLOT_STREAMS] = {WIRE_FD_STDOUT, WIRE_FD_STDERR, WIRE_FD_RECORDS};
    if (getrandom(s->nonce, sizeof s->nonce, 0) != (ssize_t)sizeof s->nonce)
        return -1;
    for (int i = 0; i < SLOT_STREAMS; i++) {
        int pipe_fds[2];
        if (pipe2(pipe_fds, O_CLOEXEC) != 0)
            return -1;
        s->fds[i] = pipe_fds[0];
        theirs[end[i]] = pipe_fds[1];
        if (fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK) != 0)
            return -1;
    }
    const struct piece input = {p->input, p->input_len};
    theirs[WIRE_FD_STDIN] = sealed_file("stdin", &input, 1);
    theirs[WIRE_FD_JOB] =
        p->kind == WIRE_JOB_EXECUTE ? fcntl(p->executable, F_DUPFD_CLOEXEC, 3) : job_file(s, p);
    return theirs[WIRE_FD_STDIN] >= 0 && theirs[WIRE_FD_JOB] >= 0 ? 0 : -1;
}

static int send_run(const struct slot *s, const struct wire_run *run, const int fds[WIRE_FDS])
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * WIRE_FDS)];
    } control = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)run, .iov_len = sizeof *run};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof control.bytes};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * WIRE_FDS);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * WIRE_FDS);
    return sendmsg(s->control, &msg, MSG_NOSIGNAL) == (ssize_t)sizeof *run ? 0 : -1;
}

int slot_begin(struct slot *s, const struct slot_program *p)
{
    int theirs[WIRE_FDS] = {-1, -1, -1, -1, -1};
    const struct sandbox_limits *l = &p->limits;
    const struct wire_run run = {.command = WIRE_RUN,
                                 .serial = ++s->serial,
                                 .kind = p->kind,
                                 .compiler = p->compiler,
                                 .limits = {.cpu_ms = (uint32_t)l->cpu_ms,
                                            .memory_kib = (uint32_t)l->memory_kib,
                                            .disk_kib = (uint32_t)l->disk_kib,
                                            .files = (uint32_t)l->files,
                                            .threads = (uint32_t)l->threads}};
    for (int i = 0; i < SLOT_STREAMS; i++)
        strbuf_clear(&s->got[i]);
    close_made(s);
    s->kind = p->kind;
    s->limit = (size_t)l->output_kib * 1024;
    s->wall = s->output = s->starved = false;
    s->kill_deadline = 0;
    s->started = slot_clock();
    s->wall_limit = l->wall_ms * 1e-3;
    s->wall_deadline = s->started + s->wall_limit;
    int rc = open_run(s, p, theirs);
    if (rc == 0)
        rc = send_run(s, &run, theirs);
    const int saved = errno;
    for (int i = 0; i < WIRE_FDS; i++) {
        if (theirs[i] >= 0)
            close(theirs[i]);
    }
    s->state = SLOT_BUSY;
    s->runs++;
    return rc == 0 ? 0 : err_set(ERR_ENV, "sandbox: handing a program over: %s", strerror(saved));
}

void slot_read(struct slot *s, enum slot_stream i)
{
    char chunk[1 << 14];
    while (s->fds[i] >= 0) {
        const size_t room = s->limit + 1 - s->got[i].len;
        const ssize_t n = read(s->fds[i], chunk, room < sizeof chunk ? room : sizeof chunk);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n > 0)
            strbuf_append(&s->got[i], chunk, (size_t)n);
        if (s->got[i].len > s->limit) {
            s->output = true;
            slot_kill(s);
        }
        if (n <= 0 || s->output)
            close_stream(s, i);
    }
}

void slot_kill(struct slot *s)
{
    if (s->kill_deadline > 0)
        return;
    const struct wire_run run = {.command = WIRE_KILL, .serial = s->serial};
    (void)send(s->control, &run, sizeof run, MSG_NOSIGNAL);
    s->kill_deadline = slot_clock() + KILL_GRACE_S;
}

void slot_overdue(struct slot *s, double now)
{
    struct delay d;
    const bool there = delay_of_program(&d, s->launcher);
    const double left = there ? s->wall_limit - (d.age - d.waited) : DEADLINE_STEP_S;
    if (left > 0 && now - s->started < fmax(PATIENCE * s->wall_limit, PATIENCE_S)) {
        s->wall_deadline = now + (left > DEADLINE_STEP_S ? left : DEADLINE_STEP_S);
        return;
    }
    s->starved = left > 0;
    s->wall = !s->starved;
    slot_kill(s);
}

// Whether the box is in namespaces of its own, one and all. Fails closed.
static bool is_apart(const struct wire_hello *h, char *text)
{
    static const char *const names[WIRE_NAMESPACES_NUM] = WIRE_NAMESPACES;
    for (int i = 0; i < WIRE_NAMESPACES_NUM; i++) {
        char path[64];
        struct stat st;
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        if (stat(path, &st) == 0 && st.st_ino != h->namespaces[i])
            continue;
        snprintf(text, 256, "the box has no %s namespace of its own", names[i]);
        return false;
    }
    return true;
}

static int receive_hello(struct slot *s, const struct wire_hello *h, size_t len, char *text)
{
    if (len != sizeof *h || h->version != WIRE_VERSION) {
        snprintf(text, 256, "gradus-box is of another build than this program");
        return -1;
    }
    if (!h->ok) {
        snprintf(text, 256, "%.231s%s%s", h->text, h->errnum != 0 ? ": " : "",
                 h->errnum != 0 ? strerror(h->errnum) : "");
        return -1;
    }
    if (s->tier == SANDBOX_JAIL && !is_apart(h, text))
        return -1;
    s->compilers = (int)h->compilers;
    s->state = SLOT_IDLE;
    return 2;
}

// recv, with the descriptor that may come along in *fd.
static ssize_t receive(int socket, void *out, size_t size, int *fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof *fd)];
    } control;
    struct iovec iov = {.iov_base = out, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof control};
    const ssize_t n = recvmsg(socket, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    const struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
    if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(c), sizeof *fd);
    return n;
}

int slot_receive(struct slot *s, struct wire_done *done, char *hello_text)
{
    union {
        struct wire_hello hello;
        struct wire_done done;
    } m = {0};
    int made = -1;
    const ssize_t n = receive(s->control, &m, sizeof m, &made);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0) {
        snprintf(hello_text, 256, "gradus-box ended without a word");
        return -1;
    }
    close_made(s);
    s->made = made;
    if (s->state == SLOT_STARTING)
        return receive_hello(s, &m.hello, (size_t)n, hello_text);
    if (n != (ssize_t)sizeof m.done || s->state != SLOT_BUSY || m.done.serial != s->serial) {
        snprintf(hello_text, 256, "gradus-box sent what was not asked for");
        return -1;
    }
    *done = m.done;
    return 1;
}

void slot_finish(struct slot *s)
{
    for (int i = 0; i < SLOT_STREAMS; i++) {
        slot_read(s, i); // every writer is dead: this ends at the end of the stream
        close_stream(s, i);
    }
    s->state = SLOT_IDLE;
}
