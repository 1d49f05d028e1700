#include <stdlib.h>
#include <sys/mman.h>

#include "tests/sim/sim.h"

static struct fiber *current;
static jmp_buf scheduler;

struct fiber *fiber_current(void) {
    return current;
}

static void begin(void) {
    current->body(current->context);
    fiber_die();
}

/* A stack of its own for each life: that of a process which was killed is never looked at again. */
void fiber_begin(struct fiber *f, void (*body)(void *context), void *context) {
    if (f->stack == NULL) {
        f->stack = mmap(NULL, SIM_STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        SIM_REQUIRE(f->stack != MAP_FAILED, "no stack");
    }
    f->state = FIBER_READY;
    f->body = body;
    f->context = context;
    f->begun = false;
    f->die_in = 0;
    f->quantum = 1;
    f->blocks = false;
}

void fiber_run(struct fiber *f) {
    f->state = FIBER_READY;
    f->blocks = false;
    current = f;
    if (_setjmp(scheduler) == 0) {
        if (f->begun) _longjmp(f->place, 1);
        f->begun = true;
        getcontext(&f->start);
        f->start.uc_stack.ss_sp = f->stack;
        f->start.uc_stack.ss_size = SIM_STACK_BYTES;
        f->start.uc_link = NULL;
        makecontext(&f->start, begin, 0);
        setcontext(&f->start);
    }
    current = NULL;
}

void fiber_give_way(void) {
    if (_setjmp(current->place) == 0) _longjmp(scheduler, 1);
}

void fiber_sleep(uint64_t until_ns, bool blocks) {
    current->state = FIBER_ASLEEP;
    current->blocks = blocks;
    current->wake_ns = until_ns;
    fiber_give_way();
}

void fiber_die(void) {
    current->state = FIBER_DEAD;
    _longjmp(scheduler, 1);
}
