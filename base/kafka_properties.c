#include "base/kafka_properties.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sysexits.h>

#include "base/config_keys.h"

static const struct kafka_property rows[] = {
#define INT(name, min, max) {#name, PROPERTY_INT, min, max, "", NULL, NULL},
#define BOOL(name) {#name, PROPERTY_BOOL, 0, 0, "true|false", NULL, NULL},
#define WORD(name, words) {#name, PROPERTY_WORD, 0, 0, words, NULL, NULL},
#define EXACT(name, words, refused, why) {#name, PROPERTY_EXACT, 0, 0, words, refused, why},
#define LIST(name, words, refused, why) {#name, PROPERTY_LIST, 0, 0, words, refused, why},
#define TEXT(name) {#name, PROPERTY_TEXT, 0, 0, "", NULL, NULL},
#define SECRET(name) {#name, PROPERTY_SECRET, 0, 0, "", NULL, NULL},
#define ALIAS(name, other) {#name, PROPERTY_ALIAS, 0, 0, other, NULL, NULL},
#define REFUSE(name, why) {#name, PROPERTY_REFUSED, 0, 0, "", NULL, why},
#include "base/kafka_properties.def"
};
enum { ROWS = sizeof rows / sizeof rows[0] };

const struct kafka_property *kafka_property_at(size_t i) { return i < ROWS ? &rows[i] : NULL; }

const struct kafka_property *kafka_property_find(const char *name) {
    for (size_t i = 0; i < ROWS; i++) {
        if (strcmp(rows[i].name, name) != 0) continue;
        return rows[i].kind == PROPERTY_ALIAS ? kafka_property_find(rows[i].words) : &rows[i];
    }
    return NULL;
}

const char *kafka_property_nearest(const char *name) {
    const char *nearest = rows[0].name;
    unsigned best = UINT32_MAX;
    for (size_t i = 0; i < ROWS; i++) {
        unsigned d = name_distance(name, rows[i].name);
        if (rows[i].kind == PROPERTY_REFUSED || d >= best) continue;
        best = d;
        nearest = rows[i].name;
    }
    return nearest;
}

/* Is text[0, len) one of the words? */
static bool word_is(const char *words, const char *text, size_t len, bool exact) {
    for (;; words++) {
        size_t n = strcspn(words, "|");
        if (n == len && (exact ? strncmp(words, text, n) : strncasecmp(words, text, n)) == 0) return true;
        words += n;
        if (*words == 0) return false;
    }
}

static int words_check(const struct kafka_property *p, const char *value, struct err *err) {
    char quote[CONFIG_QUOTE_BYTES];
    for (const char *at = value;; at++) {
        size_t len = p->kind == PROPERTY_LIST ? strcspn(at, ",") : strlen(at);
        if (p->refused != NULL && word_is(p->refused, at, len, false))
            return err_set(err, EX_CONFIG, "%s is refused: %s", p->refused, p->why);
        if (!word_is(p->words, at, len, p->kind != PROPERTY_WORD && p->kind != PROPERTY_BOOL))
            return err_set(err, EX_CONFIG, "found \"%s\", expected %s%s", config_quote(value, quote),
                           p->kind == PROPERTY_LIST ? "a list of " : "", p->words);
        at += len;
        if (*at == 0) return 0;
    }
}

int kafka_property_check(const struct kafka_property *p, const char *value, struct err *err) {
    char quote[CONFIG_QUOTE_BYTES], *end;
    if (value[0] == 0) return err_set(err, EX_CONFIG, "must not be empty");
    if (p->kind == PROPERTY_TEXT || p->kind == PROPERTY_SECRET) return 0;
    if (p->kind != PROPERTY_INT) return words_check(p, value, err);
    errno = 0;
    long long n = strtoll(value, &end, 10);
    if (strchr("-0123456789", value[0]) == NULL || *end != 0)
        return err_set(err, EX_CONFIG, "found \"%s\", expected a whole number from %lld to %lld",
                       config_quote(value, quote), (long long)p->min, (long long)p->max);
    if (errno != 0 || n < p->min || n > p->max)
        return err_set(err, EX_CONFIG, "%s is out of range: %lld to %lld", config_quote(value, quote),
                       (long long)p->min, (long long)p->max);
    return 0;
}
