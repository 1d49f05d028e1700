/* Texts of single configuration values: reading, writing, and what is accepted. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/config_keys.h"
#include "base/template.h"

struct unit {
    const char *name;
    uint64_t factor;
};
static const struct unit duration_units[] = {{"ms", 1},      {"s", 1000},     {"m", 60000},
                                             {"h", 3600000}, {"d", 86400000}, {NULL, 0}};
static const struct unit size_units[] = {{"", 1},          {"KiB", 1 << 10},    {"MiB", 1 << 20},
                                         {"GiB", 1 << 30}, {"TiB", 1ULL << 40}, {NULL, 0}};

const char *config_quote(const char *text, char out[CONFIG_QUOTE_BYTES]) {
    size_t n = strnlen(text, 61);
    bool cut = n > 60;
    if (cut)
        for (n = 60; n > 0 && (text[n] & 0xc0) == 0x80;) n--; /* not within a character */
    for (size_t i = 0; i < n; i++) out[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    snprintf(out + n, CONFIG_QUOTE_BYTES - n, "%s", cut ? "..." : "");
    return out;
}

static unsigned edit_distance(const char *a, const char *b) {
    enum { MOST = 127 };
    unsigned row[3][MOST + 1]; /* this row of the table and the two above it */
    size_t la = strnlen(a, MOST), lb = strnlen(b, MOST);
    for (size_t j = 0; j <= lb; j++) row[0][j] = (unsigned)j;
    for (size_t i = 1; i <= la; i++) {
        unsigned *now = row[i % 3], *up = row[(i + 2) % 3], *up2 = row[(i + 1) % 3];
        now[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            unsigned best = up[j - 1] + (a[i - 1] != b[j - 1]);
            if (up[j] + 1 < best) best = up[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && up2[j - 2] + 1 < best)
                best = up2[j - 2] + 1;
            now[j] = best;
        }
    }
    return row[la % 3][lb];
}

unsigned name_distance(const char *written, const char *known) {
    size_t len = strlen(written);
    if (len >= 3 && strlen(known) > len && memcmp(written, known, len) == 0) return 1;
    return edit_distance(written, known);
}

/* -- numbers ----------------------------------------------------------------------------------- */

static void number_store(const struct config_key *k, void *base, uint64_t value) {
    char *p = (char *)base + k->offset;
    if (k->size == 8) memcpy(p, &value, 8);
    if (k->size == 4) memcpy(p, &(uint32_t){(uint32_t)value}, 4);
    if (k->size == 1) memcpy(p, &(uint8_t){(uint8_t)value}, 1);
}

static uint64_t number_load(const struct config_key *k, const void *base) {
    const char *p = (const char *)base + k->offset;
    uint64_t wide = 0;
    uint32_t word = 0;
    if (k->size == 1) return (uint8_t)*p;
    if (k->size == 4) {
        memcpy(&word, p, 4);
        return word;
    }
    memcpy(&wide, p, 8);
    return wide;
}

/* digits, then one of the units' names. Returns false when text is anything else. */
static bool number_read(const char *text, const struct unit *units, uint64_t *out) {
    uint64_t value = 0;
    const char *p = text;
    for (; isdigit((unsigned char)*p); p++)
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
            value = UINT64_MAX / 2; /* out of every range, and said so below */
    if (p == text) return false;
    if (units == NULL || (*p == 0 && value == 0)) { /* nothing has no unit */
        *out = value;
        return *p == 0;
    }
    for (; units->name != NULL; units++) {
        if (strcmp(p, units->name) != 0) continue;
        if (__builtin_mul_overflow(value, units->factor, out)) *out = UINT64_MAX;
        return true;
    }
    return false;
}

static const struct unit *units_of(enum config_type type) {
    if (type == TYPE_DURATION) return duration_units;
    return type == TYPE_SIZE || type == TYPE_SIZE2 ? size_units : NULL;
}

/* The largest unit that divides the value: 60000 ms is 1m, 90000 ms is 90s. */
static void number_write(enum config_type type, uint64_t value, char *out, size_t size) {
    const struct unit *u = units_of(type), *best = u;
    for (; u != NULL && u->name != NULL && value != 0; u++)
        if (value % u->factor == 0) best = u;
    const char *name = best == NULL || (value == 0 && type == TYPE_DURATION) ? "" : best->name;
    snprintf(out, size, "%llu%s", (unsigned long long)(best == NULL ? value : value / best->factor), name);
}

static const char *number_kind(enum config_type type) {
    if (type == TYPE_DURATION) return "a duration such as 500ms, 10s, 5m or 1h";
    if (type == TYPE_SIZE) return "a size such as 1048576, 64MiB or 1GiB";
    if (type == TYPE_SIZE2) return "a power of two such as 16777216 or 16MiB";
    return "a whole number";
}

static int number_parse(const struct config_key *k, const char *text, void *base, struct err *err) {
    uint64_t value;
    char range[128], quote[CONFIG_QUOTE_BYTES];
    config_range_format(k, range, sizeof range);
    config_quote(text, quote);
    if (!number_read(text, units_of(k->type), &value))
        return err_set(err, EX_CONFIG, "found \"%s\", expected %s, %s", quote, number_kind(k->type), range);
    if (value < k->min || value > k->max) return err_set(err, EX_CONFIG, "%s is out of range: %s", quote, range);
    if (k->type == TYPE_SIZE2 && (value & (value - 1)) != 0)
        return err_set(err, EX_CONFIG, "%s is not a power of two", quote);
    number_store(k, base, value);
    return 0;
}

