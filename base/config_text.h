/* Where the texts of a configuration come from beside the file itself: the environment and secret files. */
#ifndef MILLRACE_BASE_CONFIG_TEXT_H
#define MILLRACE_BASE_CONFIG_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* config_expand copies text to out with ${NAME} and ${NAME:default} replaced from the environment; the default ends at
 * the first }, and $${ stands for ${ itself. What comes from the environment is not looked at again.
 * Returns 0, or -1 with err.code EX_CONFIG and *at the byte of text it is about: NAME is not set and has no default, is
 * not a name, has no closing brace, or the result does not fit size. */
int config_expand(const char *text, char *out, size_t size, size_t *at, struct err *err);

/* config_secret_read reads the first line of the file at path, without its newline, into out; the caller wipes it.
 * Returns 0, or -1 with err.code EX_CONFIG: no such file, not a regular file, readable by others than owner and group,
 * empty first line, longer than size - 1, a NUL in it. No message contains a part of the secret. */
int config_secret_read(const char *path, char *out, size_t size, struct err *err);

/* config_file_check: whether the file at path can be read and is a regular file; a secret one must not be readable by
 * others than owner and group. 0, or -1 with err.code EX_CONFIG. */
int config_file_check(const char *path, bool secret, struct err *err);

#endif
