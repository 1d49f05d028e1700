/* millrace top: an instance at a glance, live, from its stats segment.
 *
 * Signals come through a descriptor, so that nothing happens to the terminal but where the loop does it: it is put back
 * before the process stops or leaves, whatever the reason. */
#include <curses.h>
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "tools/command.h"
#include "tools/top_layout.h"

static const char help[] =
    "usage: millrace top [-c FILE | --name NAME [--run-dir DIR]] [--interval SECONDS] [--once]\n"
    "\n"
    "Shows an instance live: what is wrong, rates, lag in records and in time, how full the rings are, latency,\n"
    "workers, partitions with the most lag. It is found as by `millrace stats`, and need not run yet.\n"
    "\n"
    "  --interval SECONDS   between two looks, 0.2 to 60 (default 1); rates and latency are those of the interval\n"
    "  --once               one frame as plain text, after one interval; needs no terminal\n"
    "\n"
    "keys: q quit, p pause, + and - another interval, Tab another view (overview, lanes, workers, partitions)\n"
    "Colours are left out when NO_COLOR is set. How full a ring is in bytes needs the instance's user, or root.\n"
    "exit status: 0; 64 wrong arguments, or no terminal; 69 (--once) there is no such instance; 66 or 78 FILE cannot "
    "be\n"
    "read or is refused\n";

static const uint32_t intervals_ms[] = {200, 500, 1000, 2000, 5000, 10000, 30000, 60000};
enum { INTERVALS = sizeof intervals_ms / sizeof intervals_ms[0], ONCE_ROWS = 120, ONCE_WIDTH = 100, ESCAPE_MS = 25 };

struct top {
    struct command_place place;
    struct stats stats;
    dev_t device; /* of the segment that is mapped */
    ino_t inode;
    struct sample sample[2]; /* the last two looks; of one segment when `looks` is 2 */
    int current, looks;
    struct change change;
    struct caught_up caught;
    struct frame frame;
    uint32_t interval_ms;
    enum top_view view;
    bool paused;
};

/* -- looking ----------------------------------------------------------------------------------- */

static bool segment_find(const struct top *t, struct stat *st) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s.stats", t->place.run_dir, t->place.name);
    return stat(path, st) == 0;
}

/* A supervisor makes its segment anew when it starts: the same path, another file. Taken note of before it is opened,
 * so that one that comes in between is seen the next time. */
static int segment_follow(struct top *t, struct err *err) {
    struct stat st = {0};
    bool there = segment_find(t, &st);
    if (t->stats.header != NULL && there && st.st_ino == t->inode && st.st_dev == t->device) return 0;
    if (t->stats.header != NULL) stats_close(&t->stats);
    t->looks = 0;
    t->caught = (struct caught_up){0};
    t->inode = st.st_ino;
    t->device = st.st_dev;
    return stats_open(&t->stats, t->place.run_dir, t->place.name, err);
}

static int look(struct top *t, struct err *err) {
    int r = segment_follow(t, err);
    t->current = 1 - t->current;
    struct sample *now = &t->sample[t->current];
    if (r == 0)
        sample_take(now, &t->stats);
    else
        sample_missing(now, t->place.name, err->text);
    t->looks = r != 0 ? 0 : t->looks < 2 ? t->looks + 1 : 2;
    sample_change(&t->change, t->looks == 2 ? &t->sample[1 - t->current] : NULL, now, &t->caught);
    return r;
}

/* -- once -------------------------------------------------------------------------------------- */

static int terminal_width(void) {
    struct winsize size;
    return isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col
                                                                                                    : ONCE_WIDTH;
}

static int once(struct top *t) {
    struct err err = {0};
    struct timespec pause = {.tv_sec = t->interval_ms / 1000, .tv_nsec = (long)(t->interval_ms % 1000) * 1000000};
    if (look(t, &err) == 0) {
        nanosleep(&pause, NULL);
        look(t, &err);
    }
    if (err.code != 0) {
        fprintf(stderr, "millrace top: %s\n", err.text);
        return err.code;
    }
    struct top_picture picture = {.now = &t->sample[t->current], .change = &t->change};
    frame_clear(&t->frame, ONCE_ROWS, FRAME_COLUMNS_MAX);
    top_layout(&t->frame, terminal_width(), &picture);
    frame_print(&t->frame, stdout);
    return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
}

