/* Writing all of it: write(2) may take less than it was given. */
#ifndef MILLRACE_BASE_WRITE_ALL_H
#define MILLRACE_BASE_WRITE_ALL_H

#include <stddef.h>

/* write_all writes bytes[0, len) to fd, going on after signals. 0, or -1 with errno: some of it may have been written.
 * */
int write_all(int fd, const void *bytes, size_t len);

#endif
