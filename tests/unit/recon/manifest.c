#include "recon/manifest.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

static struct manifest m;
static struct err err;
static char text[70000];

static int parsed(const char *rest) {
    int n = snprintf(text, sizeof text, "{\"producer\":\"p\",\"topic\":\"cards\",%s}", rest);
    return manifest_parse(text, (size_t)n, &m, &err);
}

#define SUMS "\"first_sequence\":3,\"last_sequence\":5,\"count\":3,\"bytes\":99"
#define WINDOW "\"type\":\"window\",\"from_ms\":10,\"to_ms\":20," SUMS
#define SUM "\"digest_sum\":\"ab000000000000000000000000000001\""

Test(manifest, windows_are_read) {
    cr_assert_eq(parsed(WINDOW "," SUM ",\"other\":[1]"), 0, "%s", err.text);
    cr_assert_eq(m.type, MANIFEST_WINDOW);
    cr_assert(m.from_ms == 10 && m.to_ms == 20 && m.first_sequence == 3 && m.last_sequence == 5);
    cr_assert(m.count == 3 && m.bytes == 99 && m.digest_sum[0] == 0xab && m.digest_sum[15] == 1);
    cr_assert_str_eq(m.producer, "p");
    cr_assert_str_eq(m.topic, "cards");
}

Test(manifest, only_sums_of_the_logs_own_digests_are_compared) {
    cr_assert(parsed(WINDOW "," SUM) == 0 && m.summed);
    cr_assert(parsed(WINDOW "," SUM ",\"digest\":\"hmac\"") == 0 && m.summed);
    cr_assert(parsed(WINDOW "," SUM ",\"digest\":\"xxh3\"") == 0 && !m.summed);
    cr_assert(parsed(WINDOW) == 0 && !m.summed);
}

Test(manifest, the_end_of_a_load_may_name_every_partition) {
    static char rest[60000];
    size_t n = (size_t)snprintf(rest, sizeof rest,
                                "\"type\":\"load_end\",\"load\":\"01020304-0506-0708-090a-0b0c0d0e0f10\"," SUMS
                                ",\"state\":\"complete\",\"first_offsets\":{\"0\":0");
    for (int p = 1; p < PARTITIONS_MAX; p++)
        n += (size_t)snprintf(rest + n, sizeof rest - n, ",\"%d\":9223372036854775807", p);
    snprintf(rest + n, sizeof rest - n, "}");
    cr_assert_eq(parsed(rest), 0, "%s", err.text);
    cr_assert(m.type == MANIFEST_LOAD_END && !m.aborted && m.load[15] == 0x10);
}

Test(manifest, what_is_missing_or_impossible_is_refused) {
    static const char *const wrong[] = {"\"type\":\"other\"",
                                        "\"type\":\"window\"," SUMS,
                                        "\"type\":\"window\",\"from_ms\":20,\"to_ms\":20," SUMS,
                                        WINDOW ",\"digest_sum\":\"zz\"",
                                        "\"type\":\"load_begin\",\"load\":\"x\",\"created_ms\":1",
                                        "\"type\":\"load_end\",\"load\":\"01020304-0506-0708-090a-0b0c0d0e0f10\"," SUMS
                                        ",\"state\":\"done\""};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        cr_assert_eq(parsed(wrong[i]), -1, "%s", wrong[i]);
        cr_assert_eq(err.code, EX_DATAERR);
    }
    cr_assert_eq(manifest_parse("[]", 2, &m, &err), -1);
    cr_assert_eq(manifest_parse(text, sizeof text, &m, &err), -1, "too long");
}