/* -- screen ------------------------------------------------------------------------------------ */

static attr_t attributes[STYLE_COUNT];

static void styles_make(void) {
    const char *no = getenv("NO_COLOR");
    bool colours = (no == NULL || no[0] == 0) && has_colors() && start_color() == OK;
    attributes[STYLE_DIM] = A_DIM;
    attributes[STYLE_BOLD] = attributes[STYLE_GOOD] = attributes[STYLE_WARN] = A_BOLD;
    attributes[STYLE_HEAD] = A_UNDERLINE;
    attributes[STYLE_BAD] = A_BOLD | A_REVERSE;
    if (!colours) return;
    use_default_colors();
    init_pair(1, COLOR_GREEN, -1);
    init_pair(2, COLOR_YELLOW, -1);
    init_pair(3, COLOR_WHITE, COLOR_RED);
    init_pair(4, COLOR_CYAN, -1);
    attributes[STYLE_GOOD] = (attr_t)COLOR_PAIR(1);
    attributes[STYLE_WARN] = A_BOLD | (attr_t)COLOR_PAIR(2);
    attributes[STYLE_BAD] = A_BOLD | (attr_t)COLOR_PAIR(3);
    attributes[STYLE_HEAD] = (attr_t)COLOR_PAIR(4);
}

/* NULL after saying why. A terminal that cannot place its cursor has no screen to draw on. */
static SCREEN *screen_begin(void) {
    static char place_cursor[] = "cup";
    const char *term = getenv("TERM");
    SCREEN *screen = term == NULL ? NULL : newterm(term, stdout, stdin);
    const char *able = screen == NULL ? NULL : tigetstr(place_cursor);
    if (able == NULL || able == (char *)-1) {
        if (screen != NULL) endwin();
        fprintf(stderr, "millrace top: a terminal of type %s has no screen to draw on; --once prints one frame\n",
                term == NULL ? "unknown" : term);
        return NULL;
    }
    cbreak();
    noecho();
    nonl();
    nodelay(stdscr, TRUE);
    keypad(stdscr, TRUE);
    set_escdelay(ESCAPE_MS);
    curs_set(0);
    styles_make();
    return screen;
}

static void size_follow(void) {
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0 || size.ws_col == 0) return;
    resizeterm(size.ws_row, size.ws_col);
}

static void draw(struct top *t) {
    char footer[128];
    snprintf(footer, sizeof footer, "q quit   p %s   +/- every %gs   Tab: %s", t->paused ? "go on" : "pause",
             (double)t->interval_ms / 1000, top_view_name((enum top_view)((t->view + 1) % VIEW_COUNT)));
    struct top_picture picture = {&t->sample[t->current], &t->change, t->view, t->paused, footer};
    struct frame *f = &t->frame;
    frame_clear(f, LINES, COLS);
    top_layout(f, f->columns, &picture);
    erase();
    for (int row = 0; row < f->rows; row++)
        for (int at = 0, n; at < f->columns; at += n) {
            for (n = 1; at + n < f->columns && f->style[row][at + n] == f->style[row][at]; n++) continue;
            attrset(attributes[f->style[row][at]]);
            mvaddnstr(row, at, &f->text[row][at], n);
        }
    refresh();
}

/* -- events ------------------------------------------------------------------------------------ */

static void interval_step(struct top *t, int by) {
    int i = 0;
    while (i < INTERVALS - 1 && intervals_ms[i] < t->interval_ms) i++;
    if (i + by >= 0 && i + by < INTERVALS) t->interval_ms = intervals_ms[i + by];
}

/* False: leave. */
static bool keys_handle(struct top *t) {
    for (int key; (key = getch()) != ERR;) switch (key) {
        case 'q':
        case 'Q': return false;
        case 'p':
        case ' ': t->paused = !t->paused; break;
        case '+':
        case '=': interval_step(t, 1); break;
        case '-': interval_step(t, -1); break;
        case '\t': t->view = (enum top_view)((t->view + 1) % VIEW_COUNT); break;
        case KEY_BTAB: t->view = (enum top_view)((t->view + VIEW_COUNT - 1) % VIEW_COUNT); break;
        default: break;
        }
    return true;
}

