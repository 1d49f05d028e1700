/* Any bytes as the JSON of a record: what is read of it can be read, and its list of fields is one. */
#include "tests/fuzz/fuzz.h"

#include "shm/record.h"
#include "transform/json.h"

uint64_t read_sum;

static void fields_read(const struct json *j, const struct json_plan *plan) {
    const struct json_field *field = json_fields(j);
    for (uint32_t i = 0; i < plan->count; i++)
        if (field[i].present) read_all(field[i].text, field[i].len);
}

static void list_read(struct json *j) {
    const uint8_t *list;
    size_t len, at = RECORD_FIELDS_HEAD;
    struct record_field f;
    int32_t count = json_list(j, &list, &len);
    if (count < 0) return;
    int32_t n = 0;
    int more;
    while ((more = record_field_next(list, len, &at, &f)) == 1) {
        read_all(f.name, f.name_bytes);
        read_all(f.value, f.value_bytes);
        n++;
    }
    WRONG_UNLESS(more == 0 && n == count && at == len);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len) {
    static struct json *reader;
    static struct json_plan picks, all = {.list = true};
    if (reader == NULL) {
        reader = json_new(1 << 16, NULL);
        WRONG_UNLESS(reader != NULL);
        json_plan_add(&picks, "id", 2);
        json_plan_add(&picks, "op", 2);
        json_plan_add(&picks, "a longer name", 13);
    }
    int one = json_read(reader, &picks, bytes, len);
    if (one == 0) fields_read(reader, &picks);
    if (json_read(reader, &all, bytes, len) != 0) return 0;
    WRONG_UNLESS(one == 0); /* with a list every string is wanted: it refuses more */
    list_read(reader);
    return 0;
}
