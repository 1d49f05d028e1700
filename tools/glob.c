#include "tools/glob.h"

#include <string.h>

#include "base/template.h"

/* One element of a pattern that is no star, at p: whether it takes the character c; *next is behind it. */
static bool element_takes(const char *p, const char *end, char c, const char **next) {
    if (*p == '?') {
        *next = p + 1;
        return true;
    }
    if (*p == '\\' && p + 1 < end) {
        *next = p + 2;
        return p[1] == c;
    }
    if (*p != '[') {
        *next = p + 1;
        return *p == c;
    }
    bool inverted = ++p < end && *p == '^', taken = false;
    if (inverted) p++;
    for (; p < end && *p != ']'; p++) {
        if (*p == '\\' && p + 1 < end) {
            taken |= *++p == c;
        } else if (p + 2 < end && p[1] == '-') {
            unsigned char low = (unsigned char)p[0], high = (unsigned char)p[2], at = (unsigned char)c;
            taken |= low <= high ? low <= at && at <= high : high <= at && at <= low;
            p += 2;
        } else {
            taken |= *p == c;
        }
    }
    *next = p < end ? p + 1 : end;
    return taken != inverted;
}

bool glob_match(const char *pattern, size_t pattern_bytes, const char *text, size_t text_bytes) {
    const char *p = pattern, *p_end = pattern + pattern_bytes, *t = text, *t_end = text + text_bytes, *next;
    const char *star = NULL, *star_text = NULL; /* where to go on when what follows the last star does not fit */
    for (;;) {
        if (p < p_end && *p == '*') {
            star = ++p;
            star_text = t;
        } else if (t == t_end) {
            if (p == p_end) return true;
            return false;
        } else if (p < p_end && element_takes(p, p_end, *t, &next)) {
            p = next;
            t++;
        } else if (star != NULL) {
            p = star;
            t = ++star_text;
        } else {
            return false;
        }
    }
}

static size_t put_literal(char *out, size_t at, const char *text, size_t len) {
    for (size_t i = 0; i < len && at + 3 < GLOB_BYTES; i++) {
        if (strchr("*?[]\\^-", text[i]) != NULL) out[at++] = '\\';
        out[at++] = text[i];
    }
    return at;
}

void glob_of_template(const struct config_topic *topic, char out[GLOB_BYTES]) {
    struct template t;
    struct err err;
    size_t at = 0;
    CHECK(template_parse(topic->key, &t, NULL, &err) == 0); /* the configuration was validated */
    for (uint32_t i = 0; i < t.count; i++) {
        const struct template_part *part = &t.part[i];
        if (part->kind == TEMPLATE_LITERAL)
            at = put_literal(out, at, t.text + part->at, part->len);
        else if (part->kind == TEMPLATE_TOPIC)
            at = put_literal(out, at, topic->name, strlen(topic->name));
        else if (at + 1 < GLOB_BYTES)
            out[at++] = '*';
    }
    out[at] = '\0';
}
