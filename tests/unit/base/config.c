#include "base/config.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

static struct config c;
static struct err err;

static int load(const char *text) { return config_load_text(text, strlen(text), "t.yaml", &c, &err); }

static void accept(const char *text) { cr_assert_eq(load(text), 0, "%s", err.text); }

static void refuse(const char *text, const char *message) {
    cr_assert_eq(load(text), -1, "accepted: %s", text);
    cr_assert_eq(err.code, EX_CONFIG);
    cr_assert_str_eq(err.text, message);
}

/* Pieces of a good file; every one is a whole number of lines. */
#define HEAD "config_version: 1\nname: cards\ninstance: node1\n"
#define KAFKA "kafka:\n  bootstrap.servers: localhost:9092\n"
#define REDIS "redis:\n  url: redis://localhost:6379/0\n"
#define TOPIC "  - name: t1\n    mode: change\n    format: json\n    key: \"card:{id}\"\n"
#define TOPICS "topics:\n" TOPIC
#define GOOD HEAD KAFKA REDIS TOPICS
#define AUDITED HEAD KAFKA REDIS "audit: on\nrecon: {keys: /k}\n" TOPICS

#define REFUSES(test, text, message)                                                                                   \
    Test(config, test) { refuse(text, message); }

/* -- defaults ---------------------------------------------------------------------------------- */

Test(config, smallest_file_gets_every_default) {
    accept(GOOD);
    cr_assert_eq(c.abi, CONFIG_ABI);
    cr_assert_str_eq(c.name, "cards");
    cr_assert_str_eq(c.run_dir, "/run/millrace");
    cr_assert_str_eq(c.data_dir, "/var/lib/millrace");
    cr_assert(c.lanes == 1 && c.start == START_ERROR && c.spin_us == 0);
    cr_assert_eq(c.ring_bytes, 16 << 20);
    cr_assert(c.drain_timeout_ms == 30000 && c.heartbeat_timeout_ms == 10000);
    cr_assert(c.restart.limit == 10 && c.restart.window_ms == 60000 && c.restart.backoff_ms_max == 5000);
    cr_assert(c.poison.attempts == 3 && c.poison.limit == 10);
    cr_assert_eq(c.rejects.max_bytes, 1 << 30);
    cr_assert(c.log.format == LOG_TEXT && c.metrics.textfile[0] == 0 && c.metrics.interval_ms == 15000);
    cr_assert_str_eq(c.kafka.group_id, "millrace-cards");
    cr_assert(c.kafka.session_timeout_ms == 10000 && c.kafka.property_count == 1);
    cr_assert(c.redis.batch == 100 && c.redis.in_flight == 2000 && c.redis.linger_ms == 0);
    cr_assert(c.redis.connect_timeout_ms == 5000 && c.redis.response_timeout_ms == 5000);
    cr_assert(c.redis.when_marks_missing == MARKS_MISSING_BLOCK && !c.redis.allow_eviction &&
              !c.redis.unsafe_reconnect);
    cr_assert(c.topic_count == 1 && c.topic[0].value_type == VALUE_TYPE_STRING &&
              c.topic[0].compress == COMPRESS_NONE && !c.topic[0].encrypt);
    cr_assert(c.topic[0].ttl_ms == 0 && c.topic[0].partition_count == 0 && c.topic[0].old_key[0] == 0);
}

Test(config, instance_defaults_to_the_host_name) {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    accept("config_version: 1\nname: cards\n" KAFKA REDIS TOPICS);
    cr_assert_str_eq(c.instance, host);
}

Test(config, every_value_reaches_its_place) {
    accept(
        HEAD
        "lanes: 16\nring_bytes: 1GiB\nspin_us: 50\ndrain_timeout: 500000ms\nheartbeat_timeout: 5m\nstart: latest\n"
        "audit: off\nrestart: {limit: 7, window: 1h, backoff_max: 10ms}\npoison: {attempts: 2, limit: 99}\n"
        "rejects: {max_bytes: 2097152}\nlog: {level: debug, format: json}\nmetrics: {textfile: /x/y.prom, interval: "
        "1m}\n"
        "kafka: {bootstrap.servers: a, group.id: g, session.timeout.ms: 6000, fetch.min.bytes: 5}\n"
        "redis: {url: 'unix:///r.sock', batch: 1, in_flight: 1, linger_ms: 3, connect_timeout: 1s, response_timeout: "
        "2s,\n"
        "        when_marks_missing: trust_kafka, allow_eviction: true, unsafe_reconnect: true}\n"
        "crypto: {keys: /k}\n"
        "topics:\n  - {name: T_1.x-y, mode: change, format: json, key: '{a}', old_key: '{b}', operation: {field: op},\n"
        "     value: {compress: lz4, encrypt: true}, ttl: 2d, partitions: [3, 1, 5-7]}\n");
    cr_assert(c.lanes == 16 && c.ring_bytes == 1 << 30 && c.spin_us == 50 && c.drain_timeout_ms == 500000);
    cr_assert(c.heartbeat_timeout_ms == 300000 && c.start == START_LATEST && c.restart.limit == 7);
    cr_assert(c.restart.window_ms == 3600000 && c.restart.backoff_ms_max == 10 && c.poison.attempts == 2 &&
              c.poison.limit == 99);
    cr_assert(c.rejects.max_bytes == 2 << 20 && c.log.level == 3 && c.log.format == LOG_JSON &&
              c.metrics.interval_ms == 60000);
    cr_assert_str_eq(c.metrics.textfile, "/x/y.prom");
    cr_assert_str_eq(c.kafka.group_id, "g");
    cr_assert(c.kafka.session_timeout_ms == 6000 && c.kafka.property_count == 2);
    cr_assert_str_eq(c.kafka.property[1].name, "fetch.min.bytes");
    cr_assert(c.redis.scheme == REDIS_UNIX && c.redis.batch == 1 && c.redis.in_flight == 1 && c.redis.linger_ms == 3);
    cr_assert(c.redis.connect_timeout_ms == 1000 && c.redis.response_timeout_ms == 2000);
    cr_assert(c.redis.when_marks_missing == MARKS_MISSING_TRUST_KAFKA && c.redis.allow_eviction &&
              c.redis.unsafe_reconnect);
    cr_assert_str_eq(c.crypto.keys, "/k");
    const struct config_topic *t = &c.topic[0];
    cr_assert_str_eq(t->name, "T_1.x-y");
    cr_assert_str_eq(t->operation_field, "op");
    cr_assert(t->mode == MODE_CHANGE && t->format == FORMAT_JSON && t->compress == COMPRESS_LZ4 && t->encrypt);
    cr_assert_eq(t->ttl_ms, 172800000);
    const int32_t partitions[] = {1, 3, 5, 6, 7};
    cr_assert_eq(t->partition_count, 5);
    cr_assert_arr_eq(t->partitions, partitions, sizeof partitions);
}

/* -- keys -------------------------------------------------------------------------------------- */

REFUSES(unknown_key_names_the_nearest, HEAD "lane: 2\n" KAFKA REDIS TOPICS,
        "t.yaml:4:1: unknown key lane; did you mean lanes?")
REFUSES(unknown_key_with_swapped_letters, HEAD "isntance: x\n",
        "t.yaml:4:1: unknown key isntance; did you mean instance?")
REFUSES(unknown_key_in_a_section, HEAD KAFKA "redis:\n  bach: 2\n",
        "t.yaml:7:3: unknown key redis.bach; did you mean redis.batch?")
REFUSES(unknown_key_that_belongs_into_a_section, HEAD "batch: 5\n",
        "t.yaml:4:1: unknown key batch; did you mean redis.batch?")
