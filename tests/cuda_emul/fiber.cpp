// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda_emul/fiber.h"
#include "tests/cuda_emul/emul.h"
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <unistd.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#ifdef EMUL_ASAN
#include <sanitizer/common_interface_defs.h>
#define START_SWITCH(save, bottom, size)  __sanitizer_start_switch_fiber(save, bottom, size)
#define FINISH_SWITCH(save, bottom, size) __sanitizer_finish_switch_fiber(save, bottom, size)
#else
#define START_SWITCH(save, bottom, size)  ((void)(save), (void)(bottom), (void)(size))
#define FINISH_SWITCH(save, bottom, size) ((void)(save), (void)(bottom), (void)(size))
#endif

namespace emul
{

namespace
{

constexpr size_t STACK = 256 * 1024; // the pages that are never touched cost nothing

// The scheduler's side of the switch.
struct home {
    void *context = nullptr;
    const void *bottom = nullptr;
    size_t size = 0;
    void *sanitizer = nullptr;
};
home the_home;

#if defined(__x86_64__)

// Saves the registers that a call keeps (System V ABI), and the stack pointer in *save; goes on
// with what was saved at `load`.
extern "C" void emul_switch(void **save, void *load);
asm(".text\n"
    ".type emul_switch, @function\n"
    "emul_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size emul_switch, . - emul_switch\n");

void *new_context(fiber &f, void (*entry)())
{
    // From below: six registers, the address that `ret` takes, and a null return address.
    void **top = reinterpret_cast<void **>(static_cast<char *>(f.stack) + STACK);
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
    return top;
}

void switch_to(void **save, void *load) { emul_switch(save, load); }

#else

void *new_context(fiber &f, void (*entry)())
{
    ucontext_t *c = static_cast<ucontext_t *>(f.stack); // at the low end of the stack
    getcontext(c);
    c->uc_stack.ss_sp = static_cast<char *>(f.stack) + sizeof *c;
    c->uc_stack.ss_size = STACK - sizeof *c;
    c->uc_link = nullptr;
    makecontext(c, entry, 0);
    return c;
}

void switch_to(void **save, void *load)
{
    ucontext_t here;
    *save = &here;
    swapcontext(&here, static_cast<ucontext_t *>(load));
}

#endif

fiber *entering;

void enter_first()
{
    fiber &f = *entering;
    FINISH_SWITCH(nullptr, &the_home.bottom, &the_home.size);
    f.run(f.arg);
    f.done = true;
    START_SWITCH(nullptr, the_home.bottom, the_home.size);
    void *unused;
    switch_to(&unused, the_home.context);
    abort();
}

void map_stack(fiber &f)
{
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void *p = mmap(nullptr, STACK + page, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p, page, PROT_NONE) != 0) {
        perror("cuda_emul: the stack of a thread");
        abort();
    }
    f.stack = static_cast<char *>(p) + page; // a page below it ends the process on overflow
}

} // namespace

fiber::~fiber()
{
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    if (stack)
        munmap(static_cast<char *>(stack) - page, STACK + page);
}

void fiber_start(fiber &f, void (*run)(void *), void *arg)
{
    if (!f.stack)
        map_stack(f);
    f.run = run;
    f.arg = arg;
    f.done = false;
    f.context = new_context(f, enter_first);
}

void fiber_enter(fiber &f)
{
    entering = &f;
    START_SWITCH(&the_home.sanitizer, f.stack, STACK);
    switch_to(&the_home.context, f.context);
    FINISH_SWITCH(the_home.sanitizer, nullptr, nullptr);
}

void fiber_leave(fiber &f)
{
    START_SWITCH(&f.sanitizer, the_home.bottom, the_home.size);
    switch_to(&f.context, the_home.context);
    FINISH_SWITCH(f.sanitizer, &the_home.bottom, &the_home.size);
}

} // namespace emul