static int signals_begin(sigset_t *before) {
    const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) sigaddset(&set, numbers[i]);
    sigprocmask(SIG_BLOCK, &set, before);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* The terminal is the shell's while this process is stopped. */
static void stop_self(void) {
    endwin();
    raise(SIGSTOP);
}

static bool signals_handle(int signals) {
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) == (ssize_t)sizeof info) switch (info.ssi_signo) {
        case SIGTSTP: stop_self(); break;
        case SIGCONT: /* perhaps stopped by a signal that cannot be caught: nothing on the terminal is ours any more */
            reset_prog_mode();
            clearok(curscr, TRUE);
            size_follow();
            break;
        case SIGWINCH: size_follow(); break;
        default: return false;
        }
    return true;
}

static void live(struct top *t, int signals) {
    struct pollfd fds[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    uint64_t looked = 0;
    for (;;) {
        struct err err = {0};
        uint64_t now = clock_ns(&clock_real), due = looked + t->interval_ms * NS_PER_MS;
        if (looked == 0 || (!t->paused && now >= due)) {
            look(t, &err);
            looked = now;
            due = now + t->interval_ms * NS_PER_MS;
        }
        draw(t);
        int wait_ms = t->paused ? -1 : due > now ? (int)((due - now + NS_PER_MS - 1) / NS_PER_MS) : 0;
        if (poll(fds, 2, wait_ms) < 0 && errno != EINTR) return;
        if ((fds[1].revents & POLLIN) != 0 && !signals_handle(signals)) return;
        if ((fds[0].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) return; /* nobody is there */
        if ((fds[0].revents & POLLIN) != 0 && !keys_handle(t)) return;
    }
}

static int watch(struct top *t) {
    sigset_t before;
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
        fputs("millrace top: this is not a terminal; --once prints one frame as plain text\n", stderr);
        return EX_USAGE;
    }
    int signals = signals_begin(&before);
    SCREEN *screen = screen_begin();
    if (screen != NULL) {
        live(t, signals);
        endwin();
        delscreen(screen);
    }
    close(signals);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return screen != NULL ? EX_OK : EX_USAGE;
}

/* -- command ----------------------------------------------------------------------------------- */

static bool interval_read(const char *text, uint32_t *ms) {
    char *end;
    double seconds = strtod(text, &end);
    if (end == text || *end != 0 || !(seconds >= 0.2 && seconds <= 60)) return false;
    *ms = (uint32_t)(seconds * 1000 + 0.5);
    return true;
}

int command_top(int argc, char **argv) {
    enum { OPTION_ONCE = 256 };
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"name", required_argument, NULL, 'n'},
                                            {"run-dir", required_argument, NULL, 'd'},
                                            {"interval", required_argument, NULL, 'i'},
                                            {"once", no_argument, NULL, OPTION_ONCE},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    static struct top t; /* large */
    const char *file = NULL, *name = NULL, *run_dir = NULL;
    bool plain = false;
    int o;
    t.interval_ms = 1000;
    opterr = 0;
    while ((o = getopt_long(argc, argv, "c:h", options, NULL)) != -1) switch (o) {
        case 'c': file = optarg; break;
        case 'n': name = optarg; break;
        case 'd': run_dir = optarg; break;
        case 'i':
            if (!interval_read(optarg, &t.interval_ms))
                return command_misuse("top", "--interval %s: seconds from 0.2 to 60 are needed", optarg);
            break;
        case OPTION_ONCE: plain = true; break;
        case 'h': return fputs(help, stdout) < 0 ? EX_IOERR : EX_OK;
        default: return command_misuse("top", "unknown option or missing argument: %s", argv[optind - 1]);
        }
    if (optind < argc) return command_misuse("top", "unexpected argument %s", argv[optind]);
    int status = command_place("top", file, name, run_dir, &t.place);
    if (status == 0) status = plain ? once(&t) : watch(&t);
    if (t.stats.header != NULL) stats_close(&t.stats);
    return status;
}
