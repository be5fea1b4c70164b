// SPDX-License-Identifier: Apache-2.0
#include "reward/prm.h"

#include "base/error.h"
#include "base/mem.h"
#include "reward/split.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

struct prm_scorer {
    struct policy *policy;
    struct prm_scorer_options options;
    struct pack pack;
    float *score; // [cap_score] of a micro-batch
    int cap_score;
};

static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

static double aggregate(enum prm_aggregate how, const struct reward_step *steps, int n)
{
    double min = 1.0, product = 1.0, sum = 0.0;
    for (int j = 0; j < n; j++) {
        min = fmin(min, steps[j].value);
        product *= steps[j].value;
        sum += steps[j].value;
    }
    switch (how) {
    case PRM_MIN:
        return min;
    case PRM_PRODUCT:
        return product;
    case PRM_LAST:
        return steps[n - 1].value;
    case PRM_MEAN:
        return sum / n;
    }
    return min;
}

// Finds the steps of one item and asks for a value at each.
static void ask_item(struct prm_scorer *s, struct arena *a, struct reward_result *out,
                     const struct reward_item *item)
{
    *out = (struct reward_result){.first_wrong = -1};
    if (item->tokens == NULL || item->token_ends == NULL || item->num_prompt_tokens < 1) {
        reward_set_unscorable(out, "the process reward model needs the tokens of the completion");
        return;
    }
    out->num_steps = steps_split(&out->steps, a, item->completion, item->len, s->options.separator,
                                 item->token_ends, item->num_tokens);
    if (out->num_steps == 0) { // nothing in it can be right
        reward_set_value(out, 0.0);
        return;
    }
    const int row = pack_sequence(&s->pack, item->prompt_tokens, item->num_prompt_tokens,
                                  item->tokens, item->num_tokens);
    for (int j = 0; j < out->num_steps; j++)
        pack_target(&s->pack, row + item->num_prompt_tokens + out->steps[j].token, 0, 1.0f);
}

// Runs the packed items [first, end) and writes their step values.
static int run_pack(struct prm_scorer *s, struct reward_result *out, int first, int end)
{
    const struct policy_batch batch = pack_batch(&s->pack);
    if (batch.num_targets == 0)
        return 0;
    if (batch.num_targets > s->cap_score) {
        s->cap_score = batch.num_targets;
        s->score = mem_realloc(s->score, (size_t)s->cap_score * sizeof *s->score);
    }
    const int rc = policy_forward_values(s->policy, &batch, /* train= */ false, s->score);
    if (rc != 0)
        return rc;
    const float *score = s->score;
    for (int i = first; i < end; i++) {
        struct reward_result *r = &out[i];
        if (r->num_steps == 0)
            continue;
        for (int j = 0; j < r->num_steps; j++) {
            r->steps[j].value = sigmoid((double)*score++);
            r->steps[j].valid = true;
            if (r->first_wrong < 0 && r->steps[j].value < 0.5)
                r->first_wrong = j;
        }
        r->value = aggregate(s->options.aggregate, r->steps, r->num_steps);
        r->valid = true;
    }
    pack_clear(&s->pack);
    return 0;
}

static int score_items(void *state, struct arena *a, struct reward_result *out,
                       const struct reward_item *items, int n)
{
    struct prm_scorer *s = state;
    pack_clear(&s->pack);
    int first = 0;
    for (int i = 0; i < n; i++) {
        const int len = items[i].num_prompt_tokens + items[i].num_tokens;
        if (!pack_has_room(&s->pack, len, s->options.micro_batch_tokens)) {
            const int rc = run_pack(s, out, first, i);
            if (rc != 0)
                return rc;
            first = i;
        }
        ask_item(s, a, &out[i], &items[i]);
    }
    return run_pack(s, out, first, n);
}

static void scorer_close(void *state)
{
    struct prm_scorer *s = state;
    pack_free(&s->pack);
    free(s->score);
    free(s);
}

int prm_scorer_open(struct reward_scorer *out, struct policy *p,
                    const struct prm_scorer_options *options)
{
    if (!p->arch.value_head)
        return err_set(ERR_MODEL, "a process reward model needs score.weight and score.bias, "
                                  "which this model does not have");
    struct prm_scorer *s = mem_alloc0(sizeof *s);
    s->policy = p;
    s->options = *options;
    *out = (struct reward_scorer){"prm", score_items, scorer_close, s};
    return 0;
}

// ---- training

// Cross-entropy of one value against a label, stable for large values, and its derivative.
static double cross_entropy(double score, double label, double *derivative)
{
    *derivative = sigmoid(score) - label;
    return fmax(score, 0.0) - score * label + log1p(exp(-fabs(score)));
}

static void count_step(struct prm_loss *out, double score, double label)
{
    const bool positive = label > 0.5, found = score > 0.0;
    out->num_steps++;
    out->num_right += positive == found;
    out->num_positive += positive;
    out->right_positive += positive && found;
}

static bool labelled(const struct prm_example *e, int j)
{
    return e->label[j] >= 0.0f && e->token[j] >= 0;
}

// Forward and backward of the examples [first, end), which are in the pack.
static int train_pack(struct prm_loss *out, struct policy *p, const struct pack *pack,
                      const struct prm_example *examples, int first, int end, double batch_labels)
{
    const struct policy_batch batch = pack_batch(pack);
    if (batch.num_targets == 0 && p->balance_weight == 0.0)
        return 0;
    float *score = mem_alloc((size_t)batch.num_targets * 2 * sizeof *score);
    float *dscore = score + batch.num_targets;
    int rc = policy_forward_values(p, &batch, /* train= */ true, score);
    if (rc != 0)
        goto out;
    int k = 0;
    for (int i = first; i < end; i++) {
        const struct prm_example *e = &examples[i];
        for (int j = 0; j < e->num_labels; j++) {
            if (!labelled(e, j))
                continue;
            double derivative;
            const double value = (double)score[k], label = (double)e->label[j];
            out->loss += cross_entropy(value, label, &derivative) / batch_labels;
            e->value[j] = score[k];
            dscore[k++] = (float)(derivative / batch_labels);
            if (e->step_end[j])
                count_step(out, value, label);
        }
    }
    assert(k == batch.num_targets);
    rc = policy_backward_values(p, &batch, dscore);
out:
    free(score);
    return rc;
}

int64_t prm_num_labels(const struct prm_example *examples, int n)
{
    int64_t labels = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < examples[i].num_labels; j++)
            labels += labelled(&examples[i], j);
    return labels;
}

int prm_train_batch(struct prm_loss *out, struct policy *p, const struct prm_example *examples,
                    int n, int64_t batch_labels, int micro_batch_tokens)
{
    struct prm_loss loss = {.num_labels = prm_num_labels(examples, n)};
    struct pack pack = {0};
    int rc = 0, first = 0;
    for (int i = 0; i < n && rc == 0; i++) {
        const struct prm_example *e = &examples[i];
        if (!pack_has_room(&pack, e->prompt_len + e->len, micro_batch_tokens)) {
            rc = train_pack(&loss, p, &pack, examples, first, i, (double)batch_labels);
            pack_clear(&pack);
            first = i;
        }
        const int row = pack_sequence(&pack, e->prompt, e->prompt_len, e->completion, e->len);
        for (int j = 0; j < e->num_labels; j++)
            if (labelled(e, j))
                pack_target(&pack, row + e->prompt_len + e->token[j], 0, 1.0f);
    }
    if (rc == 0)
        rc = train_pack(&loss, p, &pack, examples, first, n, (double)batch_labels);
    pack_free(&pack);
    if (rc == 0)
        *out = loss;
    return rc;
}
