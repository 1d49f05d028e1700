/* The configuration: read once by the supervisor (or a command), handed to workers as a sealed copy.
 *
 * `struct config` has no pointers, so a worker's copy is the same bytes mapped read-only; what a role may not know
 * (config_redact) is blanked before it gets its copy. config.def is the one table of keys: the parser, `millrace check`
 * and docs/configuration.md come from it. */
#ifndef MILLRACE_BASE_CONFIG_H
#define MILLRACE_BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/cpus.h"
#include "base/err.h"
#include "base/limits.h"

/* Transform and sink are in every lane; audit and recon are there with `audit: on`. */
enum role { ROLE_SUPERVISOR, ROLE_INGEST, ROLE_TRANSFORM, ROLE_SINK, ROLE_AUDIT, ROLE_RECON, ROLE_COUNT };
static inline bool role_in_lanes(enum role role) { return role == ROLE_TRANSFORM || role == ROLE_SINK; }

enum config_start { START_ERROR, START_EARLIEST, START_LATEST };
enum config_log_format { LOG_TEXT, LOG_JSON };
enum config_topic_mode { MODE_BULK, MODE_CHANGE };
enum config_topic_format { FORMAT_RAW, FORMAT_JSON };
enum config_value_type { VALUE_TYPE_STRING, VALUE_TYPE_HASH };
enum config_compress { COMPRESS_NONE, COMPRESS_LZ4 };
enum config_marks_missing { MARKS_MISSING_BLOCK, MARKS_MISSING_TRUST_KAFKA, MARKS_MISSING_REBUILD };
enum config_huge_pages { HUGE_PAGES_OFF, HUGE_PAGES_TRY, HUGE_PAGES_REQUIRE };
enum config_reconcile { RECONCILE_OFF, RECONCILE_COUNTS, RECONCILE_CHECKSUM, RECONCILE_DIGEST, RECONCILE_FULL };
enum config_evidence { EVIDENCE_MANIFEST, EVIDENCE_SCAN, EVIDENCE_OFFSETS };
enum config_redis_scheme { REDIS_TCP, REDIS_UNIX, REDIS_TLS };

struct config_property { /* one librdkafka property, already resolved (secrets too) */
    char name[NAME_BYTES];
    char value[VALUE_BYTES];
    uint8_t secret; /* 1: shown as "***" and never logged */
};

struct config_cpus {
    uint32_t count; /* 0: not pinned; 1: set[0] for all lanes; else the number of lanes, a set for each */
    uint32_t reserved;
    struct cpus set[LANES_MAX];
};

struct config_topic {
    char name[TOPIC_BYTES];
    char key[TEMPLATE_BYTES];               /* template of the Redis key; required */
    char old_key[TEMPLATE_BYTES];           /* template of the key an update replaces; "" the key never changes */
    char operation_header[NAME_BYTES];      /* header that carries the operation; "" none */
    char operation_field[NAME_BYTES];       /* top-level JSON field that carries it; "" none */
    uint32_t mode;                          /* enum config_topic_mode */
    uint32_t format;                        /* enum config_topic_format */
    uint32_t value_type;                    /* enum config_value_type; a hash needs format json */
    uint32_t compress;                      /* enum config_compress; none for a hash, which is not encrypted either */
    uint8_t encrypt;                        /* 1: XAES-256-GCM with the current key of crypto.keys */
    uint32_t reconcile;                     /* enum config_reconcile; of no effect with audit off */
    uint32_t evidence;                      /* enum config_evidence */
    uint64_t ttl_ms;                        /* time to live counted from the Kafka timestamp; 0 none */
    uint32_t partition_count;               /* of the fixed list; 0: the consumer group divides them */
    int32_t partitions[PARTITIONS_MAX / 4]; /* [0, 2^31) ascending, no repeats */
};

