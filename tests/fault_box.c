// SPDX-License-Identifier: Apache-2.0
// Stands in for gradus-box: starts the real one and lets one system call of its set-up fail. Every
// system call of the box is reported here by the kernel (SECCOMP_RET_USER_NOTIF) before it is done.
// The set-up is counted from the first call of the launcher to the report of the first run, without
// the start of the interpreter, which is no layer of isolation, and without what the program itself
// does.
//
// Beside the link that it is started by lies the file `plan`: the real box, tier, language, and the
// number of the call that fails, 0 for none. It writes `log`: how many calls there were, and what
// the one was.
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CONTROL = 3, READY = 5 }; // descriptors of a box and of its child

struct plan {
    char box[4096], tier[16], language[16];
    int fail;
};

enum phase { STARTING, SETTING_UP, WARMING_UP, SET_UP, SERVED };

struct watcher {
    struct plan plan;
    bool failed_before; // in an earlier box: this one is not to be built at all
    enum phase phase;
    pid_t init;    // PID 1 of the box, once known
    pid_t program; // once it is ready: what it does is its own business
    bool greeted;
    int reports, runs; // runs: of which the last is the program itself
    int count;
    char failed[128];
};

// Calls whose failure says nothing: they cannot fail where they are made, or there is another way.
// They are not reported.
static const int harmless[] = {
    SYS_close,  // of descriptors that are open
    SYS_getpid, // cannot fail, nor can the others of their kind
    SYS_gettid, SYS_getppid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_umask,
    SYS_brk, // the allocator then maps memory, or uses what it has
    SYS_mmap, SYS_munmap, SYS_madvise, SYS_mprotect,
    SYS_getrandom,      // the allocator's
    SYS_rt_sigprocmask, // around fork, in the library
    SYS_set_robust_list, SYS_rseq, SYS_exit, SYS_exit_group,
    SYS_ppoll, // is repeated
    SYS_lseek, // the library's, at the end of a stream
    SYS_fstat, // likewise, for the size of a buffer
    // The interpreter's while it starts; and of SIGPIPE and SIGXFSZ, which bind nobody.
    SYS_getdents64, SYS_ioctl, SYS_rt_sigaction, SYS_sigaltstack, SYS_futex};
enum { NUM_HARMLESS = sizeof harmless / sizeof *harmless };

static bool is_harmless(const struct seccomp_data *d)
{
    // libseccomp asks what there is; what it believes not to be there it refuses.
    if (d->nr == SYS_seccomp)
        return d->args[0] != SECCOMP_SET_MODE_FILTER || d->args[2] == 0;
    return d->nr == SYS_newfstatat && (d->args[3] & 0x1000) != 0; // AT_EMPTY_PATH: fstat
}

static bool names(pid_t pid, uint64_t address, const char *path)
{
    char file[64], text[256] = "";
    snprintf(file, sizeof file, "/proc/%d/mem", pid);
    const int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    (void)!pread(fd, text, strlen(path) + 1, (off_t)address);
    close(fd);
    return strcmp(text, path) == 0;
}

// Where the box is on its way, by landmarks among its calls.
static void follow(struct watcher *w, const struct seccomp_notif *n)
{
    const struct seccomp_data *d = &n->data;
    const pid_t pid = (pid_t)n->pid;
    if (w->phase == WARMING_UP && d->nr == SYS_openat && names(pid, d->args[1], "/proc/self/statm"))
        w->phase = SET_UP;
}

static void follow_after(struct watcher *w, const struct seccomp_notif *n)
{
    const struct seccomp_data *d = &n->data;
    const pid_t pid = (pid_t)n->pid;
    // It has asked whether it was started by hand.
    if (w->phase == STARTING && d->nr == SYS_recvfrom && d->args[0] == CONTROL)
        w->phase = SETTING_UP;
    if (w->phase == SETTING_UP && d->nr == SYS_prctl && d->args[0] == PR_SET_PDEATHSIG) {
        w->init = pid;
        w->phase = WARMING_UP;
    }
    if (w->phase == SET_UP && d->nr == SYS_write && d->args[0] == READY && d->args[2] == 1)
        w->program = pid;
    if (w->phase == SET_UP && d->nr == SYS_sendto && pid == w->init)
        w->greeted = true;
    if (w->phase == SET_UP && d->nr == SYS_sendmsg && pid == w->init) {
        w->program = 0;
        if (++w->reports == w->runs)
            w->phase = SERVED;
    }
}

