// SPDX-License-Identifier: Apache-2.0
#include "rl/rundir.h"

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

char *rundir_file(const struct rundir *run, const char *name) { return path_join(run->path, name); }

// The lock file holds the pid of its owner, for the message of the one that comes second.
static int take_lock(struct rundir *run)
{
    char *path = rundir_file(run, "lock");
    int rc = 0;
    run->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (run->lock < 0) {
        rc = err_set(ERR_WRITE, "'%s': %s", path, strerror(errno));
        goto out;
    }
    char owner[32] = "";
    if (flock(run->lock, LOCK_EX | LOCK_NB) != 0) {
        const ssize_t n = read(run->lock, owner, sizeof owner - 1);
        owner[n > 0 ? n : 0] = '\0';
        rc = err_set(ERR_CONFIG, "run directory '%s' is in use by process %s", run->path,
                     owner[0] ? owner : "(unknown)");
        goto out;
    }
    const int len = snprintf(owner, sizeof owner, "%ld", (long)getpid());
    if (ftruncate(run->lock, 0) != 0 || pwrite(run->lock, owner, (size_t)len, 0) != len)
        rc = err_set(ERR_WRITE, "'%s': %s", path, strerror(errno));
out:
    free(path);
    return rc;
}

static int make_folders(const struct rundir *run)
{
    static const char *const folders[] = {"traces", "checkpoints", "log"};
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        char *path = rundir_file(run, folders[i]);
        const int rc = dir_make_all(path);
        free(path);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int rundir_open(struct rundir **out, const char *path, bool resume)
{
    struct rundir *run = mem_alloc0(sizeof *run);
    run->lock = -1;
    run->path = mem_strdup(path);
    char *config = rundir_file(run, "config.json");
    const bool used = file_exists(config);
    int rc = 0;
    if (used && !resume)
        rc = err_set(ERR_CONFIG,
                     "run directory '%s' holds a run already: go on with it (--resume), take "
                     "another name (--run DIR), or delete it",
                     path);
    else if (!used && resume)
        rc = err_set(ERR_CONFIG, "'%s' holds no run to resume (no config.json)", path);
    if (rc == 0)
        rc = dir_make_all(path);
    if (rc == 0)
        rc = take_lock(run);
    if (rc == 0)
        rc = make_folders(run);
    free(config);
    if (rc != 0) {
        rundir_close(&run);
        return rc;
    }
    *out = run;
    return 0;
}

void rundir_close(struct rundir **run)
{
    if (*run == NULL)
        return;
    if ((*run)->lock >= 0)
        close((*run)->lock);
    free((*run)->path);
    free(*run);
    *run = NULL;
}

int rundir_write_status(const struct rundir *run, enum rundir_state state, double seconds,
                        const struct rundir_stage *stages, int num_stages)
{
    static const char *const names[] = {"running", "done", "failed", "interrupted"};
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_begin_object(&w);
    json_put_key(&w, "state");
    json_put_string(&w, names[state]);
    json_put_key(&w, "seconds");
    json_put_double(&w, seconds);
    json_put_key(&w, "stages");
    json_begin_array(&w);
    for (int i = 0; i < num_stages; i++) {
        json_begin_object(&w);
        json_put_key(&w, "name");
        json_put_string(&w, stages[i].name);
        json_put_key(&w, "steps");
        json_put_int(&w, stages[i].steps);
        json_put_key(&w, "seconds");
        json_put_double(&w, stages[i].seconds);
        json_end_object(&w);
    }
    json_end_array(&w);
    json_end_object(&w);
    strbuf_putc(&text, '\n');
    char *path = rundir_file(run, "status.json");
    const int rc = file_write_atomic(path, text.data, text.len);
    free(path);
    strbuf_free(&text);
    return rc;
}

void rundir_open_log(const struct rundir *run)
{
    for (int attempt = 1;; attempt++) {
        char name[48];
        snprintf(name, sizeof name, "log/attempt-%d.log", attempt);
        char *path = rundir_file(run, name);
        const bool free_name = !file_exists(path);
        if (free_name)
            log_open_file(path);
        free(path);
        if (free_name)
            return;
    }
}
