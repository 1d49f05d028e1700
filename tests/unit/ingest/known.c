/* What stands in the rejects folder: found exactly, and nothing else is. */
#include "ingest/known.h"
#include "tests/unit/ingest/help.h"

Test(known, records_are_found_whatever_the_order_they_came_in) {
    struct known k = {0};
    struct rejects_entry e = {.timestamp_ms = 5};
    uint64_t seed = 11;
    static bool there[4][2000];
    for (int i = 0; i < 4000; i++) {
        uint32_t p = random_below(&seed, 4), offset = random_below(&seed, 2000);
        e.partition = (int32_t)p / 2;
        e.offset = offset;
        cr_assert_eq(known_has(&k, p % 2 ? "a" : "b", &e), there[p][offset]);
        known_add(&k, p % 2 ? "a" : "b", &e);
        there[p][offset] = true;
    }
    e.timestamp_ms = 6;
    cr_assert_not(known_has(&k, "a", &e));
    known_add(&k, "a", &e);
    cr_assert(known_has(&k, "a", &e));
    known_forget(&k);
    cr_assert_not(known_has(&k, "a", &e));
}
