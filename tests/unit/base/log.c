#include "base/log.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <poll.h>
#include <regex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"

/* Standard error becomes one end of a pipe or socket; Criterion reports over a channel of its own. */
static int reader;

static void stderr_is_pipe(void) {
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    reader = fds[0];
    cr_assert_eq(dup2(fds[1], STDERR_FILENO), STDERR_FILENO);
    close(fds[1]);
    fcntl(reader, F_SETFL, O_NONBLOCK);
}

static char text[1 << 17];

static const char *all_written(void) {
    size_t len = 0;
    ssize_t n;
    while ((n = read(reader, text + len, sizeof text - 1 - len)) > 0) len += (size_t)n;
    text[len] = 0;
    return text;
}

static int matches(const char *line, const char *pattern) {
    regex_t r;
    cr_assert_eq(regcomp(&r, pattern, REG_EXTENDED | REG_NOSUB), 0, "%s", pattern);
    int found = regexec(&r, line, 0, NULL, 0) == 0;
    regfree(&r);
    return found;
}

#define TIME "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z"

Test(log, text_line_has_time_level_instance_role_lane_event_place_and_message, .init = stderr_is_pipe) {
    struct log_at at = {"cards.bulk", 3, 5000000000};
    log_init("cards/node1", "sink", 2, 0, LOG_INFO);
    log_warn_at("sink.late", &at, "%d behind", 7);
    cr_assert(matches(all_written(),
                      "^" TIME " WARN  cards/node1 sink\\[2\\] sink\\.late topic=cards\\.bulk partition=3 "
                      "offset=5000000000 7 behind\n$"),
              "%s", text);
}

Test(log, text_line_without_lane_and_place_leaves_them_out, .init = stderr_is_pipe) {
    log_init("node1", "ingest", -1, 0, LOG_INFO);
    log_error("ingest.gone", "bye");
    cr_assert(matches(all_written(), "^" TIME " ERROR node1 ingest ingest\\.gone bye\n$"), "%s", text);
}

Test(log, json_line_has_the_same_fields, .init = stderr_is_pipe) {
    struct log_at at = {"t", 0, -1};
    log_init("node1", "transform", 0, 1, LOG_INFO);
    log_info_at("transform.rejected", &at, "reason %s", "key_null");
    cr_assert(matches(all_written(), "^\\{\"time\":\"" TIME
                                     "\",\"level\":\"info\",\"instance\":\"node1\",\"role\":\"transform\",\"lane\":0,"
                                     "\"event\":\"transform.rejected\",\"topic\":\"t\",\"partition\":0,\"offset\":-1,"
                                     "\"message\":\"reason key_null\"\\}\n$"),
              "%s", text);
}

Test(log, more_talkative_levels_are_not_written, .init = stderr_is_pipe) {
    log_init("n", "r", -1, 0, LOG_WARN);
    log_info("a.b", "no");
    log_debug("a.b", "no");
    log_warn("a.b", "yes");
    cr_assert(strstr(all_written(), "no") == NULL && strstr(text, "yes") != NULL, "%s", text);
}

Test(log, works_before_log_init, .init = stderr_is_pipe) {
    log_info("a.b", "early");
    cr_assert(strstr(all_written(), " INFO  millrace a.b early\n") != NULL, "%s", text);
}

Test(log, control_characters_cannot_end_a_line_or_steer_a_terminal, .init = stderr_is_pipe) {
    log_init("n", "r", -1, 0, LOG_INFO);
    log_info("a.b", "one\ntwo\x1b[2J\x7f\xc2\x9b|");
    cr_assert(strstr(all_written(), "one\\x0atwo\\x1b[2J\\x7f\\xc2\\x9b|\n") != NULL, "%s", text);
}

