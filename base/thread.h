/* A thread beside the worker's own, for what may wait: the library of a server that does not answer, say. */
#ifndef MILLRACE_BASE_THREAD_H
#define MILLRACE_BASE_THREAD_H

#include "base/err.h"

/* thread_start runs body(context) in a detached thread that takes no signals: they are for the thread that has always
 * been there. 0, or -1 with err (EX_OSERR). */
int thread_start(void *(*body)(void *context), void *context, struct err *err);

#endif
