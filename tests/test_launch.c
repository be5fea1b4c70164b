// SPDX-License-Identifier: Apache-2.0
// What launchers say in the environment, and how a batch is cut.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"
#include "rl/launch.h"
#include "rl/trainer.h"

#include <string.h>

#define ENVIRONMENT(...) ((char **)(const char *[]){__VA_ARGS__, NULL})

static struct comm_launch read_from(struct launch *l, char *const *environment)
{
    if (launch_read(l, environment) != 0)
        fail_msg("%s", err_message());
    return l->comm;
}

static void without_a_launcher_a_run_is_one_process(void **state)
{
    (void)state;
    struct launch l;
    assert_int_equal(read_from(&l, ENVIRONMENT("PATH=/bin")).size, 1);
    // A batch script of SLURM, not a step.
    assert_int_equal(read_from(&l, ENVIRONMENT("SLURM_NTASKS=8", "SLURM_PROCID=0")).size, 1);
    const struct comm_launch one = read_from(&l, ENVIRONMENT("OMPI_COMM_WORLD_SIZE=1"));
    assert_true(one.size == 1 && !one.mpi);
}

static void mpi_is_known_by_its_variables(void **state)
{
    (void)state;
    struct launch l;
    assert_true(read_from(&l, ENVIRONMENT("OMPI_COMM_WORLD_SIZE=4")).mpi);
    assert_true(read_from(&l, ENVIRONMENT("PMI_SIZE=2", "RANK=1")).mpi);
    assert_int_equal(launch_read(&l, ENVIRONMENT("OMPI_COMM_WORLD_SIZE=many")), ERR_CONFIG);
}

static void torchrun_is_understood(void **state)
{
    (void)state;
    struct launch l;
    const struct comm_launch c =
        read_from(&l, ENVIRONMENT("RANK=5", "WORLD_SIZE=8", "LOCAL_RANK=1", "LOCAL_WORLD_SIZE=4",
                                  "MASTER_ADDR=node1", "MASTER_PORT=29500"));
    assert_true(c.rank == 5 && c.size == 8 && c.local_rank == 1 && c.local_size == 4 && !c.mpi);
    assert_string_equal(c.address, "node1");
    assert_int_equal(c.port, 29501);
    assert_int_equal(launch_read(&l, ENVIRONMENT("RANK=5")), ERR_CONFIG);
    assert_non_null(strstr(err_message(), "WORLD_SIZE"));
    assert_int_equal(launch_read(&l, ENVIRONMENT("RANK=2", "WORLD_SIZE=2", "MASTER_PORT=1")),
                     ERR_CONFIG);
    assert_non_null(strstr(err_message(), "RANK"));
    assert_int_equal(launch_read(&l, ENVIRONMENT("RANK=1", "WORLD_SIZE=2", "MASTER_PORT=1")),
                     ERR_CONFIG);
    assert_non_null(strstr(err_message(), "MASTER_ADDR"));
}

static void a_step_of_slurm_is_understood(void **state)
{
    (void)state;
    struct launch l;
    struct comm_launch c =
        read_from(&l, ENVIRONMENT("SLURM_STEP_NUM_TASKS=11", "SLURM_PROCID=9", "SLURM_LOCALID=1",
                                  "SLURM_NODEID=2", "SLURM_STEP_TASKS_PER_NODE=4(x2),3",
                                  "SLURM_STEP_NODELIST=gpu[07-09,12]", "SLURM_JOB_ID=41234"));
    assert_true(c.rank == 9 && c.size == 11 && c.local_rank == 1 && c.local_size == 3 && !c.mpi);
    assert_string_equal(c.address, "gpu07");
    assert_int_equal(c.port, 20000 + 41234 % 20000 + 1);
    c = read_from(&l, ENVIRONMENT("SLURM_STEP_NUM_TASKS=2", "SLURM_PROCID=0",
                                  "SLURM_STEP_NODELIST=alpha,beta", "SLURM_STEP_TASKS_PER_NODE=1"));
    assert_string_equal(c.address, "alpha");
    c = read_from(&l, ENVIRONMENT("SLURM_STEP_NUM_TASKS=2", "SLURM_PROCID=0", "MASTER_ADDR=head",
                                  "MASTER_PORT=7000", "SLURM_STEP_NODELIST=alpha,beta"));
    assert_string_equal(c.address, "head");
    assert_int_equal(c.port, 7001);
}

static void batches_are_cut_by_cost(void **state)
{
    (void)state;
    int begin[9];
    const int64_t even[8] = {5, 5, 5, 5, 5, 5, 5, 5};
    trainer_cut(begin, even, 8, 4);
    assert_memory_equal(begin, ((int[]){0, 2, 4, 6, 8}), 5 * sizeof(int));
    const int64_t uneven[5] = {100, 1, 1, 1, 97};
    trainer_cut(begin, uneven, 5, 2);
    assert_memory_equal(begin, ((int[]){0, 1, 5}), 3 * sizeof(int));
    const int64_t few[2] = {3, 3};
    trainer_cut(begin, few, 2, 8); // most are empty, and all is there
    assert_int_equal(begin[0], 0);
    assert_int_equal(begin[8], 2);
    for (int s = 0; s < 8; s++)
        assert_true(begin[s] <= begin[s + 1]);
    const int64_t nothing[3] = {0, 0, 0};
    trainer_cut(begin, nothing, 3, 2);
    assert_int_equal(begin[2], 3);
    trainer_cut(begin, even, 8, 1);
    assert_true(begin[0] == 0 && begin[1] == 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_launcher_a_run_is_one_process),
        cmocka_unit_test(mpi_is_known_by_its_variables),
        cmocka_unit_test(torchrun_is_understood),
        cmocka_unit_test(a_step_of_slurm_is_understood),
        cmocka_unit_test(batches_are_cut_by_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
