#include "transform/json.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sysexits.h>
#include <yajl/yajl_parse.h>

#include "base/utf8.h"
#include "shm/record.h"

enum { ARENA_ALIGN = 16, ARENA_FIXED_BYTES = 1 << 16, ARENA_KEEP_BYTES = 1 << 20 };
enum { COPY_BYTES = REDIS_KEY_BYTES_MAX + 1 };

/* The parser's memory for one record: handed out upwards, forgotten as a whole. Its two growing buffers double, so
 * together they take at most eight times the longest text; pages that no record needed are never touched. */
struct arena {
    uint8_t *at;
    size_t bytes, used, last; /* last: where the newest block begins */
};

/* The list of fields as it grows. A field that a later null has taken back is skipped at the end. */
struct list {
    uint8_t *bytes; /* room for every list that a text of len_max can give */
    size_t used, nested_at;
    uint32_t count, names, dropped, name_bytes; /* name: of the field that waits for its value, in place already */
};
#define LIST_DROPPED (1U << 31) /* in a name's length, which is never so large */
static_assert(RING_BYTES_MAX / RING_RECORD_SHARE < LIST_DROPPED, "no name is so long");

struct json {
    struct arena arena;
    struct list list;
    size_t mapped_bytes, len_max;
    const struct json_plan *plan;
    const uint8_t *text;
    size_t len;
    yajl_handle parser;
    uint32_t depth;
    int32_t wanted; /* index of the top-level name just read; -1: not wanted */
    struct json_field field[JSON_FIELDS_MAX];
    uint8_t copy[JSON_FIELDS_MAX][COPY_BYTES];
};

/* -- memory ------------------------------------------------------------------------------------ */

struct block { /* before every block of the arena */
    size_t bytes;
    size_t gap;
};
static_assert(sizeof(struct block) == ARENA_ALIGN, "blocks stay aligned");

