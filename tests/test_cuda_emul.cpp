// SPDX-License-Identifier: Apache-2.0
// The emulation of a GPU itself: what kernels may rely on, and that it stops kernels which rely on
// more. Speaks TAP.
#include "kernels/cuda/cuda.cuh"
#include "kernels/device_cuda.h"
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace
{

struct device *dev;
int number, failed;

void check(bool holds, const char *what)
{
    printf("%sok %d - %s\n", holds ? "" : "not ", ++number, what);
    failed += !holds;
}

// Runs the kernel on n words of device memory that begin as 0, 1, 2, ...
template <typename... Params>
std::vector<int> run_kernel(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, int n)
{
    std::vector<int> words(static_cast<size_t>(n));
    for (int i = 0; i < n; i++)
        words[static_cast<size_t>(i)] = i;
    void *p = nullptr;
    const size_t bytes = words.size() * sizeof(int);
    int rc = dev->memory->alloc(dev, &p, bytes);
    if (rc == 0)
        rc = dev->memory->upload(dev, p, words.data(), bytes);
    if (rc == 0)
        rc = launch(dev, grid, block, shared, kernel, static_cast<int *>(p));
    if (rc == 0)
        rc = dev->memory->download(dev, words.data(), p, bytes);
    dev->memory->release(dev, p);
    if (rc != 0)
        words.clear();
    return words;
}

// Whether the kernel ends the process, with the message on standard error.
template <typename... Params>
bool is_stopped(void (*kernel)(Params...), dim3 block, const char *message)
{
    int fds[2];
    if (pipe(fds) != 0)
        return false;
    const pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], 2);
        run_kernel(kernel, 1, block, 1024, 1024);
        _exit(0);
    }
    close(fds[1]);
    std::string text;
    char buffer[512];
    for (ssize_t got; (got = read(fds[0], buffer, sizeof buffer)) > 0;)
        text.append(buffer, static_cast<size_t>(got));
    close(fds[0]);
    int status = 0;
    waitpid(pid, &status, 0);
    return status != 0 && text.find(message) != std::string::npos;
}

// ---- kernels that are right

__global__ void reverse_block(int *words)
{
    __shared__ int tile[96];
    const int i = static_cast<int>(threadIdx.x), base = static_cast<int>(blockIdx.x) * 96;
    tile[i] = words[base + i];
    __syncthreads();
    words[base + i] = tile[95 - i];
}

__global__ void sum_of_warp(int *words)
{
    const int i = static_cast<int>(threadIdx.x + blockDim.x * blockIdx.x);
    int x = words[i];
    for (int lanes = 16; lanes > 0; lanes /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, lanes);
    words[i] = x;
}

template <int ROWS> __global__ void copy_late(int *words)
{
    int *tile = dynamic_shared<int>();
    const int i = static_cast<int>(threadIdx.x);
    for (int r = 0; r < ROWS; r++) {
        cp_async_4_zero(tile + r * 32 + i, words + r * 32 + i, r == 1 ? 0 : 4);
        cp_async_commit();
    }
    cp_async_wait<1>();
    words[i] = tile[i];           // row 0 is there
    words[32 + i] = tile[32 + i]; // and row 1, zeros
    const bool is_late = tile[64 + i] != 64 + i;
    cp_async_wait<0>();
    words[64 + i] = is_late && tile[64 + i] == 64 + i;
}

// Row r of matrix m holds 64 m + 8 r + column.
__global__ void load_matrices(int *words)
{
    unsigned short *tile = dynamic_shared<unsigned short>();
    const int lane = static_cast<int>(threadIdx.x);
    for (int j = 0; j < 8; j++)
        tile[lane * 8 + j] = static_cast<unsigned short>(lane * 8 + j);
    __syncwarp();
    uint32_t r[4], t[4];
    ldmatrix_x4(r, tile + lane * 8);
    ldmatrix_x4_trans(t, tile + lane * 8);
    const uint32_t g = static_cast<uint32_t>(lane) / 4, q = static_cast<uint32_t>(lane) % 4;
    bool right = true;
    for (uint32_t m = 0; m < 4; m++) {
        const uint32_t first = 64 * m + 8 * g + 2 * q, across = 64 * m + 8 * (2 * q) + g;
        right =
            right && r[m] == (first | (first + 1) << 16) && t[m] == (across | (across + 8) << 16);
    }
    words[lane] = right;
}

// D = A B with A[i][k] = i - k / 2 and B[k][j] = (k == j) + (k == 15): D[i][j] = A[i][j] +
// A[i][15].
__global__ void multiply(int *words)
{
    const int lane = static_cast<int>(threadIdx.x), g = lane / 4, q = lane % 4;
    const auto a_of = [](int i, int k) { return static_cast<float>(i) - 0.5f * k; };
    const auto b_of = [](int k, int j) { return static_cast<float>((k == j) + (k == 15)); };
    const auto pair = [](float x, float y) {
        return static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(x))) |
               static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(y))) << 16;
    };
    const uint32_t a[4] = {pair(a_of(g, 2 * q), a_of(g, 2 * q + 1)),
                           pair(a_of(g + 8, 2 * q), a_of(g + 8, 2 * q + 1)),
                           pair(a_of(g, 2 * q + 8), a_of(g, 2 * q + 9)),
                           pair(a_of(g + 8, 2 * q + 8), a_of(g + 8, 2 * q + 9))};
    const uint32_t b[2] = {pair(b_of(2 * q, g), b_of(2 * q + 1, g)),
                           pair(b_of(2 * q + 8, g), b_of(2 * q + 9, g))};
    float d[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    mma_m16n8k16_bf16(d, a, b);
    bool right = true;
    for (int n = 0; n < 4; n++) {
        const int i = g + 8 * (n / 2), j = 2 * q + n % 2;
        right = right && d[n] == 1.0f + a_of(i, j) + a_of(i, 15);
    }
    words[lane] = right;
}

