/* The entry on a ring and in the log: its layout, and lengths that add up or nothing. */
#include "shm/entry.h"

#include <criterion/criterion.h>
#include <string.h>

#include "shm/record.h"

Test(entry, layout_is_what_version_1_says) {
    cr_assert_eq(ENTRY_VERSION, 1);
    cr_assert_eq(sizeof(struct entry), 200);
    cr_assert_eq(offsetof(struct entry, topic), 4);
    cr_assert_eq(offsetof(struct entry, partition), 8);
    cr_assert_eq(offsetof(struct entry, timestamp_ms), 24);
    cr_assert_eq(offsetof(struct entry, created_ms), 32);
    cr_assert_eq(offsetof(struct entry, ingested_us), 40);
    cr_assert_eq(offsetof(struct entry, answered_us), 56);
    cr_assert_eq(offsetof(struct entry, outcome), 61);
    cr_assert_eq(offsetof(struct entry, flags), 64);
    cr_assert_eq(offsetof(struct entry, digest_key), 88);
    cr_assert_eq(offsetof(struct entry, digest_published), 120);
    cr_assert_eq(offsetof(struct entry, digest_stored), 136);
    cr_assert_eq(offsetof(struct entry, producer), 168);
    cr_assert_eq(offsetof(struct entry, expire_at_ms), 184);
    cr_assert_eq(offsetof(struct entry, published_bytes), 192);
}

Test(entry, outcomes_have_names_of_their_own_and_two_are_not_logged) {
    for (int a = 0; a < ENTRY_OUTCOME_COUNT; a++)
        for (int b = 0; b < a; b++) cr_assert_str_neq(entry_outcome_name(a), entry_outcome_name(b));
    cr_assert_str_eq(entry_outcome_name(ENTRY_NOTHING), "nothing");
    cr_assert_str_eq(entry_outcome_name(ENTRY_REJECTED), "rejected");
    cr_assert_str_eq(entry_outcome_name((enum entry_outcome)99), "unknown");
    for (int outcome = 0; outcome < ENTRY_OUTCOME_COUNT; outcome++) {
        struct entry e = {.outcome = (uint8_t)outcome};
        cr_assert_eq(entry_logged(&e), outcome != ENTRY_NOTHING && outcome != ENTRY_SKIPPED);
    }
}

static struct entry example(uint32_t content) {
    return (struct entry){.bytes = (uint32_t)sizeof(struct entry) + content,
                          .op = RECORD_ADD,
                          .outcome = ENTRY_APPLIED,
                          .content_bytes = content};
}

Test(entry, lengths_that_do_not_add_up_are_refused) {
    uint8_t body[sizeof(struct entry) + 16] = {0};
    struct entry e = example(16);
    memcpy(body, &e, sizeof e);
    cr_assert_eq(entry_check(body, sizeof body), 0);
    for (size_t len = 0; len < sizeof body; len++) cr_assert_eq(entry_check(body, len), -1, "%zu", len);
    static const uint32_t lengths[] = {0, 15, 17, UINT32_MAX, UINT32_MAX - 199, 1U << 31};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        e = example(16);
        e.content_bytes = lengths[i];
        memcpy(body, &e, sizeof e);
        cr_assert_eq(entry_check(body, sizeof body), -1, "content %u", lengths[i]);
        e.bytes = (uint32_t)sizeof e + lengths[i]; /* wraps */
        memcpy(body, &e, sizeof e);
        cr_assert_eq(entry_check(body, sizeof body), -1, "both %u", lengths[i]);
        e = example(16);
        e.bytes = lengths[i];
        memcpy(body, &e, sizeof e);
        cr_assert_eq(entry_check(body, sizeof body), -1, "bytes %u", lengths[i]);
    }
}

Test(entry, what_it_names_must_be_known) {
    for (int what = 0; what < 3; what++) {
        struct entry e = example(0);
        cr_assert_eq(entry_check(&e, sizeof e), 0);
        *(what == 0   ? &e.op
          : what == 1 ? &e.outcome
                      : &e.reason) = (uint8_t)(what == 0   ? RECORD_OP_COUNT
                                               : what == 1 ? ENTRY_OUTCOME_COUNT
                                                           : REASON_COUNT);
        cr_assert_eq(entry_check(&e, sizeof e), -1, "%d", what);
    }
}
