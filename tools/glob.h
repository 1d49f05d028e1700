/* Patterns of Redis keys, as Redis's own SCAN MATCH reads them: * ? [abc] [a-z] [^a], and \x for x itself. */
#ifndef MILLRACE_TOOLS_GLOB_H
#define MILLRACE_TOOLS_GLOB_H

#include <stdbool.h>
#include <stddef.h>

#include "base/config.h"

bool glob_match(const char *pattern, size_t pattern_bytes, const char *text, size_t text_bytes);

/* glob_of_template writes the pattern that every key made by the topic's template matches, terminated. It may match
 * other keys as well: a field can hold anything. */
enum { GLOB_BYTES = 2 * (TEMPLATE_BYTES + TOPIC_BYTES * 32) }; /* as many parts as a template has */
void glob_of_template(const struct config_topic *topic, char out[GLOB_BYTES]);

#endif
