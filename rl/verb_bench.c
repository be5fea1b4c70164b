// SPDX-License-Identifier: Apache-2.0
// gradus bench: speed on this machine, beside what the machine does at most.
#include "base/error.h"
#include "rl/bench.h"
#include "rl/bench_kernels.h"
#include "rl/bench_model.h"
#include "rl/bench_passes.h"
#include "rl/bench_sandbox.h"
#include "rl/verb.h"

#include <stdio.h>
#include <string.h>

enum what { KERNELS, ROLLOUT, UPDATE, SANDBOX, UNKNOWN };

static enum what find_what(const char *name)
{
    static const char *const names[] = {"kernels", "rollout", "update", "sandbox"};
    int i = 0;
    while (i < UNKNOWN && strcmp(names[i], name) != 0)
        i++;
    return (enum what)i;
}

static int run(enum what what, const struct bench_options *o, const char *model,
               const struct bench_generation *generation, int tokens)
{
    struct bench b = {0};
    struct arch arch = {0};
    int rc = 0;
    if (what != KERNELS) // before a device is measured
        rc = bench_model_arch(&arch, model ? model : o->gpu ? "v2-lite:8" : "small");
    if (rc == 0)
        rc = bench_open(&b, o);
    if (rc == 0 && what != KERNELS && !o->json)
        printf("%.1f million parameters, %.1f million of them active\n",
               (double)arch_num_parameters(&arch, false) / 1e6,
               (double)arch_num_parameters(&arch, true) / 1e6);
    if (rc == 0)
        rc = what == KERNELS   ? bench_kernels(&b, o->only)
             : what == ROLLOUT ? bench_rollout(&b, &arch, generation)
                               : bench_update(&b, &arch, tokens, generation->group);
    bench_close(&b);
    return rc;
}

int verb_bench(int argc, char **argv)
{
    const char *name = NULL, *model = NULL;
    int tokens = 0;
    struct bench_generation generation = {0};
    struct bench_options o = {0};
    bool done = false;
    const struct option options[] = {
        {"WHAT", NULL, OPTION_STRING, &name, 0, 0, true, "kernels, rollout, update or sandbox"},
        {"--gpu", NULL, OPTION_FLAG, &o.gpu, 0, 0, false, "on the first GPU instead of the CPU"},
        {"--dtype", "TYPE", OPTION_STRING, &o.type, 0, 0, false,
         "float32 or bfloat16, of what matrix products read (float32; bfloat16 on a GPU)"},
        {"--model", "MODEL", OPTION_STRING, &model, 0, 0, false,
         "of rollout and update: a preset (tiny, small, medium, v2-lite; fewer layers as "
         "v2-lite:8), "
         "or a config.json (small; v2-lite:8 on a GPU)"},
        {"--tokens", "N", OPTION_INT, &tokens, 0, 1 << 24, false,
         "of update: tokens that go through the model at once (4096)"},
        {"--batch", "B", OPTION_INT, &generation.batch, 0, 1 << 16, false,
         "of rollout: sequences at once (0: several sizes in turn)"},
        {"--prompt", "P", OPTION_INT, &generation.prompt, 0, 1 << 20, false,
         "of rollout: tokens of a prompt (128)"},
        {"--group", "G", OPTION_INT, &generation.group, 0, 1 << 12, false,
         "samples that share a prompt (1; of update 8)"},
        {"--threads", "N", OPTION_INT, &o.threads, 0, 4096, false,
         "of the kernels, or slots of the sandbox; 0: as many as this process may use (0)"},
        {"--isa", "NAME", OPTION_STRING, &o.isa, 0, 0, false,
         "reference, avx2, avx512, avx512bf16 or amx; default: the best of this CPU"},
        {"--only", "TEXT", OPTION_STRING, &o.only, 0, 0, false,
         "of kernels and the sandbox: cases whose name holds it"},
        {"--json", NULL, OPTION_FLAG, &o.json, 0, 0, false, "one JSON object a case"},
        {0}};
    const int rc =
        options_parse(options, argc, argv,
                      "Speed on this machine, with the share of what it does at most.", &done);
    if (rc != 0 || done)
        return rc;
    const enum what what = find_what(name);
    if (what == UNKNOWN)
        return err_set(ERR_CONFIG,
                       "bench: unknown bench \"%s\"; there are: kernels, rollout, update, sandbox",
                       name);
    return what == SANDBOX ? bench_sandbox(o.threads, o.only, o.json)
                           : run(what, &o, model, &generation, tokens);
}