static bool counts(const struct watcher *w, const struct seccomp_notif *n)
{
    const pid_t pid = (pid_t)n->pid;
    if ((w->phase != SETTING_UP && w->phase != SET_UP) || is_harmless(&n->data))
        return false;
    // A process that init starts before it greets only looks for libraries. One that was locked in,
    // and, of a compiler, what it starts, count no more.
    if (w->phase == SET_UP && (!w->greeted || w->program != 0))
        return pid == w->init;
    return true;
}

// true: the call is to fail.
static bool decide(struct watcher *w, const struct seccomp_notif *n)
{
    follow(w, n);
    const bool fails =
        counts(w, n) && (++w->count == w->plan.fail || (w->failed_before && w->plan.fail > 0));
    if (fails)
        snprintf(w->failed, sizeof w->failed, "system call %d(%#llx, %#llx, %#llx)", n->data.nr,
                 n->data.args[0], n->data.args[1], n->data.args[2]);
    else
        follow_after(w, n);
    return fails;
}

static void write_log(const struct watcher *w, int dir)
{
    const int fd = openat(dir, "log", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd >= 0) {
        dprintf(fd, "%d %s\n", w->count, w->failed);
        close(fd);
    }
}

static void watch(struct watcher *w, int listener, int dir)
{
    for (;;) {
        struct seccomp_notif n;
        struct pollfd p = {.fd = listener, .events = POLLIN};
        if (poll(&p, 1, -1) < 0 || (p.revents & POLLIN) == 0)
            return; // nobody is left
        memset(&n, 0, sizeof n);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &n) != 0)
            continue; // it was killed meanwhile
        const int before = w->count;
        struct seccomp_notif_resp answer = {.id = n.id};
        if (decide(w, &n))
            answer.error = -EPERM;
        else
            answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        if (w->count != before && !w->failed_before && (w->plan.fail == 0 || w->failed[0] != 0))
            write_log(w, dir);
        (void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

static int read_plan(struct plan *plan, int dir)
{
    const int fd = openat(dir, "plan", O_RDONLY | O_CLOEXEC);
    FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
    if (f == NULL)
        return -1;
    const int n =
        fscanf(f, "%4095s %15s %15s %d", plan->box, plan->tier, plan->language, &plan->fail);
    fclose(f);
    return n == 4 ? 0 : -1;
}

// All calls are reported; the listener's number goes into *listener, which both see.
static void start_reporting(volatile int *listener)
{
    struct sock_filter code[2 * NUM_HARMLESS + 2];
    unsigned short n = 0;
    code[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < NUM_HARMLESS; i++) {
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, harmless[i], 0, 1);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
    const struct sock_fprog filter = {.len = n, .filter = code};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (geteuid() != 0)
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    *listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
                             &filter);
}

int main(int argc, char **argv)
{
    struct watcher w = {0};
    char *slash = strrchr(argv[0], '/');
    if (argc != 3 || slash == NULL)
        return 2;
    *slash = 0;
    const int dir = open(argv[0], O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 || read_plan(&w.plan, dir) != 0)
        return 2;
    argv[0] = w.plan.box;
    char *none[] = {NULL};
    if (strcmp(argv[1], w.plan.tier) != 0 || strcmp(argv[2], w.plan.language) != 0) {
        execve(argv[0], argv, none);
        return 2;
    }
    w.runs = strcmp(w.plan.language, "python") == 0 ? 1 : 2; // C is compiled first
    w.failed_before = faccessat(dir, "log", F_OK, 0) == 0;
    volatile int *listener =
        mmap(NULL, sizeof *listener, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (listener == MAP_FAILED)
        return 2;
    *listener = -2;
    // The table of descriptors is shared until the box is executed.
    const pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        start_reporting(listener);
        if (*listener >= 0)
            syscall(SYS_execve, argv[0], argv, none);
        syscall(SYS_exit_group, 2);
    }
    const struct timespec pause = {.tv_nsec = 100000};
    while (*listener == -2)
        nanosleep(&pause, NULL);
    if (*listener < 0)
        return 2;
    // A faster way to and fro, where the kernel has it (6.6).
    (void)ioctl(*listener, _IOW('!', 4, uint64_t), 1);
    // The box has its own descriptors once it has asked for anything but its execution: the first
    // notification is that.
    struct seccomp_notif first = {0};
    if (ioctl(*listener, SECCOMP_IOCTL_NOTIF_RECV, &first) == 0) {
        const struct seccomp_notif_resp go = {.id = first.id,
                                              .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        (void)ioctl(*listener, SECCOMP_IOCTL_NOTIF_SEND, &go);
    }
    struct pollfd p = {.fd = *listener, .events = POLLIN};
    (void)poll(&p, 1, -1);
    close(CONTROL);
    watch(&w, *listener, dir);
    int status = 0;
    (void)waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