REFUSES(unknown_key_of_a_topic, GOOD "    olld_key: x\n",
        "t.yaml:13:5: unknown key topics[0].olld_key; did you mean topics[0].old_key?")
REFUSES(unknown_key_below_a_topic, GOOD "    value: {compres: lz4}\n",
        "t.yaml:13:13: unknown key topics[0].value.compres; did you mean topics[0].value.compress?")
REFUSES(unknown_key_of_defaults, HEAD "defaults: {formt: raw}\n",
        "t.yaml:4:12: unknown key defaults.formt; did you mean defaults.format?")
REFUSES(dotted_key_is_told_to_be_a_section, HEAD "redis.url: redis://x\n",
        "t.yaml:4:1: redis.url: write a section redis: with url: below it")
REFUSES(key_that_is_there_twice, HEAD "lanes: 1\nlanes: 2\n", "t.yaml:5:1: lanes is there twice")
REFUSES(section_that_is_there_twice, HEAD REDIS REDIS, "t.yaml:6:1: redis is there twice")
REFUSES(key_of_a_topic_that_is_there_twice, GOOD "    mode: bulk\n", "t.yaml:13:5: topics[0].mode is there twice")
REFUSES(key_that_is_a_list, HEAD "[a, b]: 1\n", "t.yaml:4:1: a key must be a single word")
REFUSES(key_with_a_nul, HEAD "\"lanes\\0x\": 1\n", "t.yaml:4:1: a key must be a single word")
REFUSES(key_of_a_later_version, HEAD "schema_registry: {url: x}\n",
        "t.yaml:4:1: schema_registry is not available in this version")
REFUSES(key_of_a_topic_of_a_later_version, GOOD "    on_error: block\n",
        "t.yaml:13:5: topics[0].on_error is not available in this version")
REFUSES(reconcile_with_content_and_no_keys, AUDITED "    reconcile: full\n",
        "t.yaml:15:16: topics[0].reconcile: full needs crypto.keys")
REFUSES(manifests_without_their_topic, AUDITED "    evidence: manifest\n",
        "t.yaml:15:15: topics[0].evidence: manifest needs recon.manifest_topic")
REFUSES(audit_without_keys, HEAD KAFKA REDIS "audit: on\n" TOPICS,
        "t.yaml:8:8: audit: on needs recon.keys, a file made by `millrace keygen`")
REFUSES(control_characters_of_a_key_do_not_reach_the_terminal, HEAD "\"la\\enes\": 1\n",
        "t.yaml:4:1: unknown key la?nes; did you mean lanes?")

/* -- version ----------------------------------------------------------------------------------- */

REFUSES(version_that_is_missing, "name: cards\n" KAFKA, "t.yaml:1:1: config_version: 1 must be the first key")
REFUSES(version_that_is_not_first, "name: cards\nconfig_version: 1\n",
        "t.yaml:1:1: config_version: 1 must be the first key")
REFUSES(version_of_another_program, "config_version: 2\nwhatever: 1\n",
        "t.yaml:1:17: config_version: version 2 is unknown; this millrace reads version 1")
REFUSES(version_that_is_no_number, "config_version: one\n",
        "t.yaml:1:17: config_version: found \"one\", expected a whole number, 1 to 1")

/* -- values ------------------------------------------------------------------------------------ */

REFUSES(number_that_is_a_word, HEAD "lanes: many\n",
        "t.yaml:4:8: lanes: found \"many\", expected a whole number, 1 to 16 lanes")
REFUSES(number_with_a_sign, HEAD "lanes: -1\n",
        "t.yaml:4:8: lanes: found \"-1\", expected a whole number, 1 to 16 lanes")
REFUSES(number_with_a_fraction, HEAD "lanes: 1.5\n",
        "t.yaml:4:8: lanes: found \"1.5\", expected a whole number, 1 to 16 lanes")
REFUSES(number_above_its_range, HEAD "lanes: 17\n", "t.yaml:4:8: lanes: 17 is out of range: 1 to 16 lanes")
REFUSES(number_below_its_range, HEAD "lanes: 0\n", "t.yaml:4:8: lanes: 0 is out of range: 1 to 16 lanes")
REFUSES(number_beyond_64_bits, HEAD "lanes: 99999999999999999999999\n",
        "t.yaml:4:8: lanes: 99999999999999999999999 is out of range: 1 to 16 lanes")
REFUSES(duration_without_unit, HEAD "drain_timeout: 30\n",
        "t.yaml:4:16: drain_timeout: found \"30\", expected a duration such as 500ms, 10s, 5m or 1h, 1s to 1h")
REFUSES(duration_with_another_unit, HEAD "drain_timeout: 30sec\n",
        "t.yaml:4:16: drain_timeout: found \"30sec\", expected a duration such as 500ms, 10s, 5m or 1h, 1s to 1h")
REFUSES(duration_out_of_range, HEAD "drain_timeout: 2h\n", "t.yaml:4:16: drain_timeout: 2h is out of range: 1s to 1h")
REFUSES(duration_that_overflows, HEAD "drain_timeout: 18446744073709551615d\n",
        "t.yaml:4:16: drain_timeout: 18446744073709551615d is out of range: 1s to 1h")
REFUSES(size_with_another_unit, HEAD "rejects: {max_bytes: 5MB}\n",
        "t.yaml:4:22: rejects.max_bytes: found \"5MB\", expected a size such as 1048576, 64MiB or 1GiB, 1MiB to 1TiB")
REFUSES(size_out_of_range, HEAD "ring_bytes: 512KiB\n", "t.yaml:4:13: ring_bytes: 512KiB is out of range: 1MiB to 1GiB")
REFUSES(ring_that_is_no_power_of_two, HEAD "ring_bytes: 3MiB\n", "t.yaml:4:13: ring_bytes: 3MiB is not a power of two")
REFUSES(word_that_is_unknown, HEAD "start: now\n",
        "t.yaml:4:8: start: found \"now\", expected error, earliest or latest")
REFUSES(format_of_a_later_version, HEAD KAFKA REDIS "topics: [{format: debezium-json}]\n",
        "t.yaml:8:19: topics[0].format: debezium-json is not available in this version")
REFUSES(truth_that_is_neither, HEAD "redis: {allow_eviction: yes}\n",
        "t.yaml:4:25: redis.allow_eviction: found \"yes\", expected true or false")
REFUSES(value_that_is_missing, HEAD "lanes:\n", "t.yaml:4:7: lanes: has no value")
REFUSES(value_that_is_null, HEAD "lanes: null\n", "t.yaml:4:8: lanes: has no value")
REFUSES(value_that_is_a_list, HEAD "lanes: [1]\n", "t.yaml:4:8: lanes: expected a single value, found a list")
REFUSES(value_that_is_a_section, HEAD "lanes: {a: 1}\n",
        "t.yaml:4:8: lanes: expected a single value, found keys of its own")
REFUSES(section_that_is_a_value, HEAD "redis: localhost\n",
        "t.yaml:4:8: redis: expected keys and values, found a single value")
REFUSES(value_with_a_nul, HEAD "run_dir: \"/a\\0b\"\n", "t.yaml:4:10: run_dir: contains a NUL")
REFUSES(
    name_with_a_blank, "config_version: 1\nname: my cards\n",
    "t.yaml:2:7: name: found \"my cards\", expected lower-case letters, digits, '.', '_' and '-', the first a letter "
    "or digit")
