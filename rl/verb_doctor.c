// SPDX-License-Identifier: Apache-2.0
// gradus doctor: what this machine can do. It finds out by doing: the sandbox is built and taken
// down again.
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "base/team.h"
#include "kernels/comm.h"
#include "kernels/device.h"
#include "kernels/device_cuda.h"
#include "rl/verb.h"
#include "rl/version.h"
#include "sandbox/sandbox.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct machine {
    char processor[128];
    int cores;                        // that this process may use
    int online;                       // of the machine
    int64_t memory, available, limit; // bytes; 0: not known, or no limit
    int slots;                        // of the sandbox; 0: it cannot be built
    char refusal[1024];               // why
    int gpus;                         // that CUDA finds
    char no_gpu[256];                 // why there is none
};

// The text after "KEY" and a colon on the first line that begins so, up to the line's end.
static void find_line(char *out, size_t size, const char *text, const char *key)
{
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        line += strcspn(line, ":\n");
        line += strspn(line, ": \t");
        snprintf(out, size, "%.*s", (int)strcspn(line, "\n"), line);
        return;
    }
}

static int64_t read_kib(const char *text, const char *key)
{
    char value[32] = "";
    find_line(value, sizeof value, text, key);
    return strtoll(value, NULL, 10) * 1024;
}

static void read_memory(struct machine *m)
{
    struct strbuf text = {0};
    if (file_read(&text, "/proc/meminfo", 0, ERR_ENV) == 0) {
        m->memory = read_kib(text.data, "MemTotal");
        m->available = read_kib(text.data, "MemAvailable");
    }
    strbuf_clear(&text);
    long long limit = 0;
    if (file_read(&text, "/sys/fs/cgroup/memory.max", 64, ERR_ENV) == 0 && text.len > 0) {
        text.data[strcspn(text.data, "\n")] = 0;
        if (str_to_int(text.data, 0, INT64_MAX, &limit)) // "max": there is none
            m->limit = limit;
    }
    strbuf_free(&text);
}

static int examine(struct machine *m)
{
    struct strbuf text = {0};
    strcpy(m->processor, "unknown");
    if (file_read(&text, "/proc/cpuinfo", 0, ERR_ENV) == 0)
        find_line(m->processor, sizeof m->processor, text.data, "model name");
    strbuf_free(&text);
    struct team *team = NULL;
    const int rc = team_open(&team, 0);
    if (rc != 0)
        return rc;
    m->cores = team_size(team);
    team_close(&team);
    m->online = (int)sysconf(_SC_NPROCESSORS_ONLN);
    read_memory(m);
    struct sandbox *sandbox = NULL;
    if (sandbox_open(&sandbox, NULL) == 0)
        m->slots = sandbox_slots(sandbox);
    else
        snprintf(m->refusal, sizeof m->refusal, "%s", err_message());
    sandbox_close(&sandbox);
    m->gpus = device_cuda_count();
    if (m->gpus == 0)
        snprintf(m->no_gpu, sizeof m->no_gpu, "%s", err_message());
    return 0;
}

static void put_gpu(struct json_writer *w, int index)
{
    struct device_cuda_info gpu;
    const int rc = device_cuda_info(&gpu, index);
    json_begin_object(w);
    json_put_key(w, "name");
    json_put_string(w, rc == 0 ? gpu.name : err_message());
    if (rc == 0) {
        json_put_key(w, "compute_capability");
        json_put_double(w, gpu.arch / 10.0);
        json_put_key(w, "multiprocessors");
        json_put_int(w, gpu.num_sms);
        json_put_key(w, "memory");
        json_put_int(w, (int64_t)gpu.memory);
        json_put_key(w, "memory_available");
        json_put_int(w, (int64_t)gpu.memory_free);
    }
    json_end_object(w);
}

