/* millrace stats: what an instance is doing, read from its stats segment. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "shm/stats_render.h"
#include "tools/command.h"

static const char help[] =
    "usage: millrace stats [-c FILE | --name NAME [--run-dir DIR]] [--format FORMAT]\n"
    "\n"
    "Shows what the instance is doing, without disturbing it. It is found by its configuration FILE (default\n"
    "./millrace.yaml, then /etc/millrace/millrace.yaml) or by its NAME in DIR (default /run/millrace).\n"
    "\n"
    "  --format table        for people (the default)\n"
    "  --format json         everything, as one object; quantiles beyond 18 minutes, which are not told apart, are "
    "null\n"
    "  --format prometheus   everything, as text for Prometheus\n"
    "  --format markdown     what every metric means (docs/metrics.md); needs no instance\n"
    "\n"
    "exit status: 0; 69 there is no such instance; 65 its segment cannot be read by this version; 66 or 78 FILE\n"
    "cannot be read or is refused. An instance that has ended is shown with the state `stopped`.\n";

static const struct {
    const char *name;
    void (*render)(const struct stats *s, FILE *out);
} formats[] = {{"table", stats_render_table}, {"json", stats_render_json}, {"prometheus", stats_render_prometheus}};

static int show(const char *run_dir, const char *name, const char *format) {
    struct stats s = {0};
    struct err err = {0};
    if (stats_open(&s, run_dir, name, &err) != 0) {
        fprintf(stderr, "millrace stats: %s\n", err.text);
        return err.code;
    }
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (strcmp(format, formats[i].name) == 0) formats[i].render(&s, stdout);
    stats_close(&s);
    return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
}

static bool format_known(const char *format) {
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (strcmp(format, formats[i].name) == 0) return true;
    return strcmp(format, "markdown") == 0;
}

struct arguments {
    const char *file, *name, *run_dir, *format;
};

static int find_and_show(const char *command, const struct arguments *a) {
    struct command_place place;
    if (strcmp(a->format, "markdown") == 0) {
        stats_render_markdown(stdout);
        return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
    }
    int status = command_place(command, a->file, a->name, a->run_dir, &place);
    return status != 0 ? status : show(place.run_dir, place.name, a->format);
}

int command_stats(int argc, char **argv) {
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'},  {"name", required_argument, NULL, 'n'},
        {"run-dir", required_argument, NULL, 'd'}, {"format", required_argument, NULL, 'f'},
        {"help", no_argument, NULL, 'h'},          {0}};
    struct arguments a = {.format = "table"};
    int o;
    opterr = 0;
    while ((o = getopt_long(argc, argv, "c:h", options, NULL)) != -1) {
        switch (o) {
        case 'c': a.file = optarg; break;
        case 'n': a.name = optarg; break;
        case 'd': a.run_dir = optarg; break;
        case 'f': a.format = optarg; break;
        case 'h': return fputs(help, stdout) < 0 ? EX_IOERR : EX_OK;
        default: return command_misuse(argv[0], "unknown option or missing argument: %s", argv[optind - 1]);
        }
    }
    if (optind < argc) return command_misuse(argv[0], "unexpected argument %s", argv[optind]);
    if (!format_known(a.format))
        return command_misuse(argv[0], "unknown format %s: table, json, prometheus or markdown", a.format);
    return find_and_show(argv[0], &a);
}
