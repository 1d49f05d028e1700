#include "base/template.h"

#include <string.h>
#include <sysexits.h>

static const struct {
    const char *name;
    enum template_kind kind;
} words[] = {{"$key", TEMPLATE_KEY},
             {"$topic", TEMPLATE_TOPIC},
             {"$partition", TEMPLATE_PARTITION},
             {"$offset", TEMPLATE_OFFSET}};

struct reader {
    struct template *out;
    size_t used; /* bytes of out->text */
};

/* Adds a part with its text; literals that follow each other become one. */
static bool part_add(struct reader *r, enum template_kind kind, const char *text, size_t len) {
    struct template *t = r->out;
    struct template_part *last = t->count > 0 ? &t->part[t->count - 1] : NULL;
    if (kind != TEMPLATE_LITERAL || last == NULL || last->kind != TEMPLATE_LITERAL) {
        if (t->count == TEMPLATE_PARTS_MAX) return false;
        last = &t->part[t->count++];
        *last = (struct template_part){.kind = (uint16_t)kind, .at = (uint16_t)r->used};
    }
    memcpy(t->text + r->used, text, len);
    r->used += len;
    last->len = (uint16_t)(last->len + len);
    return true;
}

/* name[0, len) is what stands between the braces. Returns 0 or -1 with err. */
static int name_add(struct reader *r, const char *name, size_t len, struct err *err) {
    enum template_kind kind = TEMPLATE_FIELD;
    if (len == 0) return err_set(err, EX_CONFIG, "{} names no field");
    if (name[0] == '$') {
        for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
            if (strlen(words[i].name) == len && memcmp(words[i].name, name, len) == 0) kind = words[i].kind;
        if (kind == TEMPLATE_FIELD)
            return err_set(err, EX_CONFIG, "{%.*s} is unknown: {$key} {$topic} {$partition} {$offset} or {field}",
                           (int)len, name);
        len = 0;
    } else if (memchr(name, '.', len) != NULL) {
        return err_set(err, EX_CONFIG,
                       "{%.*s} names a nested field; only top-level fields are available in this version", (int)len,
                       name);
    }
    return part_add(r, kind, name, len)
               ? 0
               : err_set(err, EX_CONFIG, "a template has at most %d parts", TEMPLATE_PARTS_MAX);
}

/* Reads the literal character, doubled brace or {name} at *p and moves *p behind it. */
static int item_read(struct reader *r, const char **p, struct err *err) {
    const char *s = *p;
    if ((unsigned char)*s < 0x20 || *s == 0x7f) return err_set(err, EX_CONFIG, "a template has no control characters");
    if ((*s != '{' && *s != '}') || s[1] == s[0]) {
        *p += *s == '{' || *s == '}' ? 2 : 1;
        return part_add(r, TEMPLATE_LITERAL, s, 1)
                   ? 0
                   : err_set(err, EX_CONFIG, "a template has at most %d parts", TEMPLATE_PARTS_MAX);
    }
    if (*s == '}') return err_set(err, EX_CONFIG, "} without { (write }} for the brace itself)");
    size_t len = strcspn(s + 1, "{}");
    if (s[1 + len] != '}') return err_set(err, EX_CONFIG, "{ without } (write {{ for the brace itself)");
    *p += len + 2;
    return name_add(r, s + 1, len, err);
}

int template_parse(const char *text, struct template *out, size_t *at, struct err *err) {
    *out = (struct template){0};
    struct reader r = {.out = out};
    size_t ignored;
    if (at == NULL) at = &ignored;
    *at = 0;
    if (text[0] == 0) return err_set(err, EX_CONFIG, "an empty template makes no key");
    if (strlen(text) >= TEMPLATE_BYTES)
        return err_set(err, EX_CONFIG, "a template is at most %d characters", TEMPLATE_BYTES - 1);
    for (const char *p = text; *p != 0;) {
        *at = (size_t)(p - text);
        if (item_read(&r, &p, err) != 0) return -1;
    }
    return 0;
}

bool template_has(const struct template *t, enum template_kind kind) {
    for (uint32_t i = 0; i < t->count; i++)
        if (t->part[i].kind == kind) return true;
    return false;
}
