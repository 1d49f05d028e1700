/* millrace recon silence: keeps exceptions about a window back for a while. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/utc.h"
#include "recon/silence.h"
#include "tools/command.h"

static const char help[] =
    "usage: millrace recon silence WINDOW [--topic TOPIC] [--for DURATION] [-c FILE]\n"
    "       millrace recon silence --list [-c FILE]\n"
    "\n"
    "Exceptions about the window that begins at WINDOW (2026-03-14T22:20:00Z, or milliseconds since 1970) are not "
    "sent\n"
    "for DURATION (30m, 1h, 2d; default 1h), of every topic or of TOPIC. What is still to be told is told when it is\n"
    "over. --for 0 ends it at once.\n"
    "Exit status: 65 the file of silences is damaged, 69 recon has never run here, 73 it cannot be written.\n";

static int64_t now_ms(void) { return clock_wall_ms(&clock_real); }

static int duration_parse(const char *text, int64_t *ms) {
    static const struct {
        const char *unit;
        int64_t ms;
    } units[] = {{"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
    char *end;
    errno = 0;
    int64_t n = strtoll(text, &end, 10);
    if (end == text || errno != 0 || n < 0 || n > 36500) return -1;
    *ms = 0;
    if (n == 0 && *end == '\0') return 0;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strcmp(end, units[i].unit) == 0) {
            *ms = n * units[i].ms;
            return 0;
        }
    return -1;
}

static void time_print(int64_t ms, const char *after) {
    char text[UTC_BYTES];
    utc_text_ms(text, ms, 0);
    printf("%s%s", text, after);
}

static int complain(const struct err *err) {
    fprintf(stderr, "millrace recon silence: %s\n", err->text);
    return err->code;
}

/* Reads, changes and writes the file while nobody else does. */
static int put(const char *path, const struct silence *item, struct err *err) {
    static struct silences s;
    char folder[PATH_BYTES + 32];
    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(path, '/') - path), path);
    int lock = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock < 0) return err_set(err, EX_UNAVAILABLE, "%s: %s", folder, strerror(errno));
    int r = flock(lock, LOCK_EX) == 0 ? silences_read(path, &s, err)
                                      : err_set(err, EX_CANTCREAT, "%s: %s", folder, strerror(errno));
    if (r == 0 && silences_put(&s, item, now_ms()) != 0)
        r = err_set(err, EX_CANTCREAT, "there are %d silences already", SILENCES_MAX);
    if (r == 0) r = silences_write(path, &s, err);
    close(lock);
    return r;
}

static int list(const char *path) {
    static struct silences s;
    struct err err = {0};
    if (silences_read(path, &s, &err) != 0) return complain(&err);
    for (size_t i = 0; i < s.count; i++) {
        if (s.item[i].until_ms <= now_ms()) continue;
        time_print(s.item[i].window_ms, "  until ");
        time_print(s.item[i].until_ms, "  ");
        puts(strcmp(s.item[i].topic, "*") == 0 ? "every topic" : s.item[i].topic);
    }
    return EX_OK;
}

int command_recon_silence(int argc, char **argv) {
    enum { OPTION_TOPIC = 256, OPTION_FOR, OPTION_LIST };
    static const struct option options[] = {{"topic", required_argument, NULL, OPTION_TOPIC},
                                            {"for", required_argument, NULL, OPTION_FOR},
                                            {"list", no_argument, NULL, OPTION_LIST},
                                            {"config", required_argument, NULL, 'c'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct silence item = {.topic = "*"};
    const char *file = NULL, *topic = NULL;
    char path[PATH_BYTES + 32];
    struct err err = {0};
    int64_t duration_ms = 3600000;
    bool listing = false;
    int o, status = EX_OK;
    optind = 0; /* the whole scan anew: main may have looked at its own options */
    opterr = 0;
    while ((o = getopt_long(argc, argv, "c:h", options, NULL)) != -1) switch (o) {
        case OPTION_TOPIC: topic = optarg; break;
        case OPTION_FOR:
            if (duration_parse(optarg, &duration_ms) != 0)
                return command_misuse("recon", "--for wants a duration such as 30m, 1h or 2d, not %s", optarg);
            break;
        case OPTION_LIST: listing = true; break;
        case 'c': file = optarg; break;
        case 'h': fputs(help, stdout); return EX_OK;
        default: return command_misuse("recon", "unknown option or missing argument: %s", argv[optind - 1]);
        }
    if (argc - optind != (listing ? 0 : 1)) return command_misuse("recon", "silence needs one WINDOW, or --list");
    if (!listing) item.window_ms = utc_read(argv[optind], strlen(argv[optind]));
    if (!listing && item.window_ms < 0)
        return command_misuse("recon", "%s is neither a time (2026-03-14T22:20:00Z) nor milliseconds", argv[optind]);
    const struct config *config = command_config(file, &status);
    if (config == NULL) return status;
    if (topic != NULL && config_topic_index(config, topic) < 0)
        return command_misuse("recon", "the configuration has no topic %s", topic);
    if (topic != NULL) snprintf(item.topic, sizeof item.topic, "%s", topic);
    silences_path(config, path);
    if (listing) return list(path);
    if (item.window_ms % (int64_t)config->recon.window_ms != 0)
        return command_misuse("recon", "no window begins there: recon.window is %u s", config->recon.window_ms / 1000);
    item.until_ms = duration_ms > 0 ? now_ms() + duration_ms : 0;
    if (put(path, &item, &err) != 0) return complain(&err);
    time_print(item.window_ms, duration_ms > 0 ? "  is silent until " : "  is not silent any more, ");
    if (duration_ms > 0) time_print(item.until_ms, "  ");
    puts(topic == NULL ? "every topic" : topic);
    return EX_OK;
}