static void *arena_malloc(void *context, size_t bytes) {
    struct arena *a = context;
    size_t need = (bytes + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    CHECK(need >= bytes && need + sizeof(struct block) <= a->bytes - a->used);
    struct block *b = (struct block *)(void *)(a->at + a->used);
    b->bytes = need;
    a->last = a->used;
    a->used += sizeof *b + need;
    return b + 1;
}

static void *arena_realloc(void *context, void *old, size_t bytes) {
    struct arena *a = context;
    if (old == NULL) return arena_malloc(a, bytes);
    struct block *b = (struct block *)old - 1;
    if (bytes <= b->bytes) return old;
    if ((uint8_t *)b == a->at + a->last) { /* the newest block grows where it is */
        a->used = a->last;
        return arena_malloc(a, bytes);
    }
    void *new = arena_malloc(a, bytes);
    memcpy(new, old, b->bytes);
    return new;
}

static void arena_free(void *context, void *block) {
    (void)context;
    (void)block;
}

static void arena_reset(struct arena *a) {
    if (a->used > ARENA_KEEP_BYTES) madvise(a->at, a->used, MADV_DONTNEED); /* one huge record must not stay resident */
    a->used = 0;
    a->last = 0;
}

static size_t page_up(size_t n) { return (n + 4095) & ~(size_t)4095; }

struct json *json_new(size_t len_max, struct err *err) {
    /* Of a field, at least 5 bytes of text with its comma ("":1,), 8 in the list are lengths. */
    size_t head = page_up(sizeof(struct json)), arena = page_up(8 * len_max) + ARENA_FIXED_BYTES,
           list = page_up(3 * len_max + RECORD_FIELDS_HEAD + RECORD_FIELD_HEAD);
    struct json *j =
        mmap(NULL, head + arena + list, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (j == MAP_FAILED) {
        err_set(err, EX_OSERR, "no memory for JSON records of up to %zu bytes: %s", len_max, strerror(errno));
        return NULL;
    }
    j->mapped_bytes = head + arena + list;
    j->list.bytes = (uint8_t *)j + head + arena;
    j->len_max = len_max;
    j->arena = (struct arena){.at = (uint8_t *)j + head, .bytes = arena};
    return j;
}

void json_free(struct json *j) {
    if (j != NULL) munmap(j, j->mapped_bytes);
}

/* -- half surrogate pairs: yajl makes a question mark of them, and two records must not meet under one such key --- */

static int32_t hex4(const uint8_t *p) {
    int32_t x = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t c = p[i];
        int32_t digit = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10; /* yajl has checked that they are hex digits */
        x = x << 4 | digit;
    }
    return x;
}

/* Whether the inside of a valid JSON string, raw[0, len), has a \uD8xx without its partner. */
static bool half_pair(const uint8_t *raw, size_t len) {
    for (size_t i = 0; i + 1 < len;) {
        if (raw[i] != '\\') {
            i++;
            continue;
        }
        if (raw[i + 1] != 'u') {
            i += 2;
            continue;
        }
        int32_t unit = hex4(raw + i + 2);
        i += 6;
        if (unit < 0xd800 || unit > 0xdfff) continue;
        bool partner = unit < 0xdc00 && len - i >= 6 && raw[i] == '\\' && raw[i + 1] == 'u';
        int32_t low = partner ? hex4(raw + i + 2) : 0;
        if (low < 0xdc00 || low > 0xdfff) return true;
        i += 6;
    }
    return false;
}

/* The string just read, as written, when it has escapes: found backwards from where the parser stands. */
static bool string_is_text(const struct json *j) {
    size_t end = yajl_get_bytes_consumed(j->parser) - 1; /* the closing quote */
    for (size_t begin = end; begin-- > 0;) {
        if (j->text[begin] != '"') continue;
        size_t slashes = 0;
        while (slashes < begin && j->text[begin - 1 - slashes] == '\\') slashes++;
        if (slashes % 2 == 0) return !half_pair(j->text + begin + 1, end - begin - 1);
    }
    return false;
}

/* -- the list of fields ------------------------------------------------------------------------ */

static bool list_wanted(const struct json *j) {
    return j->depth == 1 && j->plan->list && j->list.names <= HASH_FIELDS_MAX;
}

static void list_name(struct list *l, const uint8_t *name, size_t len) {
    if (++l->names > HASH_FIELDS_MAX) return;
    l->name_bytes = (uint32_t)len;
    memcpy(l->bytes + l->used + RECORD_FIELD_HEAD, name, len);
}

static void list_value(struct list *l, const uint8_t *value, size_t len) {
    uint32_t value_bytes = (uint32_t)len;
    uint8_t *at = l->bytes + l->used;
    memcpy(at, &l->name_bytes, 4);
    memcpy(at + 4, &value_bytes, 4);
    memcpy(at + RECORD_FIELD_HEAD + l->name_bytes, value, len);
    l->used += RECORD_FIELD_HEAD + l->name_bytes + len;
    l->count++;
}

/* The last of equal names counts, also when it is null. */
static void list_null(struct list *l) {
    const uint8_t *name = l->bytes + l->used + RECORD_FIELD_HEAD;
    struct record_field f;
    for (size_t at = RECORD_FIELDS_HEAD, begin = at; at < l->used; begin = at) {
        memcpy(&f.name_bytes, l->bytes + begin, 4);
        memcpy(&f.value_bytes, l->bytes + begin + 4, 4);
        uint32_t name_bytes = f.name_bytes & ~LIST_DROPPED;
        at += RECORD_FIELD_HEAD + (size_t)name_bytes + f.value_bytes;
        if (f.name_bytes != l->name_bytes || memcmp(l->bytes + begin + RECORD_FIELD_HEAD, name, name_bytes) != 0)
            continue;
        name_bytes |= LIST_DROPPED;
        memcpy(l->bytes + begin, &name_bytes, 4);
        l->dropped++;
    }
}

static void list_compact(struct list *l) {
    size_t to = RECORD_FIELDS_HEAD;
    for (size_t at = to; at < l->used;) {
        uint32_t name_bytes, value_bytes;
        memcpy(&name_bytes, l->bytes + at, 4);
        memcpy(&value_bytes, l->bytes + at + 4, 4);
        size_t n = RECORD_FIELD_HEAD + (size_t)(name_bytes & ~LIST_DROPPED) + value_bytes;
        if ((name_bytes & LIST_DROPPED) == 0) {
            memmove(l->bytes + to, l->bytes + at, n);
            to += n;
        }
        at += n;
    }
    l->used = to;
    l->count -= l->dropped;
    l->dropped = 0;
}

int32_t json_list(struct json *j, const uint8_t **list, size_t *len) {
    struct list *l = &j->list;
    if (l->names > HASH_FIELDS_MAX) return -1;
    if (l->dropped > 0) list_compact(l);
    memcpy(l->bytes, &l->count, 4);
    *list = l->bytes;
    *len = l->used;
    return (int32_t)l->count;
}

/* -- what the parser calls: 0 ends parsing, the record is rejected ----------------------------- */

static int field_set(struct json *j, bool present, const uint8_t *text, size_t len) {
    if (j->depth == 0) return 0; /* a record is an object */
    if (j->depth > 1 || j->wanted < 0) return 1;
    j->field[j->wanted] = (struct json_field){.present = present, .len = (uint32_t)len, .text = text};
    return 1;
}

static int on_null(void *self) {
    struct json *j = self;
    if (list_wanted(j)) list_null(&j->list);
    return field_set(j, false, NULL, 0);
}

/* A number, true or false. */
static int scalar(struct json *j, const char *text, size_t len) {
    if (list_wanted(j)) list_value(&j->list, (const uint8_t *)text, len);
    return field_set(j, true, (const uint8_t *)text, len);
}

static int on_boolean(void *self, int value) { return scalar(self, value ? "true" : "false", value ? 4 : 5); }
static int on_number(void *self, const char *text, size_t len) { return scalar(self, text, len); }

static int on_string(void *self, const unsigned char *text, size_t len) {
    struct json *j = self;
    bool in_place = text >= j->text && text < j->text + j->len; /* else decoded, into what the parser will use again */
    bool wanted = j->depth == 1 && (j->wanted >= 0 || j->plan->list);
    if (wanted && !in_place && !string_is_text(j)) return 0;
    if (list_wanted(j)) list_value(&j->list, text, len);
    if (j->depth != 1 || j->wanted < 0 || in_place) return field_set(j, true, text, len);
    size_t keep = len < COPY_BYTES ? len : COPY_BYTES;
    memcpy(j->copy[j->wanted], text, keep);
    return field_set(j, true, j->copy[j->wanted], keep);
}

static int on_start(void *self) {
    struct json *j = self;
    if (j->depth == 1) j->list.nested_at = yajl_get_bytes_consumed(j->parser) - 1; /* at its bracket */
    return ++j->depth <= JSON_DEPTH_MAX;
}

static int on_start_map(void *self) {
    struct json *j = self;
    return (j->depth == 0 || field_set(j, false, NULL, 0)) && on_start(j);
}

static int on_start_array(void *self) { return field_set(self, false, NULL, 0) && on_start(self); }

static int on_end(void *self) {
    struct json *j = self;
    j->depth--;
    if (list_wanted(j))
        list_value(&j->list, j->text + j->list.nested_at, yajl_get_bytes_consumed(j->parser) - j->list.nested_at);
    return 1;
}

static int on_map_key(void *self, const unsigned char *name, size_t len) {
    struct json *j = self;
    if (j->depth != 1) return 1;
    if (j->plan->list) {
        bool in_place = name >= j->text && name < j->text + j->len;
        if (!in_place && !string_is_text(j)) return 0;
        list_name(&j->list, name, len);
    }
    j->wanted = -1;
    for (uint32_t i = 0; i < j->plan->count; i++)
        if (j->plan->want[i].len == len && memcmp(j->plan->want[i].name, name, len) == 0) j->wanted = (int32_t)i;
    return 1;
}

static const yajl_callbacks callbacks = {.yajl_null = on_null,
                                         .yajl_boolean = on_boolean,
                                         .yajl_number = on_number,
                                         .yajl_string = on_string,
                                         .yajl_start_map = on_start_map,
                                         .yajl_map_key = on_map_key,
                                         .yajl_end_map = on_end,
                                         .yajl_start_array = on_start_array,
                                         .yajl_end_array = on_end};

/* -- reading ----------------------------------------------------------------------------------- */

uint32_t json_plan_add(struct json_plan *plan, const char *name, size_t len) {
    for (uint32_t i = 0; i < plan->count; i++)
        if (plan->want[i].len == len && memcmp(plan->want[i].name, name, len) == 0) return i;
    CHECK(plan->count < JSON_FIELDS_MAX);
    plan->want[plan->count].name = name;
    plan->want[plan->count].len = len;
    return plan->count++;
}

const struct json_field *json_fields(const struct json *j) { return j->field; }

int json_read(struct json *j, const struct json_plan *plan, const uint8_t *text, size_t len) {
    CHECK(len <= j->len_max);
    if (!utf8_valid(text, len)) return -1;
    /* Yajl takes these two for blanks; no valid text has them anywhere. */
    if (memchr(text, '\v', len) != NULL || memchr(text, '\f', len) != NULL) return -1;
    arena_reset(&j->arena);
    j->plan = plan;
    j->text = text;
    j->len = len;
    j->depth = 0;
    j->wanted = -1;
    j->list = (struct list){.bytes = j->list.bytes, .used = RECORD_FIELDS_HEAD};
    memset(j->field, 0, plan->count * sizeof j->field[0]);
    yajl_alloc_funcs memory = {arena_malloc, arena_realloc, arena_free, &j->arena};
    j->parser = yajl_alloc(&callbacks, &memory, j);
    yajl_config(j->parser, yajl_dont_validate_strings, 1); /* done above, and strictly */
    if (yajl_parse(j->parser, text, len) != yajl_status_ok) return -1;
    return yajl_complete_parse(j->parser) == yajl_status_ok ? 0 : -1;
}
