#include "base/config_keys.h"

#define FIELD(type, f) offsetof(type, f), sizeof(((type *)0)->f)

const struct config_key config_keys[] = {
#define SECTION(name, help) {#name, TYPE_SECTION, 0, 0, 0, 0, "", "", help},
#define KEY(name, field, type, min, max, words, initial, help)                                                         \
    {#name, TYPE_##type, FIELD(struct config_draft, field), min, max, words, initial, help},
#define LATER(name) {#name, TYPE_LATER, 0, 0, 0, 0, "", "", ""},
#define TOPIC_SECTION(name, help)
#define TOPIC_KEY(name, field, type, min, max, words, initial, help)
#define TOPIC_LATER(name)
#include "base/config.def"
#undef SECTION
#undef KEY
#undef LATER
#undef TOPIC_SECTION
#undef TOPIC_KEY
#undef TOPIC_LATER
    {"defaults", TYPE_SECTION, 0, 0, 0, 0, "", "", "What all topics share; a topic's own keys come first."},
    {"topics", TYPE_SECTION, 0, 0, 0, 0, "", NULL, "The topics, a list."},
};

const struct config_key config_topic_keys[] = {
#define SECTION(name, help)
#define KEY(name, field, type, min, max, words, initial, help)
#define LATER(name)
#define TOPIC_SECTION(name, help) {#name, TYPE_SECTION, 0, 0, 0, 0, "", "", help},
#define TOPIC_KEY(name, field, type, min, max, words, initial, help)                                                   \
    {#name, TYPE_##type, FIELD(struct config_topic, field), min, max, words, initial, help},
#define TOPIC_LATER(name) {#name, TYPE_LATER, 0, 0, 0, 0, "", "", ""},
#include "base/config.def"
};

const size_t config_key_count = sizeof config_keys / sizeof config_keys[0];
const size_t config_topic_key_count = sizeof config_topic_keys / sizeof config_topic_keys[0];

static_assert(sizeof config_keys / sizeof config_keys[0] <= CONFIG_KEYS_MAX, "the parser's marks hold every key");
static_assert(sizeof config_topic_keys / sizeof config_topic_keys[0] <= CONFIG_KEYS_MAX,
              "the parser's marks hold every key");
