/* Notify: what arrives at a real datagram socket, and what happens when nobody reads it. */
#include "supervisor/notify.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

static char folder[] = "/tmp/millrace-unit-notify-XXXXXX";
static char path[64];
static int manager = -1; /* the service manager's end */
static struct notify n;

static void manager_bind(const char *name) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t len = strlen(name);
    memcpy(a.sun_path, name, len);
    if (name[0] == '@') a.sun_path[0] = 0;
    manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (name[0] == '@' ? 0 : 1));
    cr_assert_eq(bind(manager, (struct sockaddr *)&a, bytes), 0, "%s: %s", name, strerror(errno));
    setenv("NOTIFY_SOCKET", name, 1);
}

static void make(void) {
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/notify", folder);
    log_init("node", "supervisor", -1, 0, LOG_ERROR);
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    manager_bind(path);
}

static void drop(void) {
    close(manager);
    unlink(path);
    rmdir(folder);
}

/* The next datagram; "" when there is none. */
static const char *received(void) {
    static char text[1024];
    ssize_t len = recv(manager, text, sizeof text - 1, MSG_DONTWAIT);
    text[len > 0 ? len : 0] = 0;
    return text;
}

/* Fills the socket, so that nothing more goes in. Returns how many datagrams it took. */
static int fill(void) {
    int count = 0;
    while (sendto(n.fd, "X=1\n", 4, 0, (struct sockaddr *)&n.to, n.to_bytes) == 4) count++;
    cr_assert_eq(errno, EAGAIN);
    return count;
}

