/* millrace: one command for operators. This file is its table of contents. */
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "base/config_keys.h"
#include "tools/command.h"
#include "version.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"run", command_run, "run the pipeline of a configuration"},
    {"check", command_check, "validate a configuration and say what would run"},
    {"stats", command_stats, "what a running pipeline is doing, as a table, JSON or Prometheus text"},
    {"top", command_top, "the same live, on a screen"},
    {"ring", command_ring, "what is in the rings between the processes, alive or saved"},
    {"ctl", command_ctl, "ask a running pipeline to reload, to stop, or to give up lost offsets"},
    {"get", command_get, "print the record stored under a Redis key, decrypted and decompressed"},
    {"verify", command_verify, "compare Redis with what the audit log says should be there, and repair it"},
    {"keygen", command_keygen, "make a key file, or add a key to one"},
    {"load", command_load, "publish a file to a topic, so that every record of it can be accounted for"},
    {"replay", command_replay, "send records again, into the pipeline or to a topic"},
    {"rejects", command_rejects, "list or export the records that could not be handled"},
    {"audit", command_audit, "verify the audit log, show what is in it, and print the key of its anchors"},
    {"recon", command_recon, "what was published against what became of it, down to single records"},
    {"tune", command_tune, "what on this host would cost speed, and the commands that mend it"},
    {"demo", command_demo, "see it work on this machine, with a broker and a Redis of its own"},
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

static void usage(FILE *out) {
    fputs("usage: millrace COMMAND [OPTION]...\n\n"
          "Keeps a Redis cache equal to a stream of Kafka topics.\n\n",
          out);
    for (size_t i = 0; i < COMMANDS; i++) fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].help);
    fputs("\n`millrace COMMAND --help` tells more; `millrace --version` prints the version.\n"
          "Commands find their instance by -c FILE; without it ./millrace.yaml, then /etc/millrace/millrace.yaml.\n",
          out);
}

static int unknown(const char *name) {
    size_t nearest = 0;
    char quote[CONFIG_QUOTE_BYTES];
    for (size_t i = 1; i < COMMANDS; i++)
        if (name_distance(name, commands[i].name) < name_distance(name, commands[nearest].name)) nearest = i;
    fprintf(stderr, "millrace: unknown command %s; did you mean %s?\nTry `millrace --help`.\n",
            config_quote(name, quote), commands[nearest].name);
    return EX_USAGE;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        usage(stderr);
        return EX_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return EX_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("millrace %s\n", MILLRACE_VERSION);
        return EX_OK;
    }
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
    return unknown(argv[1]);
}
