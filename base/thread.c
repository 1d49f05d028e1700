#include "base/thread.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sysexits.h>

int thread_start(void *(*body)(void *context), void *context, struct err *err) {
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* a thread has the mask of who makes it */
    int r = pthread_create(&thread, NULL, body, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0) return err_set(err, EX_OSERR, "thread: %s", strerror(r));
    pthread_detach(thread);
    return 0;
}
