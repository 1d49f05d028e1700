/* What a run of verify is about. */
#include <criterion/criterion.h>
#include <string.h>

#include "tools/verify.h"

static struct config config;

static struct verify all(void) {
    struct verify v = {.config = &config, .options = {.sample = 100}};
    return v;
}

Test(verify_scope, a_sample_is_about_so_many_of_the_keys_and_always_the_same) {
    struct verify v = all();
    uint8_t key[DIGEST_BYTES] = {0};
    uint32_t taken = 0;
    v.options.sample = 10;
    for (uint32_t i = 0; i < 65536; i++) {
        key[0] = (uint8_t)(i >> 8);
        key[1] = (uint8_t)i;
        taken += verify_sampled(&v, key);
    }
    cr_assert(taken > 6550 && taken < 6560, "%u", taken);
    memset(key, 0xff, sizeof key);
    cr_assert(!verify_sampled(&v, key));
    v.options.sample = 100;
    cr_assert(verify_sampled(&v, key));
}

Test(verify_scope, a_window_is_of_event_time_and_does_not_hold_its_end) {
    struct verify v = all();
    struct live_row row = {.event_ms = 1000};
    cr_assert(verify_in_scope(&v, &row));
    v.options.from_ms = 1000;
    v.options.to_ms = 2000;
    cr_assert(verify_in_scope(&v, &row));
    row.event_ms = 1999;
    cr_assert(verify_in_scope(&v, &row));
    row.event_ms = 2000;
    cr_assert(!verify_in_scope(&v, &row));
    row.event_ms = -1;
    cr_assert(!verify_in_scope(&v, &row));
    cr_assert(!verify_maybe_orphan(&v, "x", 1), "a key without a row has no time");
}

Test(verify_scope, keys_of_topics_that_are_not_logged_are_no_orphans) {
    struct verify v = all();
    v.topic = calloc(2, sizeof *v.topic);
    config.topic_count = 2;
    snprintf(v.topic[1].unlogged, sizeof v.topic[1].unlogged, "off:*");
    cr_assert(verify_maybe_orphan(&v, "card:1", 6) && v.unlogged == 0);
    cr_assert(!verify_maybe_orphan(&v, "off:1", 5) && v.unlogged == 1);
    v.options.topic = "cards";
    snprintf(v.topic[0].wanted, sizeof v.topic[0].wanted, "card:*");
    cr_assert(verify_maybe_orphan(&v, "card:1", 6) && !verify_maybe_orphan(&v, "other:1", 7));
    free(v.topic);
}

Test(verify_scope, a_pattern_is_matched_against_the_whole_name) {
    struct verify v = all();
    cr_assert(verify_named(&v, "anything", 8));
    v.options.pattern = "card:?";
    cr_assert(verify_named(&v, "card:1", 6) && !verify_named(&v, "card:12", 7));
}

Test(verify_scope, every_class_has_a_name_and_some_are_findings) {
    for (int c = 0; c < VERIFY_CLASS_COUNT; c++) cr_assert_neq(verify_class_name((enum verify_class)c)[0], '?');
    cr_assert(!verify_is_finding(VERIFY_RIGHT) && !verify_is_finding(VERIFY_MOVING));
    cr_assert(!verify_is_finding(VERIFY_ELSEWHERE) && verify_is_finding(VERIFY_MISSING));
}

Test(verify_scope, candidates_are_copies_and_have_a_most) {
    struct verify v = all();
    const uint8_t key[DIGEST_BYTES] = {7};
    for (uint64_t i = 0; i < VERIFY_CANDIDATES_MAX + 5; i++) verify_candidate(&v, "ab", i == 0 ? 1 : 2, key);
    cr_assert(v.count == VERIFY_CANDIDATES_MAX && v.dropped == 5);
    cr_assert_str_eq(v.candidate[0].name, "a");
    cr_assert(v.candidate[1].name_bytes == 2 && v.candidate[1].key[0] == 7 && v.candidate[1].class == VERIFY_MOVING);
    for (size_t i = 0; i < v.count; i++) free(v.candidate[i].name);
    free(v.candidate);
}
