// SPDX-License-Identifier: Apache-2.0
// gradus bench: speed on this machine, beside what the machine does at most.
#include "base/error.h"
#include "rl/bench.h"
#include "rl/bench_kernels.h"
#include "rl/bench_sandbox.h"
#include "rl/verb.h"

#include <string.h>

int verb_bench(int argc, char **argv)
{
    const char *what = NULL;
    struct bench_options o = {0};
    bool done = false;
    const struct option options[] = {
        {"WHAT", NULL, OPTION_STRING, &what, 0, 0, true, "kernels or sandbox"},
        {"--gpu", NULL, OPTION_FLAG, &o.gpu, 0, 0, false, "on the first GPU instead of the CPU"},
        {"--dtype", "TYPE", OPTION_STRING, &o.type, 0, 0, false,
         "float32 or bfloat16, of what feeds matrix products (float32; bfloat16 on a GPU)"},
        {"--threads", "N", OPTION_INT, &o.threads, 0, 4096, false,
         "of the kernels, or slots of the sandbox; 0: as many as this process may use (0)"},
        {"--isa", "NAME", OPTION_STRING, &o.isa, 0, 0, false,
         "reference, avx2 or avx512; default: the best of this CPU"},
        {"--json", NULL, OPTION_FLAG, &o.json, 0, 0, false, "one JSON object a case"},
        {0}};
    int rc = options_parse(options, argc, argv,
                           "Speed on this machine, with the share of what it does at most.", &done);
    if (rc != 0 || done)
        return rc;
    if (strcmp(what, "sandbox") == 0)
        return bench_sandbox(o.threads, o.json);
    if (strcmp(what, "kernels") != 0)
        return err_set(ERR_CONFIG, "bench: unknown bench \"%s\"; there are: kernels, sandbox",
                       what);
    struct bench b;
    rc = bench_open(&b, &o);
    if (rc == 0)
        rc = bench_kernels(&b);
    bench_close(&b);
    return rc;
}