REFUSES(
    name_that_would_leave_its_folder, "config_version: 1\nname: ../x\n",
    "t.yaml:2:7: name: found \"../x\", expected lower-case letters, digits, '.', '_' and '-', the first a letter or "
    "digit")
REFUSES(name_that_is_empty, "config_version: 1\nname: ''\n", "t.yaml:2:7: name: must not be empty")
REFUSES(name_that_is_too_long,
        "config_version: 1\nname: aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggg\n",
        "t.yaml:2:7: name: is 64 bytes long, at most 63 are allowed")
REFUSES(topic_name_that_kafka_would_not_take, HEAD "topics: [{name: a/b}]\n",
        "t.yaml:4:17: topics[0].name: found \"a/b\", expected letters, digits, '.', '_' and '-'")
REFUSES(topic_name_that_is_a_dot, HEAD "topics: [{name: .}]\n",
        "t.yaml:4:17: topics[0].name: found \".\", expected letters, digits, '.', '_' and '-'")

/* -- processors and memory --------------------------------------------------------------------- */

static const char *cpus_text(const struct cpus *set) {
    static char text[4][64];
    static int next;
    next = (next + 1) % 4;
    return set == NULL ? "anywhere" : cpus_format(set, text[next], sizeof text[next]);
}

Test(config, workers_are_not_pinned_and_memory_is_ordinary_unless_asked_for) {
    accept(GOOD);
    for (enum role role = 0; role < ROLE_COUNT; role++) cr_assert_null(config_cpus_of(&c, role, 0));
    cr_assert(c.memory.huge_pages == HUGE_PAGES_OFF && !c.memory.prefault && !c.memory.lock);
}

Test(config, processors_are_of_all_lanes_or_of_each) {
    accept(HEAD "lanes: 2\ncpus: {ingest: 0, transform: [1, '2,5-6'], sink: 3-4}\n" KAFKA REDIS TOPICS);
    cr_assert_null(config_cpus_of(&c, ROLE_SUPERVISOR, 0));
    cr_assert_str_eq(cpus_text(config_cpus_of(&c, ROLE_INGEST, 0)), "0");
    cr_assert_str_eq(cpus_text(config_cpus_of(&c, ROLE_TRANSFORM, 0)), "1");
    cr_assert_str_eq(cpus_text(config_cpus_of(&c, ROLE_TRANSFORM, 1)), "2,5-6");
    cr_assert_str_eq(cpus_text(config_cpus_of(&c, ROLE_SINK, 0)), "3-4");
    cr_assert_str_eq(cpus_text(config_cpus_of(&c, ROLE_SINK, 1)), "3-4");
}

Test(config, memory_settings_reach_their_place) {
    accept(HEAD "memory: {huge_pages: require, prefault: true, lock: true}\n" KAFKA REDIS TOPICS);
    cr_assert(c.memory.huge_pages == HUGE_PAGES_REQUIRE && c.memory.prefault && c.memory.lock);
    accept(HEAD "memory: {huge_pages: try}\n" KAFKA REDIS TOPICS);
    cr_assert(c.memory.huge_pages == HUGE_PAGES_TRY && !c.memory.prefault && !c.memory.lock);
}

REFUSES(processors_that_are_words, HEAD "cpus: {ingest: all}\n",
        "t.yaml:4:16: cpus.ingest: found \"all\", expected processors such as 0 or 2-3,8, below 1024")
REFUSES(processors_beyond_the_largest, HEAD "cpus:\n  sink: [0, 1024]\n",
        "t.yaml:5:13: cpus.sink: found \"1024\", expected processors such as 0 or 2-3,8, below 1024")
REFUSES(processors_of_ingest_for_lanes, HEAD "cpus: {ingest: [0, 1]}\n",
        "t.yaml:4:16: cpus.ingest: expected a single value, found a list")
REFUSES(processors_of_fewer_lanes_than_there_are, HEAD "lanes: 3\ncpus: {transform: [0, 1]}\n" KAFKA REDIS TOPICS,
        "t.yaml:5:19: cpus.transform lists 2 sets of processors for 3 lanes; one set for all, or one for each")
REFUSES(processors_of_more_lanes_than_there_are, HEAD "cpus: {sink: [0, 1]}\n" KAFKA REDIS TOPICS,
        "t.yaml:4:14: cpus.sink lists 2 sets of processors for 1 lane; one set for all, or one for each")
REFUSES(processors_of_too_many_lanes, HEAD "cpus: {sink: [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}\n",
        "t.yaml:4:14: cpus.sink: at most 16 sets")
REFUSES(processors_that_are_no_list, HEAD "cpus: {sink: []}\n", "t.yaml:4:14: cpus.sink: the list is empty")
REFUSES(processors_that_are_a_section, HEAD "cpus: {sink: {a: 1}}\n",
        "t.yaml:4:14: cpus.sink: expected processors such as \"2-3\" or a list [\"2\", \"3\"], found keys of its own")
REFUSES(processors_of_the_supervisor, HEAD "cpus: {supervisor: 0}\n",
        "t.yaml:4:8: unknown key cpus.supervisor; did you mean cpus.ingest?")
REFUSES(huge_pages_that_are_a_truth, HEAD "memory: {huge_pages: true}\n",
        "t.yaml:4:22: memory.huge_pages: found \"true\", expected off, try or require")

/* -- YAML -------------------------------------------------------------------------------------- */

REFUSES(empty_file, "", "t.yaml:1:1: the file is empty; config_version: 1 must be the first key")
REFUSES(file_that_is_a_list, "- a\n", "t.yaml:1:1: config_version: 1 must be the first key")
REFUSES(file_that_is_not_yaml, HEAD "lanes: [1\n",
        "t.yaml:5:1: did not find expected ',' or ']' while parsing a flow sequence")
REFUSES(file_that_is_not_utf8, HEAD "run_dir: /a\xff\n", "t.yaml:4:12: invalid leading UTF-8 octet")
REFUSES(second_document, GOOD "---\na: 1\n", "t.yaml:14:1: one file holds one configuration; this is a second one")

Test(config, columns_count_characters_not_bytes) {
    refuse(HEAD KAFKA REDIS "topics:\n  - {name: t, mode: change, key: \"\xc3\xa9\xe2\x82\xac{\"}\n",
           "t.yaml:9:37: topics[0].key: { without } (write {{ for the brace itself)");
}

Test(config, alias_that_contains_itself_ends) {
    refuse(HEAD "redis: &a\n  url: *a\n", "t.yaml:4:8: redis.url: expected a single value, found keys of its own");
}

/* -- environment ------------------------------------------------------------------------------- */

Test(config, variable_is_filled_in) {
    setenv("MILLRACE_TEST_NODE", "node-x", 1);
    accept(
        "config_version: 1\nname: cards\ninstance: ${MILLRACE_TEST_NODE}\nlanes: ${MILLRACE_TEST_UNSET:3}\n" KAFKA REDIS
            TOPICS);
    cr_assert_str_eq(c.instance, "node-x");
    cr_assert_eq(c.lanes, 3);
}

Test(config, variable_comes_before_its_default) {
    setenv("MILLRACE_TEST_LANES", "4", 1);
    accept(HEAD "lanes: ${MILLRACE_TEST_LANES:3}\n" KAFKA REDIS TOPICS);
    cr_assert_eq(c.lanes, 4);
}

Test(config, variable_may_be_a_part_of_a_value) {
    setenv("MILLRACE_TEST_HOST", "h", 1);
    accept(HEAD KAFKA "redis: {url: 'redis://${MILLRACE_TEST_HOST}:${MILLRACE_TEST_PORT:7}/0'}\n" TOPICS);
    cr_assert_str_eq(c.redis.host, "h");
    cr_assert_eq(c.redis.port, 7);
}

