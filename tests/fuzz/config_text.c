/* Any text as a configuration: it is refused with a message, or holds what base/config.h says. */
#include "tests/fuzz/fuzz.h"

#include "base/config.h"
#include "base/kafka_properties.h"

uint64_t read_sum;

/* The first line as a property of librdkafka, `name=value`. */
static void property_check(const uint8_t *bytes, size_t len) {
    char line[256];
    size_t n = len < sizeof line - 1 ? len : sizeof line - 1;
    memcpy(line, bytes, n);
    line[n] = 0;
    line[strcspn(line, "\n")] = 0;
    char *value = strchr(line, '=');
    if (value == NULL) return;
    *value++ = 0;
    struct err err = {0};
    const struct kafka_property *p = kafka_property_find(line);
    if (p == NULL)
        WRONG_UNLESS(kafka_property_nearest(line) != NULL);
    else if (p->kind != PROPERTY_REFUSED && kafka_property_check(p, value, &err) != 0)
        WRONG_UNLESS(err.text[0] != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len) {
    static struct config config;
    struct err err = {0};
    property_check(bytes, len);
    if (config_load_text((const char *)bytes, len, "fuzz", &config, &err) != 0) {
        WRONG_UNLESS(err.text[0] != 0);
        return 0;
    }
    WRONG_UNLESS(config.lanes >= 1 && config.lanes <= LANES_MAX);
    config_redact(&config, ROLE_TRANSFORM);
    return 0;
}
