/* millrace check: is this configuration right, what does it amount to, what would run. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "base/audit_keys.h"
#include "base/keys.h"
#include "base/redis_url.h"
#include "shm/stats.h"
#include "sink/stream_tls.h"
#include "tools/command.h"

static const char help[] =
    "usage: millrace check [-c FILE | -c -] [-q | --reference]\n"
    "\n"
    "Validates FILE (default ./millrace.yaml, then /etc/millrace/millrace.yaml; - is standard input), prints the\n"
    "effective configuration with all defaults, secrets as ***, and what `millrace run` would start. Nothing is\n"
    "connected to. Doubtful settings are warned about on standard error.\n"
    "\n"
    "  -q, --quiet   print mistakes and warnings only\n"
    "  --reference   print the documentation of every key instead (docs/configuration.md)\n"
    "\n"
    "exit status: 0 valid; 78 refused, with FILE:LINE:COLUMN and the reason; 66 FILE cannot be read.\n";

static void size_put(uint64_t bytes, FILE *out) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB"};
    size_t u = 0;
    for (; u < 3 && bytes % 1024 == 0; u++) bytes /= 1024;
    fprintf(out, "%llu %s", (unsigned long long)bytes, units[u]);
}

/* What will be claimed of a topic, and by what right. */
static void reconcile_put(const struct config_topic *t, FILE *out) {
    static const char *const kept[] = {[RECONCILE_OFF] = "off: not in the audit log, nothing is claimed of it",
                                       [RECONCILE_COUNTS] = "counts: values are not compared",
                                       [RECONCILE_CHECKSUM] = "checksum: accidents are seen, forgery is not",
                                       [RECONCILE_DIGEST] = "digest",
                                       [RECONCILE_FULL] = "full: with the sealed record"};
    static const char *const by[] = {[EVIDENCE_MANIFEST] = "manifest: the producers say what they published",
                                     [EVIDENCE_SCAN] = "scan: the topic is read a second time",
                                     [EVIDENCE_OFFSETS] = "offsets: its windows never read `matched`"};
    fprintf(out, "#              reconcile %s", kept[t->reconcile]);
    if (t->reconcile != RECONCILE_OFF) fprintf(out, "; evidence %s", by[t->evidence]);
    fputc('\n', out);
}

static void audit_put(const struct config *c, FILE *out) {
    fprintf(out, "#   audit      log in %s/audit, at most ", c->data_dir);
    size_put(c->recon.retention_bytes, out);
    fprintf(out, "; windows and live keys in %s/recon\n", c->data_dir);
    fprintf(out, "#   evidence   manifests %s, anchors and accounts %s\n",
            c->recon.manifest_topic[0] != '\0' ? c->recon.manifest_topic : "from nowhere",
            c->recon.anchor_topic[0] != '\0' ? c->recon.anchor_topic : "stay here (no recon.anchor_topic)");
}

static void topics_put(const struct config *c, FILE *out) {
    for (uint32_t i = 0; i < c->topic_count; i++) {
        const struct config_topic *t = &c->topic[i];
        fprintf(out, "#   topic      %s: %s, %s", t->name,
                t->mode == MODE_BULK ? "inserts" : "inserts, updates and deletes",
                t->format == FORMAT_JSON ? "json" : "raw");
        if (t->compress == COMPRESS_LZ4) fputs(", compressed", out);
        if (t->encrypt) fputs(", encrypted", out);
        if (t->ttl_ms != 0) fputs(", expiring", out);
        if (t->partition_count != 0)
            fprintf(out, ", %u fixed partition%s", t->partition_count, t->partition_count == 1 ? "" : "s");
        fputc('\n', out);
        if (c->audit) reconcile_put(t, out);
    }
}