Test(log, text_that_is_not_utf8_is_escaped_and_good_utf8_is_kept, .init = stderr_is_pipe) {
    log_init("n", "r", -1, 0, LOG_INFO);
    log_info("a.b", "%s", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 \xff \xc0\xaf \xed\xa0\x80 \xf4\x90\x80\x80 \xe2\x82");
    cr_assert(strstr(all_written(), "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 \\xff \\xc0\\xaf \\xed\\xa0\\x80 "
                                    "\\xf4\\x90\\x80\\x80 \\xe2\\x82\n") != NULL,
              "%s", text);
}

Test(log, json_escapes_quotes_and_backslashes, .init = stderr_is_pipe) {
    log_init("n", "r", -1, 1, LOG_INFO);
    log_info("a.b", "say \"hi\" \\ \n");
    cr_assert(strstr(all_written(), "\"message\":\"say \\\"hi\\\" \\\\ \\\\x0a\"}\n") != NULL, "%s", text);
}

Test(log, line_is_one_write_of_at_most_pipe_buf_bytes_and_still_ends_well, .init = stderr_is_pipe) {
    char long_text[3 * PIPE_BUF];
    memset(long_text, '"', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    log_init("n", "r", -1, 1, LOG_INFO);
    log_info("a.b", "%s", long_text);
    size_t len = strlen(all_written());
    cr_assert(len <= PIPE_BUF && len > PIPE_BUF - 16, "%zu", len);
    cr_assert_str_eq(text + len - 5, "\\\"\"}\n");
}

Test(log, call_site_that_repeats_is_held_back_and_its_count_reported, .init = stderr_is_pipe) {
    static struct log_site site;
    log_init("n", "r", -1, 0, LOG_INFO);
    for (int i = 0; i < 25; i++) log_event(&site, LOG_INFO, "a.b", NULL, "again %d", i);
    int lines = 0;
    for (const char *p = all_written(); (p = strstr(p, "again")) != NULL; p++) lines++;
    cr_assert_eq(lines, LOG_BURST);
    cr_assert_eq(site.held, 25 - LOG_BURST);
    site.window_start_ns -= LOG_WINDOW_MS * NS_PER_MS; /* as if the window were over */
    log_event(&site, LOG_INFO, "a.b", NULL, "later");
    cr_assert(strstr(all_written(), "a.b held=20 later\n") != NULL, "%s", text);
    log_event(&site, LOG_INFO, "a.b", NULL, "once more");
    cr_assert(strstr(all_written(), "a.b once more\n") != NULL, "%s", text);
}

Test(log, call_sites_are_counted_apart, .init = stderr_is_pipe) {
    log_init("n", "r", -1, 0, LOG_INFO);
    for (int i = 0; i < 10; i++) log_info("a.noisy", "x");
    log_info("a.quiet", "heard");
    cr_assert(strstr(all_written(), "heard") != NULL);
}

Test(log, full_pipe_drops_lines_and_counts_them_instead_of_blocking, .init = stderr_is_pipe, .timeout = 10) {
    static struct log_site site;
    char long_text[3000];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    log_init("n", "r", -1, 0, LOG_INFO);
    for (int i = 0; i < 200; i++) {
        site = (struct log_site){0};
        log_event(&site, LOG_INFO, "a.b", NULL, "%s", long_text);
    }
    uint64_t dropped = log_dropped();
    cr_assert(dropped > 100 && dropped < 200, "%llu", (unsigned long long)dropped);
    all_written();
    site = (struct log_site){0};
    log_event(&site, LOG_INFO, "a.b", NULL, "room again");
    cr_assert(strstr(all_written(), "room again\n") != NULL);
    cr_assert_eq(log_dropped(), dropped);
}

Test(log, full_pipe_does_not_block_when_it_cannot_be_reopened_either, .init = stderr_is_pipe, .timeout = 10) {
    static struct log_site site; /* without log_init: the descriptor is still the caller's blocking one */
    char long_text[3000];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    for (int i = 0; i < 100; i++) {
        site = (struct log_site){0};
        log_event(&site, LOG_INFO, "a.b", NULL, "%s", long_text);
    }
    cr_assert(log_dropped() > 50);
}

Test(log, callers_descriptor_stays_blocking, .init = stderr_is_pipe) {
    log_init("n", "r", -1, 0, LOG_INFO);
    log_info("a.b", "x");
    cr_assert_eq(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK, 0);
}

Test(log, full_socket_drops_lines_instead_of_blocking, .timeout = 10) {
    static struct log_site site;
    int fds[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    cr_assert_eq(dup2(fds[1], STDERR_FILENO), STDERR_FILENO);
    log_init("n", "r", -1, 0, LOG_INFO);
    for (int i = 0; i < 20000; i++) {
        site = (struct log_site){0};
        log_event(&site, LOG_INFO, "a.b", NULL, "a line of some length that fills the socket in the end");
    }
    cr_assert(log_dropped() > 0);
    cr_assert_eq(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK, 0);
}

Test(log, reader_that_is_gone_is_counted_and_does_not_kill, .init = stderr_is_pipe) {
    signal(SIGPIPE, SIG_IGN); /* as every process of ours does */
    log_init("n", "r", -1, 0, LOG_INFO);
    close(reader);
    log_info("a.b", "x");
    cr_assert_eq(log_dropped(), 1);
}

Test(log, regular_file_is_appended_to_beside_other_writers) {
    char path[] = "/tmp/millrace-log-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && dup2(fd, STDERR_FILENO) == STDERR_FILENO);
    cr_assert_eq(write(STDERR_FILENO, "before\n", 7), 7);
    log_init("n", "r", -1, 0, LOG_INFO);
    log_info("a.b", "ours");
    cr_assert_eq(write(STDERR_FILENO, "after\n", 6), 6);
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    unlink(path);
    cr_assert(matches(text, "^before\n[^\n]* ours\nafter\n$"), "%s", text);
}

Test(log, errno_survives_a_line, .init = stderr_is_pipe) {
    log_init("n", "r", -1, 0, LOG_INFO);
    errno = ENOSPC;
    log_info("a.b", "%m");
    cr_assert_eq(errno, ENOSPC);
    cr_assert(strstr(all_written(), "No space left") != NULL);
}

Test(log, second_log_init_does_not_leak_a_descriptor, .init = stderr_is_pipe) {
    log_init("n", "r", -1, 0, LOG_INFO);
    int before = dup(STDERR_FILENO);
    close(before);
    for (int i = 0; i < 50; i++) log_init("n", "r", -1, 0, LOG_INFO);
    int after = dup(STDERR_FILENO);
    cr_assert_eq(after, before);
}

static void *talker(void *argument) {
    for (int i = 0; i < 200; i++) {
        struct log_site site = {0};
        log_event(&site, LOG_INFO, "a.b", NULL, "%s", (const char *)argument);
    }
    return NULL;
}

Test(log, lines_of_threads_do_not_mix, .timeout = 20) {
    char path[] = "/tmp/millrace-log-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && dup2(fd, STDERR_FILENO) == STDERR_FILENO);
    log_init("n", "r", -1, 0, LOG_INFO);
    pthread_t threads[4];
    const char *words[4] = {"aaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbb", "cccccccccccccccccccc",
                            "dddddddddddddddddddd"};
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, talker, (void *)(uintptr_t)words[i]);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    unlink(path);
    int lines = 0;
    for (char *p = text, *end; (end = strchr(p, '\n')) != NULL; p = end + 1, lines++) {
        *end = 0;
        cr_assert(matches(p, "^" TIME " INFO  n r a\\.b (a{20}|b{20}|c{20}|d{20})$"), "%s", p);
    }
    cr_assert_eq(lines, 800);
}
