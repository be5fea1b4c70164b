// SPDX-License-Identifier: Apache-2.0
// What the cache of generation takes, as allocated: pages are asked of the device, and their bytes
// a token are held to those of an expanded multi-head cache (arXiv:2405.04434, table 1).
#include "base/error.h"
#include "kernels/device.h"
#include "policy/kvcache.h"
#include "rollout/batcher.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

// The dimensions of DeepSeek-V2-Lite that a cache depends on (its config.json).
static const struct arch v2_lite = {.kind = ARCH_DEEPSEEK_V2,
                                    .L = 27,
                                    .H = 16,
                                    .R = 512,
                                    .Dn = 128,
                                    .Dr = 64,
                                    .Dv = 128,
                                    .C = 2048,
                                    .V = 102400};

static size_t asked; // bytes of the last allocation

static int (*alloc_of_device)(struct device *dev, void **out, size_t bytes);

static int counted_alloc(struct device *dev, void **out, size_t bytes)
{
    asked = bytes;
    return alloc_of_device(dev, out, bytes);
}

static double bytes_a_token(const struct arch *a, enum dtype type, int prompt, int n, int tokens)
{
    const struct rollout_request q = {
        .prompt_len = prompt, .n = n, .sampling = {.max_tokens = tokens}};
    struct device *dev = NULL;
    struct kv_cache *cache = NULL;
    assert_int_equal(device_open(&dev, NULL, DEVICE_REFERENCE), 0);
    struct device_memory counted = *dev->memory;
    alloc_of_device = counted.alloc;
    counted.alloc = counted_alloc;
    dev->memory = &counted;
    assert_int_equal(kv_cache_open(&cache, dev, a, type, (int)batcher_pages_all(&q)), 0);
    kv_cache_free(&cache);
    device_free(&dev);
    return (double)asked / ((double)prompt + (double)n * tokens - n);
}

static void pages_of_v2_lite_take_an_eighth_of_expanded_heads(void **state)
{
    (void)state;
    for (enum dtype type = DTYPE_F32; type <= DTYPE_BF16; type++) {
        const double heads = (double)v2_lite.H * (v2_lite.Dn + v2_lite.Dr + v2_lite.Dv) *
                             v2_lite.L * (double)dtype_size(type);
        const double one = bytes_a_token(&v2_lite, type, 512, 1, 512) / heads;
        const double group = bytes_a_token(&v2_lite, type, 300, 8, 700) / heads;
        const double full = bytes_a_token(&v2_lite, type, 4096, 1, 4096) / heads;
        print_message(
            "# %d bytes a value: %.4f of expanded heads for a sample of 512 + 512 tokens, "
            "%.4f for 8 of 300 + 700, %.4f for 4096 + 4096\n",
            (int)dtype_size(type), one, group, full);
        assert_true(one <= 0.125 && group <= 0.125 && full <= 0.125);
        assert_true(full >= 576.0 / 5120); // what the rows alone are
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_of_v2_lite_take_an_eighth_of_expanded_heads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