/* -- words ------------------------------------------------------------------------------------- */

/* The n-th of the words separated by `|`, up to `!` or the end; NULL when there are fewer. */
static const char *word_at(const char *words, uint64_t n, size_t *len) {
    for (; n > 0; n--) {
        words += strcspn(words, "|!");
        if (*words != '|') return NULL;
        words++;
    }
    *len = strcspn(words, "|!");
    return words;
}

static bool word_find(const char *words, const char *text, uint64_t *index) {
    size_t len;
    const char *w;
    for (*index = 0; (w = word_at(words, *index, &len)) != NULL; ++*index)
        if (strlen(text) == len && memcmp(w, text, len) == 0) return true;
    return false;
}

static int word_parse(const struct config_key *k, const char *text, void *base, struct err *err) {
    const char *words = k->type == TYPE_BOOL ? "false|true" : k->words;
    uint64_t index;
    if (word_find(words, text, &index)) {
        number_store(k, base, index);
        return 0;
    }
    char range[256], quote[CONFIG_QUOTE_BYTES];
    const char *later = strchr(words, '!');
    if (later != NULL && word_find(later + 1, text, &index))
        return err_set(err, EX_CONFIG, "%s is not available in this version", text);
    config_range_format(k, range, sizeof range);
    return err_set(err, EX_CONFIG, "found \"%s\", expected %s", config_quote(text, quote), range);
}

/* -- texts ------------------------------------------------------------------------------------- */

static bool name_ok(const char *text, bool upper) {
    for (const char *p = text; *p != 0; p++) {
        bool letter = (*p >= 'a' && *p <= 'z') || (upper && *p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9');
        if (!letter && (p == text || strchr("._-", *p) == NULL)) return false;
    }
    return true;
}

static bool topic_ok(const char *text) {
    if (strcmp(text, ".") == 0 || strcmp(text, "..") == 0) return false;
    return text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")] == 0;
}

static int text_parse(const struct config_key *k, const char *text, void *base, size_t *at, struct err *err) {
    size_t len = strlen(text), most = k->max != 0 ? k->max : k->size - 1;
    char quote[CONFIG_QUOTE_BYTES];
    if (len < k->min) return err_set(err, EX_CONFIG, "must not be empty");
    if (len > most) return err_set(err, EX_CONFIG, "is %zu bytes long, at most %zu are allowed", len, most);
    if (k->type == TYPE_NAME && !name_ok(text, false))
        return err_set(
            err, EX_CONFIG,
            "found \"%s\", expected lower-case letters, digits, '.', '_' and '-', the first a letter or digit",
            config_quote(text, quote));
    if (k->type == TYPE_LABEL && !name_ok(text, true))
        return err_set(err, EX_CONFIG,
                       "found \"%s\", expected letters, digits, '.', '_' and '-', the first a letter or digit",
                       config_quote(text, quote));
    if (k->type == TYPE_TOPIC && !topic_ok(text))
        return err_set(err, EX_CONFIG, "found \"%s\", expected letters, digits, '.', '_' and '-'",
                       config_quote(text, quote));
    struct template parsed;
    if (k->type == TYPE_TEMPLATE && len > 0 && template_parse(text, &parsed, at, err) != 0) return -1;
    memcpy((char *)base + k->offset, text, len + 1);
    return 0;
}

/* -- all types --------------------------------------------------------------------------------- */

int config_value_parse(const struct config_key *k, const char *text, void *base, size_t *at, struct err *err) {
    if (at != NULL) *at = 0;
    if (config_type_text(k->type)) return text_parse(k, text, base, at, err);
    if (k->type == TYPE_BOOL || k->type == TYPE_WORD) return word_parse(k, text, base, err);
    uint64_t version;
    if (k->type == TYPE_VERSION && number_read(text, NULL, &version) && version != 1)
        return err_set(err, EX_CONFIG, "version %llu is unknown; this millrace reads version 1",
                       (unsigned long long)version);
    return number_parse(k, text, base, err);
}

void config_value_format(const struct config_key *k, const void *base, char *out, size_t size) {
    size_t len = 0;
    if (config_type_text(k->type)) {
        snprintf(out, size, "%s", (const char *)base + k->offset);
    } else if (k->type == TYPE_BOOL || k->type == TYPE_WORD) {
        const char *w = word_at(k->type == TYPE_BOOL ? "false|true" : k->words, number_load(k, base), &len);
        snprintf(out, size, "%.*s", (int)len, w == NULL ? "" : w);
    } else {
        number_write(k->type, number_load(k, base), out, size);
    }
}

void config_range_format(const struct config_key *k, char *out, size_t size) {
    char low[32], high[32];
    size_t len, used = 0;
    out[0] = 0;
    if (k->type == TYPE_BOOL || k->type == TYPE_WORD) {
        const char *words = k->type == TYPE_BOOL ? "true|false" : k->words, *w;
        for (uint64_t i = 0; (w = word_at(words, i, &len)) != NULL && used < size; i++) {
            const char *joint = i == 0 ? "" : w[len] == '|' ? ", " : " or ";
            used += (size_t)snprintf(out + used, size - used, "%s%.*s", joint, (int)len, w);
        }
    } else if (!config_type_text(k->type) && k->type != TYPE_CPUS && k->max > 0) {
        number_write(k->type, k->min, low, sizeof low);
        number_write(k->type, k->max, high, sizeof high);
        bool unit = k->type == TYPE_COUNT && k->words[0] != 0;
        snprintf(out, size, "%s to %s%s%s", low, high, unit ? " " : "", unit ? k->words : "");
    }
}
