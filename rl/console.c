// SPDX-License-Identifier: Apache-2.0
#include "rl/console.h"

#include "base/log.h"
#include "base/str.h"
#include "base/team.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void console_run(const char *run, const struct policy *p, const struct device *dev)
{
    log_line(LOG_INFO, "run %s: %.2f M parameters, %.2f M active per token; %s, %d threads", run,
             (double)arch_num_parameters(&p->arch, false) / 1e6,
             (double)arch_num_parameters(&p->arch, true) / 1e6, dev->name, team_size(dev->team));
}

void console_stage(const char *name, const char *kind, int steps)
{
    if (strcmp(name, kind) == 0)
        log_line(LOG_INFO, "stage %s: %d steps", name, steps);
    else
        log_line(LOG_INFO, "stage %s (%s): %d steps", name, kind, steps);
}

static const char *short_name(const char *name)
{
    const char *slash = strrchr(name, '/');
    return slash != NULL ? slash + 1 : name;
}

// "process/prm_accuracy" is shown as "prm_accuracy", "process/reward" beside "reward" as it is.
static const char *label(const char *name, const char *const *shown)
{
    for (; *shown != NULL; shown++)
        if (*shown != name && strcmp(short_name(*shown), short_name(name)) == 0)
            return name;
    return short_name(name);
}

void console_step(const struct metrics_line *line, const char *const *shown, int steps,
                  double seconds, int logging_steps)
{
    struct strbuf text = {0};
    for (int i = 0; shown[i] != NULL; i++) {
        const double value = metrics_get(line, shown[i]);
        if (!isnan(value))
            strbuf_printf(&text, "  %s %.4g", label(shown[i], shown), value);
    }
    if (line->step == 1 || line->step == steps || line->step % logging_steps == 0)
        log_line(LOG_INFO, "%s %d/%d%s  %.2f s", line->stage, line->step, steps,
                 text.len ? text.data : "", metrics_get(line, "step_time"));
    char left[64];
    snprintf(left, sizeof left, "%s, %.0f s left", line->stage,
             seconds / line->step * (steps - line->step));
    log_progress(line->step, steps, left);
    if (line->step == steps)
        log_progress_end();
    strbuf_free(&text);
}

void console_evaluation(const struct evaluation *e, const char *stage, int step)
{
    for (int i = 0; i < e->num_groups; i++) {
        const struct evaluate_group *g = &e->groups[i];
        struct strbuf text = {0};
        strbuf_printf(&text, "pass@1 %.3f [%.3f, %.3f]", g->pass_at_1.mean, g->pass_at_1.low,
                      g->pass_at_1.high);
        for (int k = 0; k < g->num_k; k++)
            if (g->k[k] != 1)
                strbuf_printf(&text, "  pass@%d %.3f", g->k[k], g->pass_at_k[k]);
        if (!isnan(g->best_of_n))
            strbuf_printf(&text, "  best of n by prm %.3f", g->best_of_n);
        if (g->unscorable > 0)
            strbuf_printf(&text, "  %d samples unscorable", g->unscorable);
        if (g->weak > 0)
            strbuf_printf(&text, "  %d programs judged weakly", g->weak);
        log_line(LOG_INFO, "eval %s %d: %s: %s  (%d items)", stage, step, g->name, text.data,
                 g->tasks);
        strbuf_free(&text);
    }
}

void console_done(const char *run, double seconds)
{
    log_line(LOG_INFO, "done in %.0f s: %s (metrics.jsonl, traces/, checkpoints/)", seconds, run);
}