Test(notify, a_state_is_told_once_and_in_its_own_words, .init = make, .fini = drop) {
    notify_init(&n);
    cr_assert_geq(n.fd, 0);
    notify_ready(&n);
    notify_ready(&n);
    cr_assert_str_eq(received(), "READY=1\n");
    cr_assert_str_eq(received(), "");
    notify_reloading(&n, 123456789000ULL);
    cr_assert_str_eq(received(), "RELOADING=1\nMONOTONIC_USEC=123456789\n");
    notify_ready(&n);
    cr_assert_str_eq(received(), "READY=1\n", "after a reload it is ready again");
    notify_stopping(&n, 45000);
    cr_assert_str_eq(received(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=45000000\n");
    notify_stopping(&n, 15000);
    notify_ready(&n);
    notify_reloading(&n, 1);
    cr_assert_str_eq(received(), "", "stopping is final");
}

Test(notify, an_abstract_name_is_found_too, .init = make, .fini = drop) {
    char name[64];
    close(manager);
    snprintf(name, sizeof name, "@millrace-unit-notify-%d", (int)getpid());
    manager_bind(name);
    notify_init(&n);
    notify_ready(&n);
    cr_assert_str_eq(received(), "READY=1\n");
}

Test(notify, nothing_is_left_for_others_to_inherit, .init = make, .fini = drop) {
    setenv("WATCHDOG_USEC", "1000000", 1);
    setenv("WATCHDOG_PID", "1", 1);
    notify_init(&n);
    cr_assert_null(getenv("NOTIFY_SOCKET"));
    cr_assert_null(getenv("WATCHDOG_USEC"));
    cr_assert_null(getenv("WATCHDOG_PID"));
    cr_assert_eq(n.watchdog_ns, 0, "the watchdog of process 1 is not ours");
}

Test(notify, without_a_socket_or_with_an_unusable_one_it_is_silent, .init = make, .fini = drop) {
    char longer[200];
    memset(longer, 'a', sizeof longer - 1);
    longer[0] = '/';
    longer[sizeof longer - 1] = 0;
    const char *names[] = {"", "relative", "/", "@", "vsock:2:1", longer};
    log_init("node", "supervisor", -1, 0, LOG_ERROR);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        setenv("NOTIFY_SOCKET", names[i], 1);
        notify_init(&n);
        cr_assert_eq(n.fd, -1, "%s", names[i]);
        notify_ready(&n);
        notify_status(&n, "all is well");
        notify_alive(&n, NS_PER_S, true);
        notify_stopping(&n, 1);
    }
    unsetenv("NOTIFY_SOCKET");
    notify_init(&n);
    cr_assert_eq(n.fd, -1);
}

Test(notify, the_watchdog_is_fed_in_time_and_only_when_healthy, .init = make, .fini = drop) {
    char pid[16];
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    setenv("WATCHDOG_USEC", "3000000", 1);
    setenv("WATCHDOG_PID", pid, 1);
    notify_init(&n);
    uint64_t now = 1000 * NS_PER_S;
    notify_alive(&n, now, false);
    cr_assert_str_eq(received(), "");
    notify_alive(&n, now, true);
    cr_assert_str_eq(received(), "WATCHDOG=1\n");
    int fed = 0;
    for (int i = 0; i < 200; i++) { /* ten seconds of ticks */
        notify_alive(&n, now += 50 * NS_PER_MS, true);
        fed += strcmp(received(), "WATCHDOG=1\n") == 0;
    }
    cr_assert_eq(fed, 10, "%d times in 10 s, every third of 3 s was wanted", fed);
    for (int i = 0; i < 200; i++) notify_alive(&n, now += 50 * NS_PER_MS, false);
    cr_assert_str_eq(received(), "");
}

Test(notify, no_watchdog_no_feeding, .init = make, .fini = drop) {
    const char *wrong[] = {"0", "", "ten", "-5", "99999999999999999999999", "5x"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        setenv("NOTIFY_SOCKET", path, 1);
        setenv("WATCHDOG_USEC", wrong[i], 1);
        notify_init(&n);
        notify_alive(&n, NS_PER_S, true);
        cr_assert_str_eq(received(), "", "WATCHDOG_USEC=%s", wrong[i]);
    }
}

Test(notify, a_status_is_one_line_of_printable_ascii_and_told_when_it_changes, .init = make, .fini = drop) {
    char text[2 * NOTIFY_STATUS_BYTES];
    notify_init(&n);
    notify_status(&n, "running; 12 records/s");
    notify_status(&n, "running; 12 records/s");
    cr_assert_str_eq(received(), "STATUS=running; 12 records/s\n");
    cr_assert_str_eq(received(), "");
    notify_status(&n, "blocked: ERR a\nSTOPPING=1\r\x1b[31m\xc3\xa9");
    cr_assert_str_eq(received(), "STATUS=blocked: ERR a?STOPPING=1??[31m\?\?\n");
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    notify_status(&n, text);
    cr_assert_eq(strlen(received()), strlen("STATUS=\n") + NOTIFY_STATUS_BYTES - 1);
}

Test(notify, a_full_socket_delays_what_is_owed_and_never_blocks, .init = make, .fini = drop, .timeout = 10) {
    setenv("WATCHDOG_USEC", "3000000", 1);
    notify_init(&n);
    int filled = fill();
    notify_status(&n, "starting");
    notify_ready(&n);
    notify_status(&n, "running");
    notify_alive(&n, 50 * NS_PER_S, true);
    for (int i = 0; i < filled; i++) cr_assert_str_eq(received(), "X=1\n");
    cr_assert_str_eq(received(), "");
    notify_alive(&n, 50 * NS_PER_S + 1, true);
    cr_assert_str_eq(received(), "READY=1\nSTATUS=running\n");
    cr_assert_str_eq(received(), "WATCHDOG=1\n");
    cr_assert_str_eq(received(), "");
}

Test(notify, a_manager_that_comes_back_gets_what_it_missed, .init = make, .fini = drop) {
    notify_init(&n);
    close(manager);
    notify_ready(&n);
    unlink(path);
    notify_alive(&n, NS_PER_S, true);
    manager_bind(path);
    notify_alive(&n, 2 * NS_PER_S, true);
    cr_assert_str_eq(received(), "READY=1\n");
}
