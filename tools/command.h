/* The commands of `millrace`: one function each, and the little they share.
 *
 * Every command parses its own arguments, prints data to standard output and complaints to standard error, knows
 * --help, and returns an exit status of sysexits.h: 0, EX_USAGE 64 (wrong arguments), EX_DATAERR 65, EX_NOINPUT 66
 * (file missing), EX_UNAVAILABLE 69 (not running, server not reached), EX_CONFIG 78 (configuration refused). */
#ifndef MILLRACE_TOOLS_COMMAND_H
#define MILLRACE_TOOLS_COMMAND_H

#include "base/config.h"

/* argv[0] is the command's name; the rest are its own arguments. Return the exit status. */
int command_run(int argc, char **argv);
int command_check(int argc, char **argv);
int command_stats(int argc, char **argv);
int command_get(int argc, char **argv);
int command_keygen(int argc, char **argv);
int command_rejects(int argc, char **argv);
int command_audit(int argc, char **argv);
int command_tune(int argc, char **argv);
int command_ctl(int argc, char **argv);
int command_demo(int argc, char **argv);
int command_ring(int argc, char **argv);
int command_top(int argc, char **argv);
int command_verify(int argc, char **argv);
int command_load(int argc, char **argv);
int command_replay(int argc, char **argv);

int command_recon(int argc, char **argv);
/* `millrace recon record …`, `… exceptions …` and `… silence …`: argv[0] is that word. */
int command_recon_exceptions(int argc, char **argv);
int command_recon_record(int argc, char **argv);
int command_recon_silence(int argc, char **argv);

/* command_config loads the configuration file (NULL: the one config_find finds).
 * Returns it (static storage, one at a time), or NULL after printing what is wrong, with *status to return. */
const struct config *command_config(const char *file, int *status);

/* Where an instance's stats segment is. */
struct command_place {
    const char *run_dir, *name;
};

/* command_place finds the instance that the options mean, each of which may be NULL: -c FILE, or --name NAME with
 * --run-dir DIR (default /run/millrace); none: the configuration that config_find finds. Returns 0 (out then lives as
 * long as the arguments do), or the exit status after printing what is wrong. */
int command_place(const char *command, const char *file, const char *name, const char *run_dir,
                  struct command_place *out);

/* command_index_key has this process use the indexes of the audit log, when it may read the key file (NULL, or "":
 * none): without them segments are read through. command_forged tells on standard error of indexes that were changed.
 * */
void command_index_key(const char *keys);
struct log_search;
void command_forged(const char *command, const struct log_search *s);

/* command_misuse prints "millrace COMMAND: <message>" and where the help is. Returns EX_USAGE. */
int command_misuse(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* command_exec replaces this process by `program`, found beside this executable or in ../libexec/millrace of its
 * folder.
 * argv: as for execv. Returns EX_UNAVAILABLE or EX_OSERR after printing why, when it could not. */
int command_exec(const char *program, char **argv);

#endif
