// SPDX-License-Identifier: Apache-2.0
// Ranks whose weights come apart in the middle of a run are found and named.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json.h"
#include "rl/agree.h"
#include "tests/devices.h"
#include "tests/ranks.h"

static const char arch_text[] =
    "{\"model_type\": \"deepseek_v2\", \"vocab_size\": 64, \"hidden_size\": 16,"
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"q_lora_rank\": null,"
    " \"kv_lora_rank\": 8, \"qk_nope_head_dim\": 4, \"qk_rope_head_dim\": 4, \"v_head_dim\": 4,"
    " \"intermediate_size\": 16, \"first_k_dense_replace\": 1, \"n_routed_experts\": null,"
    " \"max_position_embeddings\": 32, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0,"
    " \"tie_word_embeddings\": true, \"initializer_range\": 0.02, \"hidden_act\": \"silu\"}";

// Flips the lowest bit of the last weight of a tensor.
static void flip(struct policy *p, const char *name)
{
    const struct param *q = params_find(&p->params, "%s", name);
    float *at = p->params.data + q->offset + q->size - 1;
    uint32_t bits;
    device_get(p->dev, &bits, at, sizeof bits);
    bits ^= 1;
    device_put(p->dev, at, &bits, sizeof bits);
}

static int rank_flips_a_bit(struct comm *c, void *arg)
{
    (void)arg;
    struct trainer t = {.comm = c};
    struct json_doc *doc = NULL;
    struct arch arch;
    int faults = 0;
    CHECK(test_device_open(&t.dev, NULL, DEVICE_FENCED) == 0);
    CHECK(json_parse(&doc, arch_text, strlen(arch_text), 0, "arch", 1, ERR_MODEL) == 0);
    CHECK(arch_from_json(&arch, doc, json_root(doc), "arch", ERR_MODEL) == 0);
    CHECK(policy_create(&t.policy, t.dev, &arch, DTYPE_F32, 1) == 0);
    t.optimized = t.policy;
    CHECK(agree_weights(&t) == 0);
    if (c->rank == 2)
        flip(t.policy, "model.norm.weight");
    CHECK(agree_weights(&t) == ERR_CHECK);
    CHECK(strstr(err_message(), "disagree in weights after the same steps (rank 2: "));
    json_free(&doc);
    policy_free(&t.policy);
    test_device_close(&t.dev);
    CHECK(comm_close(c, ERR_CHECK) == ERR_CHECK);
    return faults;
}

static void one_bit_of_one_weight_is_seen(void **state)
{
    (void)state;
    assert_int_equal(run_ranks(3, -1, rank_flips_a_bit, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_bit_of_one_weight_is_seen)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
