// SPDX-License-Identifier: Apache-2.0
#include "rl/launch.h"

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *variable(char *const *environment, const char *name)
{
    const size_t len = strlen(name);
    for (; *environment != NULL; environment++)
        if (strncmp(*environment, name, len) == 0 && (*environment)[len] == '=')
            return *environment + len + 1;
    return NULL;
}

// A number within [lo, hi]; fallback < 0: it must be there.
static int number(int *out, char *const *environment, const char *name, int lo, int hi,
                  int fallback)
{
    const char *text = variable(environment, name);
    long long value = fallback;
    if (text == NULL && fallback < 0)
        return err_set(ERR_CONFIG, "the launcher gives no %s", name);
    if (text != NULL && !str_to_int(text, lo, hi, &value))
        return err_set(ERR_CONFIG, "%s is \"%s\", not a whole number from %d to %d", name, text, lo,
                       hi);
    *out = (int)value;
    return 0;
}

#define RANKS_MAX 1000000

static int read_torchrun(struct launch *out, char *const *environment)
{
    struct comm_launch *c = &out->comm;
    int rc = number(&c->size, environment, "WORLD_SIZE", 1, RANKS_MAX, -1);
    if (rc == 0)
        rc = number(&c->rank, environment, "RANK", 0, c->size - 1, -1);
    if (rc == 0)
        rc = number(&c->local_size, environment, "LOCAL_WORLD_SIZE", 1, c->size, 1);
    if (rc == 0)
        rc = number(&c->local_rank, environment, "LOCAL_RANK", 0, c->local_size - 1, 0);
    if (rc == 0)
        rc = number(&c->port, environment, "MASTER_PORT", 1, 65534, -1);
    c->port++;
    c->address = variable(environment, "MASTER_ADDR");
    if (rc == 0 && c->address == NULL)
        rc = err_set(ERR_CONFIG, "the launcher gives no MASTER_ADDR");
    return rc;
}

// The first name of a list such as "node[07-09,12],other".
static void first_host(char *out, size_t size, const char *list)
{
    const size_t stem = strcspn(list, "[,"),
                 digits = list[stem] == '[' ? strcspn(list + stem, "-,]") : 0;
    snprintf(out, size, "%.*s%.*s", (int)stem, list, digits > 0 ? (int)digits - 1 : 0,
             list + stem + (digits > 0));
}

// Tasks on node `node` by a list such as "4(x2),3".
static int tasks_on(const char *list, int node)
{
    for (int at = 0; *list != '\0';) {
        char *end;
        const long tasks = strtol(list, &end, 10);
        long times = 1;
        if (end[0] == '(' && end[1] == 'x')
            times = strtol(end + 2, &end, 10);
        at += (int)times;
        if (node < at)
            return (int)tasks;
        list = end + strcspn(end, ",");
        list += *list == ',';
    }
    return 1;
}

static int read_slurm(struct launch *out, char *const *environment)
{
    struct comm_launch *c = &out->comm;
    const char *nodes = variable(environment, "SLURM_STEP_NODELIST");
    const char *tasks = variable(environment, "SLURM_STEP_TASKS_PER_NODE");
    const char *address = variable(environment, "MASTER_ADDR");
    int node = 0, job = 0;
    int rc = number(&c->size, environment, "SLURM_STEP_NUM_TASKS", 1, RANKS_MAX, -1);
    if (rc == 0)
        rc = number(&c->rank, environment, "SLURM_PROCID", 0, c->size - 1, -1);
    if (rc == 0)
        rc = number(&c->local_rank, environment, "SLURM_LOCALID", 0, c->size - 1, 0);
    if (rc == 0)
        rc = number(&node, environment, "SLURM_NODEID", 0, RANKS_MAX, 0);
    if (rc == 0)
        rc = number(&job, environment, "SLURM_JOB_ID", 0, INT32_MAX, 0);
    if (rc == 0)
        rc = number(&c->port, environment, "MASTER_PORT", 1, 65534, 20000 + job % 20000);
    c->port++;
    if (rc == 0 && address == NULL && nodes == NULL)
        rc = err_set(ERR_CONFIG, "SLURM gives neither SLURM_STEP_NODELIST nor MASTER_ADDR");
    if (rc != 0)
        return rc;
    c->local_size = tasks != NULL ? tasks_on(tasks, node) : 1;
    first_host(out->host, sizeof out->host, nodes != NULL ? nodes : "");
    c->address = address != NULL ? address : out->host;
    return 0;
}

int launch_read(struct launch *out, char *const *environment)
{
    *out = (struct launch){.comm = {.size = 1, .local_size = 1}};
    static const char *const mpi[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};
    for (size_t i = 0; i < sizeof mpi / sizeof mpi[0]; i++) {
        if (variable(environment, mpi[i]) == NULL)
            continue;
        const int rc = number(&out->comm.size, environment, mpi[i], 1, RANKS_MAX, -1);
        out->comm.mpi = out->comm.size > 1;
        return rc;
    }
    if (variable(environment, "RANK") != NULL || variable(environment, "WORLD_SIZE") != NULL)
        return read_torchrun(out, environment);
    if (variable(environment, "SLURM_STEP_NUM_TASKS") == NULL)
        return 0;
    const int rc = read_slurm(out, environment);
    out->comm.mpi =
        out->comm.size > 1 && comm_have_mpi() && variable(environment, "PMIX_RANK") != NULL;
    return rc;
}

// Ends a process that hangs outside of the exchanges, where no error could return through main.
static void abandon(int code, const char *message, bool report)
{
    if (report)
        log_line(LOG_ERROR, "%s", message);
    _exit(-code);
}

int launch_open(struct comm *out, char *const *environment)
{
    struct launch launch;
    int rc = launch_read(&launch, environment);
    if (rc != 0)
        return rc;
    *out = comm_single();
    if (launch.comm.size == 1)
        return 0;
    launch.comm.abandon = abandon;
    rc = comm_open(out, &launch.comm);
    if (rc == 0 && out->rank > 0)
        log_set_level(LOG_ERROR);
    return rc;
}

int launch_cpus(int *out, struct comm *c)
{
    char set_hash[33], host[128] = "";
    cpu_set_t set;
    if (c->size == 1) {
        *out = 0;
        return 0;
    }
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    hash_hex(set_hash, &set, sizeof set);
    gethostname(host, sizeof host - 1);
    struct strbuf mine = {0};
    strbuf_printf(&mine, "%s %s", host, set_hash);
    size_t *offset = mem_array0((size_t)c->size + 1, sizeof *offset);
    void *all = NULL;
    const int rc = comm_gather(c, COMM_CONTROL, mine.data, mine.len, &all, offset);
    int sharing = 0;
    for (int r = 0; r < c->size && rc == 0; r++)
        sharing += offset[r + 1] - offset[r] == mine.len &&
                   memcmp((const char *)all + offset[r], mine.data, mine.len) == 0;
    if (rc == 0)
        *out = CPU_COUNT(&set) > sharing ? CPU_COUNT(&set) / sharing : 1;
    strbuf_free(&mine);
    free(offset);
    free(all);
    return rc;
}