static void plan_put(const struct config *c, FILE *out) {
    char url[VALUE_BYTES], lanes[32] = "[0]";
    if (c->lanes > 1) snprintf(lanes, sizeof lanes, "[0-%u]", c->lanes - 1);
    redis_url_format(c, url, sizeof url);
    fprintf(out, "\n# `millrace run` would start %s/%s:\n", c->name, c->instance);
    fprintf(out, "#   processes  %u: supervisor, ingest, transform%s, sink%s%s\n",
            stats_block_count(c->lanes, c->audit), lanes, lanes, c->audit ? ", audit, recon" : "");
    fprintf(out, "#   lanes      %u%s\n", c->lanes,
            c->lanes > 1 ? "; a partition belongs to the lane of its number modulo lanes" : "");
    fputs("#   memory     ", out);
    size_put((c->audit ? 4 : 3) * c->lanes * c->ring_bytes, out);
    fprintf(out, " of rings, and what librdkafka queues\n");
    if (c->topic[0].partition_count != 0)
        fprintf(out, "#   kafka      fixed partitions, commits under group %s\n", c->kafka.group_id);
    else
        fprintf(out, "#   kafka      group %s, static member %s-%s\n", c->kafka.group_id, c->name, c->instance);
    fprintf(out, "#   redis      %s, %u connection%s\n", url, c->lanes, c->lanes == 1 ? "" : "s");
    if (c->audit) audit_put(c, out);
    topics_put(c, out);
}

/* The key file is read by transform, perhaps as another user and on another machine: what is wrong with it is said here
 * and decided there. */
static void keys_warn(const struct config *c, FILE *out) {
    struct err err = {0};
    if (c->crypto.keys[0] == 0) return;
    struct keys *keys = keys_load(c->crypto.keys, &err);
    if (keys == NULL) fprintf(out, "warning: crypto.keys: %s\n", err.text);
    keys_free(keys);
}

static void audit_keys_warn(const struct config *c, FILE *out) {
    struct audit_keys keys; /* none is asked for */
    struct err err = {0};
    if (c->audit && audit_keys_load(c->recon.keys, 0, &keys, &err) != 0)
        fprintf(out, "warning: recon.keys: %s\n", err.text);
}

/* The same with the files for TLS, which the sink reads. */
static void tls_warn(const struct config *c, FILE *out) {
    struct err err = {0};
    if (c->redis.scheme != REDIS_TLS || stream_tls_check(c, &err) == 0) return;
    fprintf(out, "warning: %s\n", err.text);
}

static int check(const char *file, bool quiet) {
    static struct config config; /* too large for a stack */
    struct err err = {0};
    if (file == NULL) file = config_find();
    if (file == NULL)
        return command_config(NULL, &err.code) == NULL ? err.code : EX_SOFTWARE; /* says what is missing */
    if (strcmp(file, "-") == 0) file = "/dev/stdin";
    if (config_load_warned(file, &config, stderr, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        return err.code;
    }
    keys_warn(&config, stderr);
    audit_keys_warn(&config, stderr);
    tls_warn(&config, stderr);
    if (quiet) return EX_OK;
    printf("# %s is valid. The effective configuration:\n", file);
    config_print(&config, stdout);
    plan_put(&config, stdout);
    return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
}

int command_check(int argc, char **argv) {
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"quiet", no_argument, NULL, 'q'},
                                            {"reference", no_argument, NULL, 'r'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    const char *file = NULL;
    bool quiet = false;
    int o;
    opterr = 0;
    while ((o = getopt_long(argc, argv, "c:hq", options, NULL)) != -1) {
        switch (o) {
        case 'c': file = optarg; break;
        case 'q': quiet = true; break;
        case 'h': return fputs(help, stdout) < 0 ? EX_IOERR : EX_OK;
        case 'r': config_reference(stdout); return fflush(stdout) == 0 ? EX_OK : EX_IOERR;
        default: return command_misuse(argv[0], "unknown option or missing argument: %s", argv[optind - 1]);
        }
    }
    if (optind < argc) return command_misuse(argv[0], "unexpected argument %s", argv[optind]);
    return check(file, quiet);
}
