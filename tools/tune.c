/* millrace tune check: what on this host would cost the pipeline speed. */
#include "base/tune.h"

#include <getopt.h>
#include <string.h>
#include <sysexits.h>

#include "base/json_text.h"
#include "tools/command.h"

static const char help[] =
    "usage: millrace tune check [-c FILE] [--format FORMAT]\n"
    "\n"
    "Looks at what on this host would cost the pipeline of FILE speed: processors, memory, limits. Each check is ok, "
    "a\n"
    "warning with the command that mends it, or unknown where the kernel does not say. Changes nothing and needs no\n"
    "privileges; run it as the user and with the limits of the service. What does not concern FILE is left out.\n"
    "\n"
    "  --format table   for people (the default)\n"
    "  --format json    {\"warnings\": N, \"unknown\": N, \"checks\": [{check, status, reason, command}]}\n"
    "\n"
    "exit status: 0 nothing warns; 1 something does; 66 or 78 FILE cannot be read or is refused.\n";

enum { EXIT_WARNINGS = 1 };

static void table_put(const struct tune *t) {
    for (uint32_t i = 0; i < t->count; i++) {
        const struct tune_finding *f = &t->finding[i];
        printf("%-8s %-14s %s\n", tune_status_name(f->status), f->check, f->reason);
        if (f->command[0] != 0) printf("%24s%s\n", "", f->command);
    }
    printf("%u checks: %u ok, %u warning%s, %u unknown\n", t->count, tune_count(t, TUNE_OK),
           tune_count(t, TUNE_WARNING), tune_count(t, TUNE_WARNING) == 1 ? "" : "s", tune_count(t, TUNE_UNKNOWN));
}

static void member_put(const char *name, const char *text, const char *end) {
    printf("\"%s\": ", name);
    json_text_put(text, strlen(text), stdout);
    fputs(end, stdout);
}

static void json_put(const struct tune *t) {
    printf("{\"warnings\": %u, \"unknown\": %u, \"checks\": [", tune_count(t, TUNE_WARNING),
           tune_count(t, TUNE_UNKNOWN));
    for (uint32_t i = 0; i < t->count; i++) {
        const struct tune_finding *f = &t->finding[i];
        fputs(i == 0 ? "\n  {" : ",\n  {", stdout);
        member_put("check", f->check, ", ");
        member_put("status", tune_status_name(f->status), ", ");
        member_put("reason", f->reason, ", ");
        member_put("command", f->command, "}");
    }
    puts("\n]}");
}

int command_tune(int argc, char **argv) {
    enum { OPTION_ROOT = 256 };
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"format", required_argument, NULL, 'f'},
                                            {"root", required_argument, NULL, OPTION_ROOT}, /* for tests */
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    const char *file = NULL, *format = "table", *root = "";
    struct tune t;
    int o, status = EX_OK;
    opterr = 0;
    while ((o = getopt_long(argc, argv, "c:h", options, NULL)) != -1) switch (o) {
        case 'c': file = optarg; break;
        case 'f': format = optarg; break;
        case OPTION_ROOT: root = optarg; break;
        case 'h': return fputs(help, stdout) < 0 ? EX_IOERR : EX_OK;
        default: return command_misuse(argv[0], "unknown option or missing argument: %s", argv[optind - 1]);
        }
    if (argc - optind != 1 || strcmp(argv[optind], "check") != 0) return command_misuse(argv[0], "say `check`");
    bool json = strcmp(format, "json") == 0;
    if (!json && strcmp(format, "table") != 0)
        return command_misuse(argv[0], "unknown format %s: table or json", format);
    const struct config *config = command_config(file, &status);
    if (config == NULL) return status;
    tune_check(&t, root, config);
    (json ? json_put : table_put)(&t);
    if (fflush(stdout) != 0) return EX_IOERR;
    return tune_count(&t, TUNE_WARNING) > 0 ? EXIT_WARNINGS : EX_OK;
}
