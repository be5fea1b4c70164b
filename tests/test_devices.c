// SPDX-License-Identifier: Apache-2.0
// The fenced device catches what a GPU would not forgive: the host in the device's memory, and the
// host's memory in a kernel. Its kernels are otherwise those of the CPU.
#include "tests/devices.h"

#include "kernels/block.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { N = 100 };

static struct device *open_fenced(void)
{
    struct device *dev = NULL;
    assert_int_equal(test_device_open(&dev, NULL, DEVICE_FENCED), 0);
    return dev;
}

// Whether a function ends the process that runs it.
static bool dies(void (*f)(struct device *dev, float *there), struct device *dev, float *there)
{
    int status = 0;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); // cmocka's would go on with the next test
        signal(SIGBUS, SIG_DFL);
        signal(SIGABRT, SIG_DFL);
        close(STDERR_FILENO);
        f(dev, there);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

static void nothing(struct device *dev, float *there)
{
    (void)dev;
    (void)there;
}

static void host_reads(struct device *dev, float *there)
{
    (void)dev;
    *(volatile float *)there;
}

static void host_writes(struct device *dev, float *there)
{
    (void)dev;
    *(volatile float *)there = 1;
}

static void kernel_gets_host_memory(struct device *dev, float *there)
{
    float here[N] = {0};
    dev->k->add(dev, &(struct add_args){.x = here, .y = there, .n = N});
}

static void upload_goes_to_the_host(struct device *dev, float *there)
{
    float here[N], from[N] = {0};
    (void)there;
    dev->memory->upload(dev, here, from, sizeof here);
}

static void download_ends_in_the_device(struct device *dev, float *there)
{
    dev->memory->download(dev, there, there, sizeof *there);
}

static void block_points_to_the_host(struct device *dev, float *there)
{
    static const float rows[ATTENTION_BLOCK * 4];
    const float *block = rows;
    const struct attention_seq seq = {.len = 1};
    const struct attention_args args = {
        .q = there,
        .kv_blocks = device_new(dev, &block, sizeof(float *)),
        .seqs = device_new(dev, &seq, sizeof seq),
        .num_seqs = 1,
        .shape = {.H = 1, .kv_heads = 1, .Dk = 4, .Dv = 2, .scale = 1},
        .out = there + 8,
    };
    dev->k->attention(dev, &args);
}

static void mistakes_end_the_program(void **state)
{
    (void)state;
    struct device *dev = open_fenced();
    const float zeros[N] = {0};
    float *there = device_new(dev, zeros, sizeof zeros);
    assert_false(dies(nothing, dev, there));
    assert_true(dies(host_reads, dev, there));
    assert_true(dies(host_writes, dev, there));
    assert_true(dies(kernel_gets_host_memory, dev, there));
    assert_true(dies(upload_goes_to_the_host, dev, there));
    assert_true(dies(download_ends_in_the_device, dev, there));
    assert_true(dies(block_points_to_the_host, dev, there));
    device_release(dev, there);
    test_device_close(&dev);
}

static void new_memory_is_not_a_number(void **state)
{
    (void)state;
    struct device *dev = open_fenced();
    const float ones[N] = {1, 1};
    float *first = device_new(dev, ones, sizeof ones), *second = device_new(dev, NULL, 4);
    device_release(dev, first);
    first = device_new(dev, NULL, sizeof ones); // the same place
    float *host = device_floats(dev, first, N);
    for (int i = 0; i < N; i++)
        assert_true(host[i] != host[i]);
    free(host);
    device_release(dev, first);
    device_release(dev, second);
    test_device_close(&dev);
}

// A slot that is not fenced would get addresses that nobody may touch.
static void every_slot_is_fenced(void **state)
{
    (void)state;
    struct device *dev = open_fenced();
    void (*slots[sizeof(struct kernels) / sizeof(void (*)(void))])(void);
    assert_int_equal(sizeof slots, sizeof(struct kernels));
    memcpy(slots, dev->k, sizeof slots);
    for (size_t i = 0; i < sizeof slots / sizeof *slots; i++)
        assert_true(slots[i] != NULL);
    test_device_close(&dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mistakes_end_the_program),
        cmocka_unit_test(new_memory_is_not_a_number),
        cmocka_unit_test(every_slot_is_fenced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
