/* Fault points: named places where a test build can be told to die, to wait, to fail or to damage what it has in hand.
 * In every other build they are nothing at all: no code, no text, no test (tests/fault_code.py shows it).
 *
 * A build with -DMILLRACE_FAULT (make VARIANT=fault) reads MILLRACE_FAULT from the environment, a list with commas of
 *
 *     POINT=kill | delay[:MS] | fail[:ERRNO] | corrupt   and then   @N | @N+ | @N*COUNT
 *
 * kill is SIGKILL; MS is 20 if not given, ERRNO EIO (a name as in errno.h). @N: once, at the N-th passing in a process;
 * @N*COUNT: COUNT times from the N-th on; @N+: always from the N-th on. Without any: @1+. Where MILLRACE_FAULT_DIR
 * names a folder, the times are counted over all processes: a successor does not do again what its predecessor did. The
 * folder then has a file of the point's name, with a line for each time; what is done is told on stderr, too. A point
 * that does not exist, or an action that is not of its kind, ends the program at once with EX_USAGE.
 *
 *     POINT=MARKER       for points of content: SIGSEGV when the bytes at hand contain MARKER
 *
 * Every point is a row of base/fault.def. Names are never changed: tests refer to them. */
#ifndef MILLRACE_BASE_FAULT_H
#define MILLRACE_BASE_FAULT_H

#ifdef MILLRACE_FAULT

#include <stdbool.h>
#include <stddef.h>

/* Passes the point; any thread. */
void fault_pass(const char *point);

/* Passes the point; true, with errno, when the call that follows is to fail without being made. */
bool fault_fails(const char *point);

/* Passes the point; turns a bit in the middle of bytes[0, len) when told to corrupt. */
void fault_corrupt(const char *point, void *bytes, size_t len);

/* Dies of SIGSEGV when bytes[0, len) contain the marker of the point. */
void fault_on_content(const char *point, const void *bytes, size_t len);

#define FAULT(point) fault_pass(point)
#define FAULT_FAILS(point) fault_fails(point)
#define FAULT_CORRUPT(point, bytes, len) fault_corrupt(point, bytes, len)
#define FAULT_ON_CONTENT(point, bytes, len) fault_on_content(point, bytes, len)

#else
#define FAULT(point) ((void)0)
#define FAULT_FAILS(point) 0
#define FAULT_CORRUPT(point, bytes, len) ((void)0)
#define FAULT_ON_CONTENT(point, bytes, len) ((void)0)
#endif

#endif
