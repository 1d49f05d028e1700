#include "tools/demo/cards.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

static uint64_t random_next(struct cards *c) { /* splitmix64 (Steele, Lea, Flood): any seed will do */
    uint64_t z = c->random += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

static uint32_t random_below(struct cards *c, uint32_t n) { return (uint32_t)(random_next(c) >> 32) % n; }

void cards_init(struct cards *c, uint64_t seed) {
    memset(c, 0, sizeof *c);
    c->random = seed;
}

/* Sixteen digits that begin with 9, as no real card's do. */
static void number_new(struct cards *c, struct card *card) {
    snprintf(card->number, sizeof card->number, "9%015llu", (unsigned long long)(random_next(c) % 1000000000000000ULL));
}

static void key_write(char out[CARD_KEY_BYTES], const char *account, const char *number) {
    snprintf(out, CARD_KEY_BYTES, "card:%s:%s", account, number);
}

/* old: the card's number before, when it changes with this record, else "". */
static void value_write(struct cards *c, struct card_record *r, const struct card *card, const char *old) {
    static const char *const products[] = {"classic", "gold", "business", "prepaid"};
    static const char *const states[] = {"active", "active", "active", "blocked", "travelling"};
    char before[96] = "";
    if (old[0] != 0) snprintf(before, sizeof before, "\"old_account\":\"%s\",\"old_card_no\":\"%s\",", r->account, old);
    int n;
    if (r->operation == CARD_DELETE)
        n = snprintf(r->value, sizeof r->value, "{\"account\":\"%s\",\"card_no\":\"%s\"}", r->account, card->number);
    else
        n = snprintf(r->value, sizeof r->value,
                     "{\"account\":\"%s\",\"card_no\":\"%s\",%s\"version\":%u,\"product\":\"%s\",\"state\":\"%s\","
                     "\"valid_to\":\"20%02u-%02u\",\"limit\":%u,\"balance\":%u.%02u,\"currency\":\"EUR\","
                     "\"branch\":\"branch %u\",\"contactless\":%s,\"online\":%s,\"cash\":%s}",
                     r->account, card->number, before, card->version, products[random_below(c, 4)],
                     states[random_below(c, 5)], 27 + random_below(c, 6), 1 + random_below(c, 12),
                     500 * (1 + random_below(c, 20)), random_below(c, 10000), random_below(c, 100),
                     random_below(c, 900), random_below(c, 2) ? "true" : "false", random_below(c, 2) ? "true" : "false",
                     random_below(c, 2) ? "true" : "false");
    CHECK(n > 0 && (size_t)n < sizeof r->value);
    r->value_bytes = (size_t)n;
}

void cards_next(struct cards *c, struct card_record *out) {
    uint32_t i = c->made++;
    bool bulk = i < CARDS_BULK;
    uint32_t account = bulk ? i % CARDS_ACCOUNTS : random_below(c, CARDS_ACCOUNTS);
    struct card *card = &c->card[account][bulk ? i / CARDS_ACCOUNTS : random_below(c, CARDS_PER_ACCOUNT)];
    *out = (struct card_record){.bulk = bulk, .partition = (int32_t)(account % CARDS_PARTITIONS)};
    snprintf(out->account, sizeof out->account, "4%07u", account);
    char old[sizeof card->number] = "";
    uint32_t dice = random_below(c, 100);
    if (!card->alive) {
        number_new(c, card);
        out->operation = CARD_ADD;
    } else if (dice < 15) {
        out->operation = CARD_DELETE;
    } else {
        out->operation = dice < 90 ? CARD_UPDATE : CARD_ADD; /* an add of a key that exists overwrites it */
        if (dice >= 70 && dice < 90) {
            memcpy(old, card->number, sizeof old);
            number_new(c, card);
            key_write(out->old_key, out->account, old);
        }
    }
    card->alive = out->operation != CARD_DELETE;
    card->version++;
    key_write(out->key, out->account, card->number);
    value_write(c, out, card, old);
}

/* -- the fold ---------------------------------------------------------------------------------- */

/* The slot of the key, or the free one where it belongs (FNV-1a, linear probing). */
static struct fold_entry *slot_of(struct fold *f, const char *key, size_t len) {
    uint64_t h = 0xcbf29ce484222325ULL;
    for (size_t i = 0; i < len; i++) h = (h ^ (uint8_t)key[i]) * 0x100000001b3ULL;
    for (uint64_t i = h;; i++) {
        struct fold_entry *e = &f->entry[i % FOLD_SLOTS]; /* 20,000 records cannot fill it */
        if (e->key[0] == 0 || (strlen(e->key) == len && memcmp(e->key, key, len) == 0)) return e;
    }
}

struct fold_entry *fold_find(struct fold *f, const char *key, size_t len) {
    struct fold_entry *e = slot_of(f, key, len);
    return e->key[0] != 0 ? e : NULL;
}

static void entry_set(struct fold *f, const char *key, const char *value, size_t value_bytes) {
    struct fold_entry *e = slot_of(f, key, strlen(key));
    snprintf(e->key, sizeof e->key, "%s", key);
    f->count += (value != NULL) - (e->value != NULL);
    free(e->value);
    e->value = NULL;
    e->value_bytes = value_bytes;
    if (value == NULL) return;
    e->value = malloc(value_bytes);
    CHECK(e->value != NULL);
    memcpy(e->value, value, value_bytes);
}

void fold_apply(struct fold *f, const struct card_record *r) {
    if (r->old_key[0] != 0) entry_set(f, r->old_key, NULL, 0);
    if (r->operation == CARD_DELETE)
        entry_set(f, r->key, NULL, 0);
    else
        entry_set(f, r->key, r->value, r->value_bytes);
}