Test(config, variable_cannot_inject_yaml) {
    setenv("MILLRACE_TEST_EVIL", "x\nlanes: 16", 1);
    refuse("config_version: 1\nname: ${MILLRACE_TEST_EVIL}\n",
           "t.yaml:2:7: name: found \"x?lanes: 16\", expected lower-case letters, digits, '.', '_' and '-', "
           "the first a letter or digit");
}

Test(config, variable_within_a_variable_is_not_looked_at) {
    setenv("MILLRACE_TEST_A", "${MILLRACE_TEST_B}", 1);
    setenv("MILLRACE_TEST_B", "secret", 1);
    accept(HEAD "run_dir: ${MILLRACE_TEST_A}\n" KAFKA REDIS TOPICS);
    cr_assert_str_eq(c.run_dir, "${MILLRACE_TEST_B}");
}

Test(config, doubled_dollar_stands_for_itself) {
    accept(HEAD "run_dir: /a/$${HOME}/$5\n" KAFKA REDIS TOPICS);
    cr_assert_str_eq(c.run_dir, "/a/${HOME}/$5");
}

REFUSES(variable_in_a_key_is_no_variable, HEAD "${HOME}: 1\n", "t.yaml:4:1: unknown key ${HOME}; did you mean name?")
REFUSES(variable_that_is_not_set, HEAD "run_dir: /a/${MILLRACE_TEST_UNSET}\n",
        "t.yaml:4:13: run_dir: the environment variable MILLRACE_TEST_UNSET is not set, and there is no "
        "${MILLRACE_TEST_UNSET:default}")
REFUSES(variable_without_closing_brace, HEAD "run_dir: \"/a/${HOME\"\n",
        "t.yaml:4:14: run_dir: ${ without } (write $${ for the characters themselves)")
REFUSES(variable_with_a_strange_name, HEAD "run_dir: ${HO ME}\n",
        "t.yaml:4:10: run_dir: after ${ comes the name of an environment variable, then } or :default}")

/* -- what is required -------------------------------------------------------------------------- */

REFUSES(name_that_is_missing, "config_version: 1\n" KAFKA REDIS TOPICS, "t.yaml:1:1: name is required")
REFUSES(kafka_that_is_missing, HEAD REDIS TOPICS, "t.yaml:1:1: kafka.bootstrap.servers is required")
REFUSES(bootstrap_servers_that_are_missing, HEAD "kafka: {client.id: x}\n" REDIS TOPICS,
        "t.yaml:4:8: kafka.bootstrap.servers is required")
REFUSES(redis_that_is_missing, HEAD KAFKA TOPICS, "t.yaml:1:1: redis.url is required")
REFUSES(redis_url_that_is_missing, HEAD KAFKA "redis:\n  batch: 5\n" TOPICS, "t.yaml:7:3: redis.url is required")
REFUSES(topics_that_are_missing, HEAD KAFKA REDIS, "t.yaml:1:1: topics is required")
REFUSES(topics_that_are_no_list, HEAD KAFKA REDIS "topics: {a: 1}\n",
        "t.yaml:8:9: topics: expected a list, found keys of its own")
REFUSES(topics_that_are_empty, HEAD KAFKA REDIS "topics: []\n", "t.yaml:8:9: topics: the list is empty")
REFUSES(topic_that_is_no_section, HEAD KAFKA REDIS "topics: [t1]\n",
        "t.yaml:8:10: topics[0]: expected keys and values, found a single value")
REFUSES(topic_without_name, HEAD KAFKA REDIS "topics:\n  - mode: bulk\n    key: x\n",
        "t.yaml:9:5: topics[0].name is required")
REFUSES(topic_without_mode, HEAD KAFKA REDIS "topics:\n  - name: t\n    key: x\n",
        "t.yaml:9:5: topics[0].mode is required")
REFUSES(topic_without_key, HEAD KAFKA REDIS "topics:\n  - name: t\n    mode: bulk\n",
        "t.yaml:9:5: topics[0].key is required")

/* -- kafka ------------------------------------------------------------------------------------- */

#define WITH_KAFKA(lines) HEAD "kafka:\n  bootstrap.servers: a\n" lines REDIS TOPICS

REFUSES(property_that_is_unknown, WITH_KAFKA("  bootstrap.server: a\n"),
        "t.yaml:6:3: unknown Kafka property bootstrap.server; did you mean bootstrap.servers?")
REFUSES(property_that_runs_programs, WITH_KAFKA("  sasl.kerberos.kinit.cmd: touch /tmp/x\n"),
        "t.yaml:6:3: kafka.sasl.kerberos.kinit.cmd is refused: it runs a program through the shell")
REFUSES(property_that_loads_code, WITH_KAFKA("  plugin.library.paths: /x.so\n"),
        "t.yaml:6:3: kafka.plugin.library.paths is refused: it loads code into the process")
REFUSES(property_that_starts_the_mock, WITH_KAFKA("  test.mock.num.brokers: 3\n"),
        "t.yaml:6:3: kafka.test.mock.num.brokers is refused: it replaces the brokers by a simulation")
REFUSES(property_that_shows_content, WITH_KAFKA("  debug: all\n"),
        "t.yaml:6:3: kafka.debug is refused: it may write passwords and the content of records to the log")
REFUSES(property_that_millrace_sets, WITH_KAFKA("  enable.auto.commit: true\n"),
        "t.yaml:6:3: kafka.enable.auto.commit is refused: it is set by millrace")
REFUSES(offset_reset_that_is_the_key_start, WITH_KAFKA("  auto.offset.reset: earliest\n"),
        "t.yaml:6:3: kafka.auto.offset.reset is refused: it is set by millrace from the key `start`")
REFUSES(property_of_producers, WITH_KAFKA("  acks: all\n"),
        "t.yaml:6:3: kafka.acks is refused: it is for producers; millrace only consumes")
REFUSES(property_with_another_type, WITH_KAFKA("  fetch.min.bytes: lots\n"),
        "t.yaml:6:20: kafka.fetch.min.bytes: found \"lots\", expected a whole number from 1 to 100000000")
REFUSES(property_out_of_range, WITH_KAFKA("  fetch.min.bytes: 0\n"),
        "t.yaml:6:20: kafka.fetch.min.bytes: 0 is out of range: 1 to 100000000")
REFUSES(property_that_is_empty, WITH_KAFKA("  client.id: ''\n"), "t.yaml:6:14: kafka.client.id: must not be empty")
REFUSES(property_that_is_there_twice, WITH_KAFKA("  client.id: a\n  client.id: b\n"),
        "t.yaml:7:14: kafka.client.id: client.id is set twice")
REFUSES(property_and_its_alias, WITH_KAFKA("  metadata.broker.list: b\n"),
        "t.yaml:6:25: kafka.metadata.broker.list: bootstrap.servers is set twice")
REFUSES(group_that_is_there_twice, WITH_KAFKA("  group.id: b\n  group.id: c\n"),
        "t.yaml:7:13: kafka.group.id: group.id is set twice")
REFUSES(strategy_that_loses_partitions, WITH_KAFKA("  partition.assignment.strategy: range,cooperative-sticky\n"),
        "t.yaml:6:34: kafka.partition.assignment.strategy: cooperative-sticky is refused: librdkafka before 2.10.1 can "
        "lose "
        "partitions and hang with it")
REFUSES(kerberos, WITH_KAFKA("  sasl.mechanism: GSSAPI\n"),
        "t.yaml:6:19: kafka.sasl.mechanism: GSSAPI is refused: Kerberos is not available in this version (librdkafka "
        "would run "
        "kinit through the shell)")
