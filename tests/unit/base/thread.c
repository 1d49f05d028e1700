#include "base/thread.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

static int done[2];

/* Says which signals the thread would take. */
static void *tell(void *context) {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    char closed = sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGCHLD) == 1 ? 'y' : 'n';
    cr_assert_eq(context, &done);
    cr_assert_eq(write(done[1], &closed, 1), 1);
    return NULL;
}

Test(thread, runs_and_takes_no_signals_and_leaves_ours_alone) {
    struct err err;
    struct pollfd p;
    sigset_t mask;
    char closed = 0;
    cr_assert_eq(pipe(done), 0);
    cr_assert_eq(thread_start(tell, &done, &err), 0, "%s", err.text);
    p = (struct pollfd){.fd = done[0], .events = POLLIN};
    cr_assert_eq(poll(&p, 1, 5000), 1);
    cr_assert_eq(read(done[0], &closed, 1), 1);
    cr_assert_eq(closed, 'y');
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    cr_assert_eq(sigismember(&mask, SIGTERM), 0);
}