static void print_json(const struct machine *m)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_begin_object(&w);
    json_put_key(&w, "version");
    json_put_string(&w, GRADUS_VERSION);
    json_put_key(&w, "commit");
    json_put_string(&w, GRADUS_COMMIT);
    json_put_key(&w, "processor");
    json_put_string(&w, m->processor);
    json_put_key(&w, "cores");
    json_put_int(&w, m->cores);
    json_put_key(&w, "instruction_set");
    json_put_string(&w, device_isa_name(device_best_isa()));
    json_put_key(&w, "memory");
    json_put_int(&w, m->memory);
    json_put_key(&w, "memory_available");
    json_put_int(&w, m->available);
    json_put_key(&w, "memory_limit");
    json_put_int(&w, m->limit);
    json_put_key(&w, "sandbox");
    json_put_bool(&w, m->slots > 0);
    json_put_key(&w, "sandbox_refusal");
    json_put_string(&w, m->refusal);
    json_put_key(&w, "gpus");
    json_begin_array(&w);
    for (int i = 0; i < m->gpus; i++)
        put_gpu(&w, i);
    json_end_array(&w);
    json_put_key(&w, "no_gpu");
    json_put_string(&w, m->no_gpu);
    json_put_key(&w, "mpi");
    json_put_bool(&w, comm_have_mpi());
    json_put_key(&w, "nccl");
    json_put_bool(&w, comm_have_nccl());
    json_put_key(&w, "libraries");
    json_put_string(&w, GRADUS_LIBRARIES);
    json_end_object(&w);
    printf("%s\n", text.data);
    strbuf_free(&text);
}

static void print_gpus(const struct machine *m)
{
    const double gib = 1024.0 * 1024 * 1024;
    struct device_cuda_info gpu;
    if (m->gpus == 0)
        printf("GPU          none: %s\n", m->no_gpu);
    for (int i = 0; i < m->gpus; i++) {
        if (device_cuda_info(&gpu, i) == 0)
            printf("GPU          %d: %s, compute capability %d.%d, %d multiprocessors; %.1f GiB, "
                   "%.1f GiB available; CUDA %d.%d, driver for %d.%d\n",
                   i, gpu.name, gpu.arch / 10, gpu.arch % 10, gpu.num_sms, (double)gpu.memory / gib,
                   (double)gpu.memory_free / gib, gpu.runtime / 1000, gpu.runtime % 1000 / 10,
                   gpu.driver / 1000, gpu.driver % 1000 / 10);
        else
            printf("GPU          %d: %s\n", i, err_message());
    }
}

static void print_text(const struct machine *m)
{
    const double gib = 1024.0 * 1024 * 1024;
    printf("gradus       %s (%s)\n", GRADUS_VERSION, GRADUS_COMMIT);
    printf("processor    %s; %d of %d cores; instruction set %s\n", m->processor, m->cores,
           m->online, device_isa_name(device_best_isa()));
    printf("memory       %.1f GiB, %.1f GiB available", (double)m->memory / gib,
           (double)m->available / gib);
    if (m->limit > 0)
        printf(", this process is limited to %.1f GiB", (double)m->limit / gib);
    if (m->slots > 0)
        printf("\nsandbox      works: namespaces, seccomp, resource limits; %d programs at once\n",
               m->slots);
    else
        printf("\nsandbox      no: %s\n", m->refusal);
    print_gpus(m);
    printf("distributed  yes: by sockets%s%s\n", comm_have_mpi() ? ", by MPI" : "",
           comm_have_nccl() ? "; between GPUs by NCCL" : "");
    printf("libraries    %s\n", GRADUS_LIBRARIES);
}

int verb_doctor(int argc, char **argv)
{
    bool json = false, done = false;
    const struct option options[] = {
        {"--json", NULL, OPTION_FLAG, &json, 0, 0, false, "one JSON object"}, {0}};
    int rc = options_parse(options, argc, argv, "Says what this machine can do.", &done);
    if (rc != 0 || done)
        return rc;
    struct machine m = {0};
    rc = examine(&m);
    if (rc != 0)
        return rc;
    if (json)
        print_json(&m);
    else
        print_text(&m);
    return 0;
}