REFUSES(kerberos_by_default, WITH_KAFKA("  security.protocol: SASL_SSL\n"),
        "t.yaml:6:22: kafka.sasl.mechanism is required with security.protocol SASL_SSL")
REFUSES(mechanism_without_password,
        WITH_KAFKA("  security.protocol: sasl_ssl\n  sasl.mechanism: PLAIN\n  sasl.username: u\n"),
        "t.yaml:7:19: kafka.sasl.mechanism PLAIN needs sasl.username and sasl.password (or sasl.password_file)")
REFUSES(file_of_a_property_that_is_no_secret, WITH_KAFKA("  sasl.username_file: /x\n"),
        "t.yaml:6:3: kafka.sasl.username_file: sasl.username is not a secret; write it without _file")
REFUSES(session_above_the_poll_interval, WITH_KAFKA("  session.timeout.ms: 60000\n  max.poll.interval.ms: 50000\n"),
        "t.yaml:7:25: kafka.session.timeout.ms must not be above max.poll.interval.ms")
REFUSES(kafka_that_is_a_list, HEAD "kafka: [a]\n", "t.yaml:4:8: kafka: expected properties of librdkafka, found a list")

Test(config, property_values_too_long_are_refused) {
    char text[4096], value[VALUE_BYTES + 1];
    memset(value, 'x', VALUE_BYTES);
    value[VALUE_BYTES] = 0;
    snprintf(text, sizeof text, HEAD "kafka: {bootstrap.servers: %s}\n" REDIS TOPICS, value);
    refuse(text, "t.yaml:4:28: kafka.bootstrap.servers: is longer than 1023 bytes");
}

Test(config, alias_is_stored_under_the_property_it_stands_for) {
    accept(HEAD "kafka: {metadata.broker.list: b, sasl.mechanism: PLAIN}\n" REDIS TOPICS);
    cr_assert_str_eq(c.kafka.property[0].name, "bootstrap.servers");
    cr_assert_str_eq(c.kafka.property[1].name, "sasl.mechanisms");
}

/* -- redis ------------------------------------------------------------------------------------- */

#define WITH_REDIS(lines) HEAD KAFKA "redis:\n  url: redis://localhost:6379/0\n" lines TOPICS

REFUSES(in_flight_below_a_batch, WITH_REDIS("  batch: 500\n  in_flight: 100\n"),
        "t.yaml:9:14: redis.in_flight is 100 and redis.batch 500: at least one whole batch must be in flight")
REFUSES(batch_above_the_default_in_flight, WITH_REDIS("  batch: 4096\n"),
        "t.yaml:8:10: redis.in_flight is 2000 and redis.batch 4096: at least one whole batch must be in flight")
REFUSES(two_passwords, WITH_REDIS("  password: a\n  password_file: /x\n"),
        "t.yaml:9:18: redis: the password is there twice (redis.url, redis.password, redis.password_file)")
REFUSES(password_in_url_and_key, HEAD KAFKA "redis: {url: 'redis://:a@h', password: b}\n" TOPICS,
        "t.yaml:6:40: redis: the password is there twice (redis.url, redis.password, redis.password_file)")
REFUSES(user_in_url_and_key, HEAD KAFKA "redis: {url: 'redis://u:a@h', user: v}\n" TOPICS,
        "t.yaml:6:37: redis.user: redis.url names a user too")
REFUSES(user_without_password, WITH_REDIS("  user: u\n"), "t.yaml:8:9: redis: a user needs a password")
REFUSES(tls_over_a_plain_url, WITH_REDIS("  tls: {ca_file: /x}\n"),
        "t.yaml:8:18: redis.tls.ca_file: only rediss:// is TLS; redis.url is not")
REFUSES(server_name_over_a_plain_url, WITH_REDIS("  tls: {server_name: x}\n"),
        "t.yaml:8:22: redis.tls.server_name: only rediss:// is TLS; redis.url is not")
REFUSES(tls_key_written_with_a_dot, WITH_REDIS("  tls.ca_file: /x\n"),
        "t.yaml:8:3: redis.tls.ca_file: write a section redis.tls: with ca_file: below it")
REFUSES(tls_key_in_the_wrong_section, WITH_REDIS("  ca_file: /x\n"),
        "t.yaml:8:3: unknown key redis.ca_file; did you mean redis.tls.ca_file?")
REFUSES(tls_file_that_is_missing, HEAD KAFKA "redis: {url: 'rediss://h', tls: {ca_file: /nonexistent/ca}}\n" TOPICS,
        "t.yaml:6:43: redis.tls.ca_file: /nonexistent/ca: No such file or directory")
REFUSES(url_that_is_none_does_not_appear_in_the_message, HEAD KAFKA "redis: {url: 'http://u:pw-canary@h'}\n" TOPICS,
        "t.yaml:6:14: redis.url: expected redis://host:port/db, rediss://… or unix:///path")

Test(config, user_and_password_may_stand_beside_the_url) {
    accept(WITH_REDIS("  user: u\n  password: 'p@%:/'\n"));
    cr_assert_str_eq(c.redis.user, "u");
    cr_assert_str_eq(c.redis.password, "p@%:/");
}

/* -- topics ------------------------------------------------------------------------------------ */

#define WITH_TOPIC(lines) HEAD KAFKA REDIS "topics:\n  - name: t1\n" lines

REFUSES(topic_that_is_there_twice, GOOD TOPIC, "t.yaml:13:11: topics[1].name: t1 is topics[0] already")
REFUSES(old_key_of_a_bulk_topic, WITH_TOPIC("    mode: bulk\n    key: x\n    old_key: y\n"),
        "t.yaml:12:14: topics[0].old_key: only change topics have updates")
REFUSES(operation_from_two_places, GOOD "    operation: {header: a, field: b}\n",
        "t.yaml:13:35: topics[0].operation: a header or a field, not both")
REFUSES(operation_field_of_a_raw_topic, WITH_TOPIC("    mode: change\n    key: x\n    operation: {field: op}\n"),
        "t.yaml:12:24: topics[0].operation.field needs format json")
REFUSES(field_in_the_key_of_a_raw_topic, WITH_TOPIC("    mode: change\n    key: \"{id}\"\n"),
        "t.yaml:11:10: topics[0].key: fields of the value need format json")
REFUSES(field_in_the_old_key_of_a_raw_topic,
        WITH_TOPIC("    mode: change\n    key: \"{$key}\"\n    old_key: \"{id}\"\n"),
        "t.yaml:12:14: topics[0].old_key: fields of the value need format json")
REFUSES(encryption_without_keys, GOOD "    value: {encrypt: true}\n",
        "t.yaml:13:22: topics[0].value.encrypt needs crypto.keys")
REFUSES(hash_of_a_raw_topic, WITH_TOPIC("    mode: change\n    key: \"{$key}\"\n    value: {type: hash}\n"),
        "t.yaml:12:19: topics[0].value.type hash needs format json")
REFUSES(hash_that_is_compressed, GOOD "    value: {type: hash, compress: lz4}\n",
        "t.yaml:13:19: topics[0].value.type hash goes with neither compression nor encryption: fields of a hash are "
        "stored as they are")
REFUSES(template_with_an_open_brace_points_at_it, WITH_TOPIC("    key: \"card:{a}:{b\"\n"),
        "t.yaml:10:20: topics[0].key: { without } (write {{ for the brace itself)")
