/* Text as JSON: for output of programs. */
#ifndef MILLRACE_BASE_JSON_TEXT_H
#define MILLRACE_BASE_JSON_TEXT_H

#include <stdio.h>

/* json_text_put writes text[0, len) as a JSON string with its quotes. Bytes that are no UTF-8 become U+FFFD, each, so
 * that the output is valid whatever a server or a file has put in. */
void json_text_put(const void *text, size_t len, FILE *out);

#endif
