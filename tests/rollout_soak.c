// SPDX-License-Identifier: Apache-2.0
// Many short requests over a small cache, with cancelled requests, runs that are stopped and runs
// that meet an error: every page must come back, and memory must not grow. usage: rollout_soak
// [REQUESTS] (5000); speaks TAP. The long run is `rollout_soak 100000`.
#include "base/error.h"
#include "base/mem.h"
#include "base/philox.h"
#include "base/team.h"
#include "rollout/rollout.h"
#include "tests/rollout_fixture.h"

#include <stdio.h>
#include <unistd.h>

enum { A_RUN = 50, LEN_MAX = 3 * KV_PAGE, SHARED = 2 * KV_PAGE, WARM = 20 };

struct soak {
    struct model m;
    struct rollout_engine *e;
    struct philox_stream random;
    int prompts[A_RUN][LEN_MAX];
    struct rollout_request requests[A_RUN];
    int calls, stop_at, cancel_every;
    int64_t samples, cancelled, stopped, failed, tokens, shared;
};

static size_t resident_bytes(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%*d %ld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

static int below(struct soak *s, int n) { return (int)philox_below(&s->random, (uint32_t)n); }

static void make_requests(struct soak *s)
{
    for (int r = 0; r < A_RUN; r++) {
        const int len = below(s, 4) ? 1 + below(s, 20) : 1 + below(s, LEN_MAX);
        for (int i = 0; i < len; i++) // long ones begin alike
            s->prompts[r][i] = i < SHARED && len > 20 ? i % VOCAB : below(s, VOCAB);
        s->requests[r] = (struct rollout_request){
            .prompt = s->prompts[r],
            .prompt_len = len,
            .n = 1 + below(s, 3),
            .id = (uint64_t)r,
            .sampling = {.temperature = 1, .top_p = 1, .max_tokens = 1 + below(s, 8)}};
    }
}

static int on_sample(void *arg, const struct rollout_sample *sample)
{
    struct soak *s = arg;
    s->samples++;
    s->tokens += sample->len;
    s->cancelled += sample->finish == ROLLOUT_CANCELLED;
    s->calls++;
    if (s->cancel_every > 0 && s->calls % s->cancel_every == 0)
        rollout_cancel(s->e, below(s, A_RUN));
    return s->calls == s->stop_at ? err_set(ERR_INTERRUPTED, "enough") : 0;
}

// A run; true when it ended as it had to and gave every page back.
static bool one_run(struct soak *s, int number)
{
    const struct rollout_sample *out = NULL;
    struct rollout_stats stats;
    int count = 0, expected = 0;
    make_requests(s);
    s->calls = 0;
    s->cancel_every = number % 3 == 1 ? 5 : 0;
    s->stop_at = number % 5 == 2 ? 1 + below(s, A_RUN) : 0;
    expected = s->stop_at > 0 ? ERR_INTERRUPTED : 0;
    if (number % 7 == 3) { // refused, after others were accepted
        s->requests[A_RUN - 1].sampling.max_tokens = POSITIONS;
        expected = ERR_CONFIG;
    }
    const int rc =
        rollout_run(&out, &count, s->e, (uint64_t)number, s->requests, A_RUN, on_sample, s);
    rollout_get_stats(s->e, &stats);
    s->stopped += rc == ERR_INTERRUPTED;
    s->failed += rc == ERR_CONFIG;
    s->shared += stats.shared_tokens;
    return rc == expected && stats.held_pages == 0;
}

static bool soak(struct soak *s, int runs)
{
    const struct rollout_options options = {
        .seed = 1, .max_batch = 16, .cache_tokens = 24 * KV_PAGE, .prefill_tokens = 200};
    size_t warm = 0;
    s->m = open_model(ARCH_DEEPSEEK_V3, DEVICE_BEST, 2);
    s->e = open_engine(&s->m, &options);
    s->random = philox_stream(20261127, 2);
    bool right = true;
    for (int i = 0; i < runs && right; i++) {
        right = one_run(s, i);
        if (i == WARM)
            warm = resident_bytes();
    }
    const size_t end = resident_bytes();
    rollout_free(&s->e);
    close_model(&s->m);
    printf("# %lld samples, %lld tokens, %lld prompt tokens shared; %lld samples cancelled, %lld "
           "runs stopped, %lld refused; %.1f MiB resident after %d runs, %.1f at the end\n",
           (long long)s->samples, (long long)s->tokens, (long long)s->shared,
           (long long)s->cancelled, (long long)s->stopped, (long long)s->failed,
           (double)warm / (1 << 20), WARM, (double)end / (1 << 20));
    // What an allocator keeps may move by a little; a leak of one small block a request would show.
    return right && end <= warm + (size_t)(1 << 20) && s->cancelled > 0 && s->shared > 0;
}

int main(int argc, char **argv)
{
    const int requests = argc > 1 ? atoi(argv[1]) : 5000;
    struct soak *s = mem_alloc0(sizeof *s);
    const bool right = soak(s, requests / A_RUN);
    printf("1..1\n%sok 1 - %d requests leave no page and no memory behind\n", right ? "" : "not ",
           requests);
    free(s);
    return !right;
}