REFUSES(template_in_plain_style_points_at_the_mistake, WITH_TOPIC("    key: card:{a}:{}\n"),
        "t.yaml:10:19: topics[0].key: {} names no field")
REFUSES(template_that_is_empty, WITH_TOPIC("    key: ''\n"), "t.yaml:10:10: topics[0].key: must not be empty")
REFUSES(name_in_defaults, HEAD "defaults: {name: x}\n", "t.yaml:4:18: defaults.name: belongs to each topic")
REFUSES(key_in_defaults, HEAD "defaults: {key: x}\n", "t.yaml:4:17: defaults.key: belongs to each topic")
REFUSES(partitions_in_defaults, HEAD "defaults: {partitions: [1]}\n",
        "t.yaml:4:24: defaults.partitions: belongs to each topic")

REFUSES(partition_that_is_none, GOOD "    partitions: [0, x]\n",
        "t.yaml:13:21: topics[0].partitions: found \"x\", expected a partition such as 5 or a range such as 0-7")
REFUSES(partition_below_zero, GOOD "    partitions: [-1]\n",
        "t.yaml:13:18: topics[0].partitions: found \"-1\", expected a partition such as 5 or a range such as 0-7")
REFUSES(
    partition_beyond_31_bits, GOOD "    partitions: [2147483648]\n",
    "t.yaml:13:18: topics[0].partitions: found \"2147483648\", expected a partition such as 5 or a range such as 0-7")
REFUSES(partition_range_backwards, GOOD "    partitions: 7-0\n",
        "t.yaml:13:17: topics[0].partitions: found \"7-0\", expected a partition such as 5 or a range such as 0-7")
REFUSES(partition_that_is_listed_twice, GOOD "    partitions: [0-3, 2]\n",
        "t.yaml:13:23: topics[0].partitions: 2 is listed twice")
REFUSES(partitions_that_are_empty, GOOD "    partitions: []\n", "t.yaml:13:17: topics[0].partitions: the list is empty")
REFUSES(partitions_that_are_a_section, GOOD "    partitions: {a: 1}\n",
        "t.yaml:13:17: topics[0].partitions: expected a list such as [0, 1, 5] or \"0-7\", found keys of its own")
REFUSES(partitions_that_are_too_many, GOOD "    partitions: 0-256\n",
        "t.yaml:13:17: topics[0].partitions: at most 256 partitions of a topic can be listed")
REFUSES(partitions_of_some_topics_only, GOOD "    partitions: [0]\n  - {name: t2, mode: bulk, key: x}\n",
        "t.yaml:14:5: topics: t1 has a list of partitions and t2 has none; all have one, or none has")

Test(config, more_topics_than_the_limit_are_refused) {
    static char text[65536];
    size_t n = (size_t)snprintf(text, sizeof text, HEAD KAFKA REDIS "topics:\n");
    for (int i = 0; i <= TOPICS_MAX; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "  - {name: t%d, mode: bulk, key: x}\n", i);
    refuse(text, "t.yaml:73:5: topics: at most 64");
}

Test(config, more_partitions_than_the_limit_are_refused) {
    refuse(
        HEAD KAFKA REDIS
        "topics:\n"
        "  - {name: a, mode: bulk, key: x, partitions: 0-255}\n  - {name: b, mode: bulk, key: x, partitions: 0-255}\n"
        "  - {name: c, mode: bulk, key: x, partitions: 0-255}\n  - {name: d, mode: bulk, key: x, partitions: 0-255}\n"
        "  - {name: e, mode: bulk, key: x, partitions: 0}\n",
        "t.yaml:13:5: topics: more than 1024 partitions are listed");
}

Test(config, topics_take_from_defaults_what_they_do_not_say) {
    accept(HEAD KAFKA REDIS
           "crypto: {keys: /k}\n"
           "defaults: {format: json, mode: change, operation: {header: op}, old_key: '{old}', ttl: 1h, value: "
           "{compress: lz4, encrypt: true}}\n"
           "topics:\n"
           "  - {name: a, key: x}\n"
           "  - {name: b, key: x, mode: bulk, ttl: 0, value: {encrypt: false}}\n"
           "  - {name: c, key: x, operation: {field: f}, old_key: ''}\n");
    const struct config_topic *a = &c.topic[0], *b = &c.topic[1], *d = &c.topic[2];
    cr_assert(a->mode == MODE_CHANGE && a->format == FORMAT_JSON && a->ttl_ms == 3600000 && a->encrypt);
    cr_assert_str_eq(a->operation_header, "op");
    cr_assert_str_eq(a->old_key, "{old}");
    cr_assert(b->mode == MODE_BULK && b->ttl_ms == 0 && !b->encrypt && b->compress == COMPRESS_LZ4);
    cr_assert(b->old_key[0] == 0, "a bulk topic has no old key");
    cr_assert_str_eq(b->operation_header, "op");
    cr_assert(d->operation_header[0] == 0 && d->old_key[0] == 0, "its own field and its empty old key come first");
    cr_assert_str_eq(d->operation_field, "f");
}

Test(config, bulk_topic_may_have_an_operation_so_that_others_than_inserts_are_rejected) {
    accept(WITH_TOPIC("    mode: bulk\n    key: x\n    operation: {header: op}\n"));
    cr_assert_str_eq(c.topic[0].operation_header, "op");
}

Test(config, defaults_may_stand_behind_the_topics) {
    accept(HEAD KAFKA REDIS "topics: [{name: a, key: x}]\ndefaults: {mode: bulk}\n");
    cr_assert_eq(c.topic[0].mode, MODE_BULK);
}

/* -- files ------------------------------------------------------------------------------------- */

static char folder[64];

