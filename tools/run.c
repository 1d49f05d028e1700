/* The commands that become another program: run and demo. */
#include <getopt.h>
#include <stdio.h>
#include <sysexits.h>

#include "tools/command.h"

static const char run_help[] =
    "usage: millrace run [-c FILE]\n"
    "\n"
    "Runs the pipeline of FILE (default ./millrace.yaml, then /etc/millrace/millrace.yaml) in the foreground:\n"
    "becomes millrace-supervisor, which starts and replaces the workers. Logs go to standard error.\n"
    "\n"
    "SIGTERM or SIGINT drains: reading stops, what has been read is applied and committed.\n"
    "SIGHUP reloads FILE, as `millrace ctl reload` does: what has been read is applied, then everything goes on with\n"
    "the new configuration; a file that is refused changes nothing, and the log says why.\n"
    "Kafka or Redis being away is a state (see `millrace stats`), not a failure to start.\n"
    "\n"
    "exit status: 0 drained; 75 drain_timeout passed first, or an instance of this name runs already; 78 the\n"
    "configuration, or what it asks of Kafka or Redis, was refused, or a worker cannot go on; 70 a worker kept\n"
    "dying; 73 run_dir or data_dir cannot be made; 66 FILE cannot be read.\n";

int command_run(int argc, char **argv) {
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"help", no_argument, NULL, 'h'}, {0}};
    const char *file = NULL;
    int o, status;
    opterr = 0;
    while ((o = getopt_long(argc, argv, "c:h", options, NULL)) != -1) {
        if (o == 'h') return fputs(run_help, stdout) < 0 ? EX_IOERR : EX_OK;
        if (o != 'c') return command_misuse(argv[0], "unknown option or missing argument: %s", argv[optind - 1]);
        file = optarg;
    }
    if (optind < argc) return command_misuse(argv[0], "unexpected argument %s", argv[optind]);
    if (file == NULL) file = config_find();
    if (command_config(file, &status) == NULL) return status; /* mistakes show here, before anything starts */
    char *args[] = {(char[]){"millrace-supervisor"}, (char[]){"-c"}, (char *)file, NULL};
    return command_exec("millrace-supervisor", args);
}

int command_demo(int argc, char **argv) {
    (void)argc;
    argv[0] = (char[]){"millrace-demo"};
    return command_exec("millrace-demo", argv);
}
