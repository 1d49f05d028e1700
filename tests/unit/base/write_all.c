#include "base/write_all.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum { BYTES = 1 << 20 };
static char sent[BYTES], got[BYTES];
static int ends[2];

static void *reader(void *unused) {
    size_t n = 0;
    for (ssize_t r; n < BYTES && (r = read(ends[0], got + n, BYTES - n < 1000 ? BYTES - n : 1000)) > 0;) n += (size_t)r;
    return unused;
}

Test(write_all, goes_on_until_everything_is_written) {
    pthread_t thread;
    for (int i = 0; i < BYTES; i++) sent[i] = (char)(i * 7 + i / 251);
    cr_assert_eq(pipe(ends), 0);
    cr_assert_eq(pthread_create(&thread, NULL, reader, NULL), 0);
    cr_assert_eq(write_all(ends[1], sent, BYTES), 0);
    pthread_join(thread, NULL);
    cr_assert_eq(memcmp(sent, got, BYTES), 0);
    cr_assert_eq(write_all(-1, sent, 0), 0, "nothing is always written");
}

Test(write_all, says_why_it_cannot) {
    int fd = open("/dev/full", O_WRONLY);
    cr_assert_eq(write_all(fd, "x", 1), -1);
    cr_assert_eq(errno, ENOSPC);
    close(fd);
    cr_assert_eq(write_all(fd, "x", 1), -1);
    cr_assert_eq(errno, EBADF);
}