static void make_folder(void) {
    snprintf(folder, sizeof folder, "/tmp/millrace-config-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void) {
    static const char *const names[] = {"pw", "kpw",  "w.yaml", "millrace.yaml", "kafka-password", "redis-password",
                                        "ca", "cert", "key"};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static const char *file(const char *name, const char *content, mode_t mode) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fputs(content, f);
    fclose(f);
    chmod(path, mode);
    return path;
}

static void refuse_password(const char *name, const char *expected) {
    char text[1024], message[512];
    snprintf(text, sizeof text, WITH_REDIS("  password_file: %s/%s\n"), folder, name);
    snprintf(message, sizeof message, "t.yaml:8:18: redis.password_file: %s/%s: %s", folder, name, expected);
    refuse(text, message);
}

Test(config_file, secrets_are_the_first_line_of_their_file, .init = make_folder, .fini = remove_folder) {
    char text[1024];
    file("pw", "pass:with@signs/%\nsecond line\n", 0600);
    file("kpw", "kafka secret", 0640);
    snprintf(text, sizeof text,
             HEAD "kafka: {bootstrap.servers: a, sasl.password_file: %s/kpw}\nredis: {url: 'redis://h', password_file: "
                  "%s/pw}\n" TOPICS,
             folder, folder);
    accept(text);
    cr_assert_str_eq(c.redis.password, "pass:with@signs/%");
    cr_assert_str_eq(c.kafka.property[1].name, "sasl.password");
    cr_assert_str_eq(c.kafka.property[1].value, "kafka secret");
    cr_assert_eq(c.kafka.property[1].secret, 1);
}

Test(config_file, password_file_that_is_missing, .init = make_folder, .fini = remove_folder) {
    refuse_password("none", "No such file or directory");
}

Test(config_file, password_file_that_everybody_can_read, .init = make_folder, .fini = remove_folder) {
    file("pw", "canary\n", 0644);
    refuse_password("pw", "mode 0644 lets every user of the machine at it; chmod it to 0640 or less");
}

Test(config_file, password_file_that_is_empty, .init = make_folder, .fini = remove_folder) {
    file("pw", "", 0600);
    refuse_password("pw", "its first line is empty");
    file("pw", "\ncanary\n", 0600);
    refuse_password("pw", "its first line is empty");
}

Test(config_file, password_file_that_is_too_long, .init = make_folder, .fini = remove_folder) {
    char content[400];
    memset(content, 'x', sizeof content - 1);
    content[sizeof content - 1] = 0;
    file("pw", content, 0600);
    refuse_password("pw", "its first line is longer than 255 bytes");
}

Test(config_file, password_file_that_is_a_folder_or_a_pipe, .init = make_folder, .fini = remove_folder, .timeout = 5) {
    char path[128];
    snprintf(path, sizeof path, "%s/pw", folder);
    mkdir(path, 0700);
    refuse_password("pw", "not a regular file");
    rmdir(path);
    mkfifo(path, 0600);
    refuse_password("pw", "not a regular file");
}

/* Another folder or mode of one of the three files, and what is said about it. */
static void refuse_tls(const char *tls, const char *expected) {
    char text[1024];
    snprintf(text, sizeof text, HEAD KAFKA "redis:\n  url: rediss://h\n  tls:\n%s" TOPICS, tls);
    refuse(text, expected);
}

Test(config_file, tls_files_are_looked_at, .init = make_folder, .fini = remove_folder) {
    char text[1024], tls[512], message[512];
    file("ca", "x", 0644);
    file("cert", "x", 0644);
    file("key", "x", 0640);
    snprintf(tls, sizeof tls, "    ca_file: %s/ca\n    cert_file: %s/cert\n    key_file: %s/key\n", folder, folder,
             folder);
    snprintf(text, sizeof text, HEAD KAFKA "redis:\n  url: rediss://h\n  tls:\n%s    server_name: n\n" TOPICS, tls);
    accept(text);
    snprintf(message, sizeof message, "%s/key", folder);
    cr_assert_str_eq(c.redis.tls.key_file, message);
    cr_assert_str_eq(c.redis.tls.server_name, "n");

    file("key", "x", 0644);
    snprintf(message, sizeof message,
             "t.yaml:11:15: redis.tls.key_file: %s/key: mode 0644 lets every user of the machine at it; chmod it to "
             "0640 or less",
             folder);
    refuse_tls(tls, message);
    snprintf(tls, sizeof tls, "    cert_file: %s\n", folder);
    snprintf(message, sizeof message, "t.yaml:9:16: redis.tls.cert_file: %s: not a regular file", folder);
    refuse_tls(tls, message);
}

Test(config_file, certificate_and_key_belong_together, .init = make_folder, .fini = remove_folder) {
    char tls[512];
    file("key", "x", 0600);
    snprintf(tls, sizeof tls, "    key_file: %s/key\n", folder);
    refuse_tls(tls, "t.yaml:9:15: redis.tls: cert_file and key_file belong together; cert_file is missing");
    snprintf(tls, sizeof tls, "    cert_file: %s/key\n", folder);
    refuse_tls(tls, "t.yaml:9:16: redis.tls: cert_file and key_file belong together; key_file is missing");
}

Test(config_file, path_of_the_key_for_tls_is_for_the_sink_alone, .init = make_folder, .fini = remove_folder) {
    for (enum role role = 0; role < ROLE_COUNT; role++) {
        char text[1024];
        file("cert", "x", 0644);
        file("key", "x", 0600);
        snprintf(text, sizeof text,
                 HEAD KAFKA "redis:\n  url: rediss://h\n  tls: {cert_file: %s/cert, key_file: %s/key}\n" TOPICS, folder,
                 folder);
        accept(text);
        config_redact(&c, role);
        cr_assert_eq(c.redis.tls.key_file[0] != 0, role == ROLE_SINK, "%s", role_name(role));
        cr_assert_neq(c.redis.tls.cert_file[0], 0);
    }
}

Test(config_file, printed_section_within_a_section_reads_back, .init = make_folder, .fini = remove_folder) {
    static struct config before;
    char text[1024], *out = NULL;
    size_t len;
    file("ca", "x", 0644);
    snprintf(text, sizeof text,
             HEAD KAFKA "redis:\n  url: rediss://h\n  tls: {ca_file: %s/ca, server_name: n}\n" TOPICS, folder);
    accept(text);
    before = c;
    FILE *f = open_memstream(&out, &len);
    config_print(&c, f);
    fclose(f);
    cr_assert_not_null(strstr(out, "\n  tls:\n    ca_file: "), "%s", out);
    cr_assert_eq(config_load_text(out, len, "printed", &c, &err), 0, "%s\n%s", err.text, out);
    cr_assert_arr_eq(&c, &before, sizeof c, "%s", out);
    free(out);
}

Test(config_file, kafka_secret_file_that_is_missing_is_named, .init = make_folder, .fini = remove_folder) {
    refuse(WITH_KAFKA("  ssl.key.password_file: /nonexistent/pw\n"),
           "t.yaml:6:26: kafka.ssl.key.password_file: /nonexistent/pw: No such file or directory");
}

Test(config_file, file_that_is_missing_is_no_input) {
    cr_assert_eq(config_load("/nonexistent/x.yaml", &c, &err), -1);
    cr_assert_eq(err.code, EX_NOINPUT);
    cr_assert_str_eq(err.text, "/nonexistent/x.yaml: No such file or directory");
}

Test(config_file, file_that_is_a_folder_is_no_input) {
    cr_assert_eq(config_load("/tmp", &c, &err), -1);
    cr_assert_eq(err.code, EX_NOINPUT);
}

Test(config_file, file_beyond_a_megabyte_is_refused) {
    cr_assert_eq(config_load("/dev/zero", &c, &err), -1);
    cr_assert_eq(err.code, EX_CONFIG);
    cr_assert_str_eq(err.text, "/dev/zero: larger than 1048576 bytes");
}

Test(config_file, file_found_without_c_is_the_one_of_this_folder, .init = make_folder, .fini = remove_folder) {
    cr_assert_eq(chdir(folder), 0);
    cr_assert_null(access("/etc/millrace/millrace.yaml", F_OK) == 0 ? NULL : config_find());
    file("millrace.yaml", GOOD, 0600);
    cr_assert_str_eq(config_find(), "./millrace.yaml");
    cr_assert_eq(config_load(config_find(), &c, &err), 0);
}

Test(config_file, examples_are_accepted, .init = make_folder, .fini = remove_folder) {
    static const char *const examples[] = {"plain", "cards", "production"};
    file("kafka-password", "canary-kafka\n", 0400);
    file("redis-password", "canary-redis\n", 0400);
    setenv("CREDENTIALS_DIRECTORY", folder, 1);
    for (size_t i = 0; i < sizeof examples / sizeof examples[0]; i++) {
        char path[128];
        snprintf(path, sizeof path, "deploy/examples/%s.yaml", examples[i]);
        cr_assert_eq(config_load(path, &c, &err), 0, "%s", err.text);
    }
    cr_assert_str_eq(c.redis.password, "canary-redis");
}

/* -- warnings ---------------------------------------------------------------------------------- */

static const char *warnings_of(const char *content) {
    static char text[4096];
    FILE *out = fmemopen(text, sizeof text, "w");
    const char *path = file("w.yaml", content, 0600);
    memset(text, 0, sizeof text);
    cr_assert_eq(config_load_warned(path, &c, out, &err), 0, "%s", err.text);
    fclose(out);
    return text;
}

Test(config_file, good_file_has_no_warnings, .init = make_folder, .fini = remove_folder) {
    cr_assert_str_empty(warnings_of(GOOD));
}

Test(config_file, secrets_in_the_file_are_warned_about_without_showing_them, .init = make_folder,
     .fini = remove_folder) {
    const char *text = warnings_of(HEAD "kafka: {bootstrap.servers: a, sasl.password: canary}\n"
                                        "redis: {url: 'redis://:canary@h'}\n" TOPICS);
    cr_assert_not_null(strstr(text, "w.yaml:4:46: warning: kafka.sasl.password stands in the file or the environment; "
                                    "sasl.password_file is safer\n"),
                       "%s", text);
    cr_assert_not_null(strstr(text,
                              "w.yaml:5:14: warning: the password of Redis stands in the file or the environment; "
                              "redis.password_file is safer\n"),
                       "%s", text);
    cr_assert_null(strstr(text, "canary"));
}

Test(config_file, weakened_checks_are_warned_about, .init = make_folder, .fini = remove_folder) {
    const char *text =
        warnings_of(HEAD "kafka: {bootstrap.servers: a, enable.ssl.certificate.verification: False}\n" REDIS TOPICS);
    cr_assert_not_null(
        strstr(text, "w.yaml:4:68: warning: kafka.enable.ssl.certificate.verification False: anybody between here "
                     "and the brokers can read and change records\n"),
        "%s", text);
}

Test(config_file, files_of_kafka_that_ingest_could_not_use_are_warned_about, .init = make_folder,
     .fini = remove_folder) {
    char text[1024], expected[512];
    file("key", "x", 0644);
    snprintf(text, sizeof text,
             HEAD "kafka:\n  bootstrap.servers: a\n  ssl.certificate.location: /nonexistent/c\n  ssl.key.location: "
                  "%s/key\n" REDIS TOPICS,
             folder);
    const char *said = warnings_of(text);
    cr_assert_not_null(strstr(said,
                              "w.yaml:6:29: warning: kafka.ssl.certificate.location: /nonexistent/c: No such file "
                              "or directory\n"),
                       "%s", said);
    snprintf(expected, sizeof expected,
             "w.yaml:7:21: warning: kafka.ssl.key.location: %s/key: mode 0644 lets every user of the machine at it",
             folder);
    cr_assert_not_null(strstr(said, expected), "%s", said);
    file("key", "x", 0600);
    cr_assert_null(strstr(warnings_of(text), "ssl.key.location"));
}

Test(config_file, lanes_without_partitions_are_warned_about, .init = make_folder, .fini = remove_folder) {
    const char *text = warnings_of(HEAD "lanes: 4\n" KAFKA REDIS TOPICS "    partitions: [0, 4, 1]\n");
    cr_assert_not_null(strstr(text, "w.yaml:4:8: warning: lanes: of 4 only 2 have a partition in the lists\n"), "%s",
                       text);
}

/* -- roles and printing ------------------------------------------------------------------------ */

#define SECRETS                                                                                                        \
    HEAD "kafka: {bootstrap.servers: a, sasl.password: k-canary}\nredis: {url: 'redis://u:r-canary@h'}\n"              \
         "crypto: {keys: /key-canary}\nrecon: {keys: /audit-canary, webhook: 'http://h/url-canary'}\n" TOPICS

static int knows(enum role role, const char *secret) {
    accept(SECRETS);
    config_redact(&c, role);
    return memmem(&c, sizeof c, secret, strlen(secret)) != NULL;
}

Test(config, role_knows_only_its_own_secrets) {
    for (enum role role = 0; role < ROLE_COUNT; role++) {
        cr_assert_eq(knows(role, "r-canary"), role == ROLE_SINK, "%s", role_name(role));
        cr_assert_eq(knows(role, "k-canary"), role == ROLE_INGEST || role == ROLE_RECON, "%s", role_name(role));
        cr_assert_eq(knows(role, "key-canary"), role == ROLE_TRANSFORM, "%s", role_name(role));
        bool audits = role == ROLE_TRANSFORM || role == ROLE_AUDIT || role == ROLE_RECON;
        cr_assert_eq(knows(role, "audit-canary"), audits, "%s", role_name(role));
        cr_assert_eq(knows(role, "url-canary"), role == ROLE_RECON, "%s", role_name(role));
    }
}

static char *printed(void) {
    static char *text;
    size_t len;
    free(text);
    FILE *out = open_memstream(&text, &len);
    config_print(&c, out);
    fclose(out);
    return text;
}

Test(config, printed_configuration_shows_no_secret) {
    accept(SECRETS);
    char *text = printed();
    cr_assert_null(strstr(text, "r-canary"));
    cr_assert_null(strstr(text, "k-canary"));
    cr_assert_not_null(strstr(text, "\n  password: \"***\"\n"), "%s", text);
    cr_assert_not_null(strstr(text, "\n  sasl.password: \"***\"\n"), "%s", text);
    cr_assert_not_null(strstr(text, "\n  url: \"redis://h:6379/0\"\n"), "%s", text);
}

Test(config, printed_configuration_reads_back_as_the_same) {
    static struct config before;
    accept(
        HEAD
        "run_dir: \"/a $${x} \\\"quoted\\\" \\\\ \\t\"\nlanes: 3\nrestart: {window: 90s}\n"
        "cpus: {ingest: '0-1,1023', transform: [4, 5, '6,8'], sink: 2}\nmemory: {huge_pages: try, lock: true}\n"
        "kafka: {bootstrap.servers: 'a:1,b:2', fetch.min.bytes: 7, group.id: 'g g'}\nredis: {url: 'unix:///x y?db=3'}\n"
        "crypto: {keys: '~'}\n" TOPICS
        "    old_key: \"{{{a}}}{$key}\"\n    operation: {header: \"h\xc3\xa9\"}\n    value: {encrypt: true}\n    "
        "ttl: 36500d\n"
        "    partitions: 0-3\n");
    before = c;
    char *text = printed();
    cr_assert_eq(config_load_text(text, strlen(text), "printed", &c, &err), 0, "%s\n%s", err.text, text);
    cr_assert_arr_eq(&c, &before, sizeof c, "%s", text);
}

Test(config, printed_configuration_marks_what_is_default) {
    accept(HEAD "lanes: 3\n" KAFKA REDIS TOPICS);
    char *text = printed();
    cr_assert_not_null(strstr(text, "\nlanes: 3\n"), "%s", text);
    cr_assert_not_null(strstr(text, "\nring_bytes: 16MiB                           # default\n"), "%s", text);
    cr_assert_not_null(strstr(text, "\n  group.id: \"millrace-cards\"                # default\n"), "%s", text);
}

Test(config, topic_is_found_by_its_name) {
    accept(GOOD "  - {name: t2, mode: bulk, key: x}\n");
    cr_assert_eq(config_topic_index(&c, "t2"), 1);
    cr_assert_eq(config_topic_index(&c, "t3"), -1);
}

Test(config, reference_names_every_section_and_property) {
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    config_reference(out);
    fclose(out);
    static const char *const wanted[] = {"| `redis.batch` | 1 to 4096 records | `100` |",
                                         "| `name` | a name | required |",
                                         "| `fetch.min.bytes` | 1 to 100000000 |",
                                         "| `plugin.library.paths` | it loads code",
                                         "## crypto",
                                         "| `value.compress` | none or lz4 | `none` |"};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        cr_assert(strstr(text, wanted[i]) != NULL, "%s", wanted[i]);
    cr_assert_null(strstr(text, "schema_registry"), "what is not available is not documented");
    free(text);
}
