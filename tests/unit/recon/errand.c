#include "recon/errand.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

static char folder[64], program[128], out[128];
static struct errand e = {.pidfd = -1};
static struct err err;

static void make_folder(void) {
    snprintf(folder, sizeof folder, "/tmp/millrace-errand-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(program, sizeof program, "%s/program", folder);
    snprintf(out, sizeof out, "%s/out", folder);
}

static void remove_folder(void) {
    errand_stop(&e);
    unlink(program);
    unlink(out);
    rmdir(folder);
}

TestSuite(errand, .init = make_folder, .fini = remove_folder, .timeout = 20);

static void script(const char *text) {
    FILE *f = fopen(program, "w");
    fprintf(f, "#!/bin/sh\n%s\n", text);
    fclose(f);
    chmod(program, 0755);
}

static enum sending finish(uint64_t now_ns) {
    enum sending s;
    struct pollfd fd;
    int timeout_ms = 100;
    while ((s = errand_step(&e, now_ns, &err)) == SENDING) {
        cr_assert_eq(errand_wants(&e, now_ns, &fd, 1, &timeout_ms), 1);
        poll(&fd, 1, timeout_ms);
    }
    cr_assert_eq(e.pid, 0);
    cr_assert_eq(errand_wants(&e, now_ns, &fd, 1, &timeout_ms), 0);
    return s;
}

static void start(const char *body) {
    cr_assert_eq(errand_start(&e, program, "an-id", body, strlen(body), 0, &err), 0, "%s", err.text);
}

static const char *output(void) {
    static char text[65536];
    int fd = open(out, O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    close(fd);
    text[n < 0 ? 0 : n] = '\0';
    return text;
}

Test(errand, gets_the_body_the_id_and_nothing_else_of_ours) {
    char text[1024], number[16];
    setenv("SECRET_OF_OURS", "x", 1);
    int fd = open("/dev/null", O_RDONLY); /* not close-on-exec */
    signal(SIGINT, SIG_IGN);
    snprintf(text, sizeof text,
             "cat >%s; echo $MILLRACE_EXCEPTION $SECRET_OF_OURS $PWD >>%s; ls /proc/$$/fd >>%s;"
             " grep SigIgn /proc/$$/status >>%s",
             out, out, out, out);
    script(text);
    start("{\"a\":1}\n");
    cr_assert_eq(finish(0), SENT, "%s", err.text);
    close(fd);
    snprintf(number, sizeof number, "\n%d\n", fd);
    cr_assert(fd > 2 && fd < 10, "the shell has its own from 10 on");
    cr_assert_eq(strncmp(output(), "{\"a\":1}\nan-id /\n0\n1\n", 20), 0, "%s", output());
    cr_assert_null(strstr(output(), number), "%s", output());
    const char *ignored = strstr(output(), "SigIgn:\t");
    cr_assert_not_null(ignored);
    /* Signals from 32 on are the C library's own; who started the tests may have them ignored. */
    cr_assert_eq(strtoull(ignored + 8, NULL, 16) & 0x7fffffff, 0, "%s", ignored);
}

Test(errand, largest_body_does_not_block) {
    static char body[ERRAND_BODY_BYTES_MAX];
    memset(body, 'x', sizeof body);
    script("sleep 0.2; cat >/dev/null");
    cr_assert_eq(errand_start(&e, program, "id", body, sizeof body, 0, &err), 0);
    cr_assert_eq(finish(0), SENT);
}

Test(errand, fails_with_its_status_or_signal) {
    script("exit 3");
    start("");
    cr_assert_eq(finish(0), SEND_FAILED);
    cr_assert_str_eq(err.text, "it ended with status 3");
    script("kill -9 $$");
    start("");
    cr_assert_eq(finish(0), SEND_FAILED);
    cr_assert_str_eq(err.text, "it was ended by signal 9");
    unlink(program);
    start("");
    cr_assert_eq(finish(0), SEND_FAILED);
    cr_assert_not_null(strstr(err.text, "could not be run"), "%s", err.text);
}

Test(errand, that_takes_too_long_is_killed_with_what_it_has_started) {
    char text[512];
    snprintf(text, sizeof text, "sleep 1000 & echo $! >%s; wait", out);
    script(text);
    start("");
    while (strchr(output(), '\n') == NULL) usleep(10000);
    pid_t grandchild = atoi(output());
    cr_assert_eq(kill(grandchild, 0), 0);
    cr_assert_eq(errand_step(&e, (ERRAND_LIMIT_MS - 1) * NS_PER_MS, &err), SENDING);
    cr_assert_eq(finish(ERRAND_LIMIT_MS * NS_PER_MS), SEND_FAILED);
    cr_assert_not_null(strstr(err.text, "30 s"), "%s", err.text);
    char stat[64] = "", state = 'Z';
    snprintf(text, sizeof text, "/proc/%d/stat", grandchild);
    for (int i = 0; i < 200; i++) { /* gone, or a zombie for init to reap */
        FILE *f = fopen(text, "r");
        if (f == NULL) return;
        cr_assert_eq(fscanf(f, "%*d %63s %c", stat, &state), 2);
        fclose(f);
        if (state == 'Z') return;
        usleep(10000);
    }
    cr_assert_fail("the grandchild is in state %c", state);
}