__global__ void votes(int *words)
{
    const int i = static_cast<int>(threadIdx.x);
    if (i >= 64)
        return; // threads that have returned are not waited for
    const bool all = __syncthreads_and(i < 64) && !__syncthreads_and(i != 5);
    const bool any = __syncthreads_or(i == 63) && !__syncthreads_or(i == 64);
    const bool ballot = __ballot_sync(ALL_LANES, i % 2) == 0xaaaaaaaau;
    words[i] = all && any && ballot && __syncthreads_count(i < 7) == 7;
}

// ---- kernels that are wrong

__global__ void no_barrier(int *words)
{
    __shared__ int tile[64];
    tile[threadIdx.x] = words[threadIdx.x];
    words[threadIdx.x] = tile[63 - threadIdx.x];
}

__global__ void two_barriers(int *words)
{
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    words[0] = 1;
}

__global__ void lone_lanes(int *words)
{
    if (threadIdx.x < 16)
        words[threadIdx.x] = __shfl_xor_sync(ALL_LANES, words[threadIdx.x], 1);
    else
        __syncthreads();
}

__global__ void lane_outside(int *words)
{
    if (threadIdx.x < 16)
        words[threadIdx.x] = __shfl_sync(0xffffu, words[threadIdx.x], 20);
}

__global__ void returned_lane(int *words)
{
    if (threadIdx.x == 3)
        return;
    __syncwarp();
    words[0] = 1;
}

__global__ void past_shared(int *words) { dynamic_shared<int>()[256 + threadIdx.x] = words[0]; }

__global__ void past_memory(int *words) { words[1 << 24] = 1; }

// ---- checks

bool all_are(const std::vector<int> &words, int n, int value)
{
    bool right = !words.empty();
    for (int i = 0; right && i < n; i++)
        right = words[static_cast<size_t>(i)] == value;
    return right;
}

void check_what_works()
{
    std::vector<int> words = run_kernel(reverse_block, 5, 96, 0, 480);
    bool right = !words.empty();
    for (size_t i = 0; right && i < words.size(); i++)
        right = words[i] == static_cast<int>(i / 96 * 96 + 95 - i % 96);
    check(right, "a block's threads meet at its barrier");
    words = run_kernel(sum_of_warp, 2, 64, 0, 128);
    right = !words.empty();
    for (size_t i = 0; right && i < words.size(); i++)
        right = words[i] == static_cast<int>(32 * (i / 32 * 32) + 31 * 16);
    check(right, "lanes exchange values");
    words = run_kernel(copy_late<3>, 1, 32, 3 * 32 * 4, 96);
    right = words.size() == 96;
    for (size_t i = 0; right && i < 32; i++)
        right = words[i] == static_cast<int>(i) && words[32 + i] == 0 && words[64 + i] == 1;
    check(right, "asynchronous copies happen when they are waited for, group by group");
    check(all_are(run_kernel(load_matrices, 1, 32, 512, 32), 32, 1), "ldmatrix gives the layout");
    check(all_are(run_kernel(multiply, 1, 32, 0, 32), 32, 1), "mma multiplies");
    check(all_are(run_kernel(votes, 1, 96, 0, 96), 64, 1), "threads vote");
}

void check_what_is_stopped()
{
    const std::vector<int> words = run_kernel(no_barrier, 1, 64, 0, 64);
    bool right = !words.empty();
    for (size_t i = 0; right && i < 64; i++)
        right = words[i] == static_cast<int>(63 - i);
    check(!right, "a missing barrier shows, whichever thread comes first");
    check(is_stopped(two_barriers, 64, "different barriers"), "barriers apart are found");
    check(is_stopped(lone_lanes, 32, "wait for each other"), "waiting for ever is found");
    check(is_stopped(lane_outside, 32, "not in the mask"), "a shuffle from outside is found");
    check(is_stopped(returned_lane, 32, "has returned"), "waiting for the returned is found");
    check(is_stopped(past_shared, 1, "shared memory"), "writes past shared memory are found");
#ifdef EMUL_ASAN
    const char *const past_message = "AddressSanitizer: use-after-poison";
#else
    const char *const past_message = "device memory was touched";
#endif
    check(is_stopped(past_memory, 1, past_message), "writes past device memory are found");
    check(run_kernel(sum_of_warp, 1, 1025, 0, 32).empty() &&
              strstr(err_message(), "invalid configuration"),
          "a launch that a GPU refuses is an error");
    check(run_kernel(sum_of_warp, 1, 32, 1 << 20, 32).empty(),
          "shared memory that a GPU lacks is an error");
    void *p = nullptr;
    check(dev->memory->alloc(dev, &p, size_t(1) << 40) == ERR_ENV &&
              strstr(err_message(), "out of memory") && strstr(err_message(), "1048576.0 MiB"),
          "memory that a GPU lacks is an error that says how much");
}

} // namespace

int main()
{
    if (device_open_cuda(&dev, nullptr, 0) != 0) {
        printf("Bail out! %s\n", err_message());
        return 1;
    }
    check_what_works();
    check_what_is_stopped();
    device_free(&dev);
    printf("1..%d\n", number);
    return failed != 0;
}
