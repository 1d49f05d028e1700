/* What the group was told: remembered by topics, whatever their order. */
#include "ingest/subscription.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct config config;
static char folder[] = "/tmp/millrace-unit-XXXXXX";

static void topics(const char *a, const char *b) {
    config.topic_count = b != NULL ? 2 : 1;
    snprintf(config.topic[0].name, TOPIC_BYTES, "%s", a);
    if (b != NULL) snprintf(config.topic[1].name, TOPIC_BYTES, "%s", b);
}

static void begin(void) {
    cr_assert_not_null(mkdtemp(folder));
    snprintf(config.data_dir, sizeof config.data_dir, "%s", folder);
    snprintf(config.name, sizeof config.name, "cards");
    snprintf(config.instance, sizeof config.instance, "node1");
    snprintf(config.kafka.group_id, sizeof config.kafka.group_id, "millrace-cards");
    topics("one", "two");
}

static void end(void) {
    char path[64];
    snprintf(path, sizeof path, "%s/subscription", folder);
    unlink(path);
    cr_assert_eq(rmdir(folder), 0, "a draft was left");
}

TestSuite(subscription, .init = begin, .fini = end);

static void note(void) {
    struct err err = {0};
    cr_assert_eq(subscription_note(&config, &err), 0, "%s", err.text);
}

Test(subscription, that_was_never_noted_is_not_called_changed) { cr_assert_not(subscription_changed(&config)); }

Test(subscription, of_the_same_topics_in_another_order_is_the_same) {
    note();
    cr_assert_not(subscription_changed(&config));
    topics("two", "one");
    cr_assert_not(subscription_changed(&config));
}

Test(subscription, changes_with_a_topic_more_less_or_other) {
    note();
    topics("one", NULL);
    cr_assert(subscription_changed(&config));
    topics("one", "three");
    cr_assert(subscription_changed(&config));
    note();
    cr_assert_not(subscription_changed(&config));
    topics("one", "threeX");
    cr_assert(subscription_changed(&config));
}

Test(subscription, of_another_group_or_member_is_another) {
    note();
    snprintf(config.kafka.group_id, sizeof config.kafka.group_id, "other");
    cr_assert(subscription_changed(&config));
    note();
    snprintf(config.instance, sizeof config.instance, "node2");
    cr_assert(subscription_changed(&config));
}

Test(subscription, takes_as_many_topics_as_there_may_be) {
    config.topic_count = TOPICS_MAX;
    for (uint32_t i = 0; i < TOPICS_MAX; i++) snprintf(config.topic[i].name, TOPIC_BYTES, "%0249u", i);
    note();
    cr_assert_not(subscription_changed(&config));
    config.topic[TOPICS_MAX - 1].name[248]++;
    cr_assert(subscription_changed(&config));
}

Test(subscription, that_cannot_be_noted_says_so) {
    struct err err = {0};
    snprintf(config.data_dir, sizeof config.data_dir, "/nonexistent");
    cr_assert_eq(subscription_note(&config, &err), -1);
    cr_assert_not_null(strstr(err.text, "/nonexistent"));
}
