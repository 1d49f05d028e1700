/* What the demo publishes: made-up card records from a seed, and what a cache should hold after them.
 *
 * First a bulk load of CARDS_BULK adds, then changes: new values, cards that get another number (so their Redis key
 * changes), deletes, and cards that are new. All records of an account go to one partition, so they have an order. */
#ifndef MILLRACE_TOOLS_DEMO_CARDS_H
#define MILLRACE_TOOLS_DEMO_CARDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CARDS_ACCOUNTS = 2000,
    CARDS_PER_ACCOUNT = 4,
    CARDS_BULK = CARDS_ACCOUNTS * CARDS_PER_ACCOUNT,
    CARDS_RECORDS = 20000,
    CARDS_PARTITIONS = 4, /* of each of the two topics */
    CARD_KEY_BYTES = 48,
    CARD_VALUE_BYTES = 768,
};

enum card_operation { CARD_ADD, CARD_UPDATE, CARD_DELETE };

struct card_record {
    bool bulk; /* in the bulk topic, else in the change topic */
    enum card_operation operation;
    int32_t partition;
    char account[16];             /* the Kafka key */
    char key[CARD_KEY_BYTES];     /* the Redis key that belongs to it */
    char old_key[CARD_KEY_BYTES]; /* of an update that changes the key, else "" */
    char value[CARD_VALUE_BYTES]; /* JSON */
    size_t value_bytes;
};

struct cards {
    uint64_t random;
    uint32_t made; /* records so far */
    struct card {
        char number[20];
        uint32_t version;
        bool alive;
    } card[CARDS_ACCOUNTS][CARDS_PER_ACCOUNT];
};

void cards_init(struct cards *c, uint64_t seed);

/* cards_next makes the next record. Call CARDS_RECORDS times. */
void cards_next(struct cards *c, struct card_record *out);

/* The fold: the value that each key should have after the records applied so far. */
enum { FOLD_SLOTS = 1 << 16 };
struct fold_entry {
    char key[CARD_KEY_BYTES]; /* "": the slot is free */
    char *value;              /* NULL: the key must not be there */
    size_t value_bytes;
    bool seen; /* found in Redis */
};
struct fold {
    uint32_t count; /* keys that should be there */
    struct fold_entry entry[FOLD_SLOTS];
};

/* fold_apply: what the record does to the cache. */
void fold_apply(struct fold *f, const struct card_record *r);

/* fold_find returns the entry of key[0, len), or NULL when no record ever had that key. */
struct fold_entry *fold_find(struct fold *f, const char *key, size_t len);

#endif
