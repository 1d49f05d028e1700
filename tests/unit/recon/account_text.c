#include "recon/account_text.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static struct digest_key key, other;
static struct account a, b;
static char text[ACCOUNT_MESSAGE_BYTES];

static void setup(void) {
    static const uint8_t ours[DIGEST_KEY_BYTES] = {1}, theirs[DIGEST_KEY_BYTES] = {2};
    digest_key_init(&key, ours);
    digest_key_init(&other, theirs);
    snprintf(a.group, sizeof a.group, "millrace-\"cards\"");
    snprintf(a.instance, sizeof a.instance, "node1");
    snprintf(a.log, sizeof a.log, "0123456789abcdef0123456789abcdef");
    snprintf(a.topic, sizeof a.topic, "cards.change");
    a.where = 7;
    a.order = INT64_MAX;
}
TestSuite(account_text, .init = setup);

static void there_and_back(void) {
    size_t len = account_write(&a, &key, text);
    cr_assert_eq(strlen(text), len);
    cr_assert_eq(account_parse(&b, &key, text, len), 0, "%s", text);
    cr_assert_eq(memcmp(&a, &b, sizeof a), 0, "%s", text);
}

Test(account_text, every_type_comes_back_as_it_went) {
    a.type = ACCOUNT_TALLY;
    a.start_ms = 1700000000000;
    a.counts = ACCOUNT_COUNTS_MAX;
    for (size_t i = 0; i < a.counts; i++) a.count[i] = INT64_MAX - (int64_t)i * 1000;
    a.digests = 2;
    memset(a.digest, 0xab, sizeof a.digest);
    there_and_back();
    a.type = ACCOUNT_ORIGIN;
    a.where = INT64_MIN + 1; /* a hash */
    there_and_back();
    a.type = ACCOUNT_LOAD;
    a.start_ms = 0;
    memset(a.load, 0x5a, sizeof a.load);
    there_and_back();
}

Test(account_text, ranges_and_beats_too) {
    a.type = ACCOUNT_OFFSETS;
    a.ranges = ACCOUNT_RANGES_MAX;
    for (size_t i = 0; i < a.ranges; i++) {
        a.range[i][0] = INT64_MAX / 2 + (int64_t)i * 10;
        a.range[i][1] = a.range[i][0] + 5;
    }
    there_and_back();
    a.type = ACCOUNT_RETRACTED;
    there_and_back();
    memset(&a.range, 0, sizeof a.range);
    memset(&a.topic, 0, sizeof a.topic);
    a.ranges = 0;
    a.where = 0;
    a.type = ACCOUNT_BEAT;
    a.number = 1700000000000;
    a.left = true;
    a.seens = ACCOUNT_SEEN_MAX;
    for (size_t i = 0; i < a.seens; i++) {
        memset(a.seen[i].instance, 'n', sizeof a.seen[i].instance - 1);
        memset(a.seen[i].log, 'f', sizeof a.seen[i].log - 1);
        a.seen[i].beat = (int64_t)i + 1;
    }
    there_and_back();
}

Test(account_text, a_change_of_any_byte_or_another_key_is_noticed) {
    a.type = ACCOUNT_TALLY;
    a.counts = 3;
    a.digests = 1;
    size_t len = account_write(&a, &key, text);
    cr_assert_eq(account_parse(&b, &other, text, len), -1);
    for (size_t i = 0; i < len; i++)
        for (int bit = 0; bit < 8; bit++) {
            text[i] ^= (char)(1 << bit);
            bool hex_case = (bit == 5 && i >= len - 34); /* a-f and A-F are the same digits */
            cr_assert(hex_case || account_parse(&b, &key, text, len) == -1, "byte %zu bit %d", i, bit);
            text[i] ^= (char)(1 << bit);
        }
    for (size_t cut = 0; cut < len; cut++) cr_assert_eq(account_parse(&b, &key, text, cut), -1);
    cr_assert_eq(account_parse(&b, &key, text, len), 0);
}

/* What one of the group's own might say by mistake. */
Test(account_text, nonsense_with_a_good_mac_is_refused) {
    static const char *const bad[] = {
        "{\"type\":\"tally\"",
        "{\"type\":\"other\",\"group\":\"g\",\"instance\":\"i\",\"log\":\"l\"",
        "{\"type\":\"offsets\",\"group\":\"g\",\"instance\":\"i\",\"log\":\"l\",\"topic\":\"t\",\"where\":1,\"ranges\":"
        "[[2,1]]",
        "{\"type\":\"offsets\",\"group\":\"g\",\"instance\":\"i\",\"log\":\"l\",\"topic\":\"t\",\"where\":1,\"ranges\":"
        "[[-1,1]]",
        "{\"type\":\"offsets\",\"group\":\"g\",\"instance\":\"i\",\"log\":\"l\",\"topic\":\"t\",\"where\":1,\"ranges\":"
        "[[1]]",
        "{\"type\":\"offsets\",\"group\":\"g\",\"instance\":\"i\",\"log\":\"l\",\"topic\":\"t\",\"where\":1.5,"
        "\"ranges\":[]",
        "{\"type\":\"beat\",\"group\":\"g\",\"instance\":\"i\",\"log\":\"l\",\"number\":1,\"seen\":[{}]",
        "{\"type\":\"beat\",\"group\":\"g\",\"instance\":\"\",\"log\":\"l\",\"number\":1,\"seen\":[]",
        "{\"type\":\"beat\",\"group\":\"g\",\"instance\":\"i\",\"log\":\"l\",\"number\":1,\"seen\":[]]",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint8_t mac[DIGEST_BYTES];
        char hex[DIGEST_HEX_BYTES];
        digest_of(&key, DIGEST_HMAC, bad[i], strlen(bad[i]), mac);
        digest_hex(mac, hex);
        int len = snprintf(text, sizeof text, "%s,\"mac\":\"%s\"}", bad[i], hex);
        cr_assert_eq(account_parse(&b, &key, text, (size_t)len), -1, "%s", bad[i]);
    }
}