struct config {
    uint64_t abi;              /* CONFIG_ABI: a worker refuses a copy made by another build */
    char name[NAME_BYTES];     /* [a-z0-9][a-z0-9._-]* */
    char instance[NAME_BYTES]; /* default: the host name */
    char run_dir[PATH_BYTES];
    char data_dir[PATH_BYTES];
    uint32_t lanes;
    uint32_t start;      /* enum config_start */
    uint32_t audit;      /* 1: an audit stage follows the sink */
    uint64_t ring_bytes; /* of each of a lane's rings; a power of two */
    uint8_t ring_dump;   /* 1: rings that fail their checks are kept in data_dir/rings */
    uint32_t spin_us;
    uint32_t drain_timeout_ms;
    uint32_t heartbeat_timeout_ms;
    struct {
        struct config_cpus ingest, transform, sink; /* ingest: count is at most 1 */
    } cpus;
    struct {
        uint32_t huge_pages; /* enum config_huge_pages: for the rings' data */
        uint8_t prefault;    /* 1: the rings' memory is allocated when they are made */
        uint8_t lock;        /* 1: workers lock their memory */
    } memory;
    struct {
        uint32_t limit; /* deaths without progress within window_ms after which the instance fails */
        uint32_t window_ms;
        uint32_t backoff_ms_max;
    } restart;
    struct {
        uint32_t attempts; /* deaths on one record before it is rejected */
        uint32_t limit;    /* records rejected as `crash` per 1,000 before the lane fails */
    } poison;
    struct {
        uint64_t max_bytes;
    } rejects;
    struct {
        uint32_t level;  /* enum log_level, base/log.h */
        uint32_t format; /* enum config_log_format */
    } log;
    struct {
        char textfile[PATH_BYTES]; /* Prometheus text file rewritten every interval_ms; "" none */
        uint32_t interval_ms;
    } metrics;
    struct {
        char group_id[TOPIC_BYTES];  /* the property group.id, default millrace-<name> */
        uint32_t session_timeout_ms; /* the property session.timeout.ms, default 10000 */
        uint32_t property_count;
        struct config_property property[KAFKA_PROPERTIES_MAX]; /* in the file's order, without the two above */
    } kafka;
    struct {
        uint32_t scheme; /* enum config_redis_scheme */
        char host[TOPIC_BYTES];
        char path[108]; /* unix socket */
        uint32_t port;
        uint32_t db;
        char user[NAME_BYTES]; /* "": none */
        char password[SECRET_BYTES];
        uint32_t batch;
        uint32_t in_flight; /* records sent and not answered, per lane */
        uint32_t linger_ms;
        uint32_t connect_timeout_ms;
        uint32_t response_timeout_ms;
        uint32_t when_marks_missing; /* enum config_marks_missing */
        uint8_t allow_eviction;
        uint8_t unsafe_reconnect;
        struct {                           /* of REDIS_TLS; all "" otherwise */
            char ca_file[PATH_BYTES];      /* "": the system's store */
            char cert_file[PATH_BYTES];    /* of the client; "" none */
            char key_file[PATH_BYTES];     /* of the client; "" none */
            char server_name[TOPIC_BYTES]; /* what the server's certificate has to be for; "": host */
        } tls;
    } redis;
    struct {
        char keys[PATH_BYTES]; /* key file; "" none */
    } crypto;
    struct {
        char keys[PATH_BYTES]; /* audit key file; "" none, only with audit off */
        uint32_t commit_interval_ms, commit_records;
        uint64_t segment_bytes, retention_bytes, retention_ms;
        uint32_t window_ms, late_after_ms, delayed_after_ms;
        char manifest_topic[TOPIC_BYTES]; /* "" none */
        char anchor_topic[TOPIC_BYTES];   /* "" none */
        char webhook[PATH_BYTES];         /* "" none */
        char webhook_ca_file[PATH_BYTES]; /* "": the system's store */
        char command[PATH_BYTES];         /* "" none */
    } recon;
    uint32_t topic_count;
    struct config_topic topic[TOPICS_MAX];
};

#define CONFIG_ABI ((uint64_t)1 << 32 | sizeof(struct config))

/* config_load reads and validates the YAML file at path into *out.
 * Anyone may call; not reentrant with changes of the environment. Reads password files and ${NAME} of the environment.
 * Returns 0, or -1 with err.code EX_NOINPUT (file missing or unreadable) or EX_CONFIG, and a text of the form
 * "FILE:LINE:COLUMN: message"; out is then unspecified. Several mistakes: the first in file order. */
int config_load(const char *path, struct config *out, struct err *err);

/* config_load_text is config_load on text in memory; name stands for the file in messages. For tests. */
int config_load_text(const char *text, size_t len, const char *name, struct config *out, struct err *err);

/* config_load_warned is config_load that also writes a line per doubtful setting (a password in the file, a check of
 * certificates switched off, lanes without partitions) to warnings. */
int config_load_warned(const char *path, struct config *out, FILE *warnings, struct err *err);

/* config_find returns the file to use when -c was not given: ./millrace.yaml, else /etc/millrace/millrace.yaml,
 * whichever exists first; NULL when neither does. Static storage. */
const char *config_find(void);

/* config_redact blanks in *c what role must not hold: Redis's password and the path of the key for TLS for all but the
 * sink, Kafka's secret properties for all but ingest and recon, the path of the key file for all but transform, that of
 * the audit key for all but transform, audit and recon, the webhook, whose URL may hold a token, for all but recon. */
void config_redact(struct config *c, enum role role);

/* config_print writes the effective configuration as YAML with comments for defaults, secrets shown as "***". */
void config_print(const struct config *c, FILE *out);

/* config_reference writes docs/configuration.md. */
void config_reference(FILE *out);

/* config_topic_index returns the index of the topic called name, or -1. */
int config_topic_index(const struct config *c, const char *name);

/* config_cpus_of returns the processors a worker is to run on, or NULL when the configuration does not say. */
const struct cpus *config_cpus_of(const struct config *c, enum role role, uint32_t lane);

const char *role_name(enum role role); /* "supervisor" "ingest" "transform" "sink" "audit" "recon" */

#endif
