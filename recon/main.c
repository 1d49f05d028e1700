/* millrace-recon: reconciles the audit log with what was published. Beside the chain, never in its way. */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sysexits.h>

#include "audit/index.h"
#include "base/audit_keys.h"
#include "base/fault.h"
#include "base/log.h"
#include "recon/account_kafka.h"
#include "recon/evidence.h"
#include "recon/recon.h"
#include "recon/vigil.h"

enum { NICE = 19 }; /* what is in the chain comes first: recon may fall behind, and says how far it is */

static struct worker worker;

/* What may pass (no memory, a predecessor that is still there) is tried again by the supervisor. */
static _Noreturn void refuse(const struct err *err) {
    worker_fail(&worker, "recon.cannot_start", "%s", err->text);
    exit(err_exit(err, EXIT_DONT_RESTART));
}

/* Keeps watch until the store can be opened after all. */
static struct recon *store_await(const struct evidence_port *evidence, const struct err *why) {
    static struct vigil vigil;
    struct err err = {0};
    if (why->code != EX_IOERR) refuse(why);
    if (vigil_open(&vigil, &worker, evidence, why, &err) != 0) refuse(&err);
    worker_ready(&worker);
    const struct worker_body body = {
        .self = &vigil, .step = vigil_step, .arm = recon_arm, .disarm = recon_disarm, .wants = vigil_wants};
    int status = worker_run(&worker, &body);
    vigil_close(&vigil);
    if (vigil.recon == NULL && worker_mode(&worker) == CONTROL_RUN) refuse(&vigil.err);
    if (vigil.recon == NULL) exit(status);
    log_info("recon.store_open", "what it keeps can be opened");
    return vigil.recon;
}

/* Loads the key for digests, starts the thread that asks Kafka, and forgets the key. */
static void evidence_start(struct recon *recon, struct evidence_port *port) {
    static struct evidence_from from[PARTITIONS_MAX];
    static struct audit_keys keys;
    struct err err = {0};
    if (audit_keys_load(worker.config->recon.keys, AUDIT_KEY_DIGEST, &keys, &err) != 0) refuse(&err);
    if (index_key_load(worker.config->recon.keys, &err) != 0) refuse(&err);
    size_t n = recon_manifests(recon, from, PARTITIONS_MAX);
    int status = evidence_open(port, worker.config, keys.digest, from, n, &err);
    explicit_bzero(&keys, sizeof keys);
    if (status != 0) refuse(&err);
}

/* Lets it talk with the group's other instances, where there is a topic for that. */
static void share(struct recon *recon) {
    static struct account_port port;
    static struct audit_keys keys;
    struct err err = {0};
    if (worker.config->recon.anchor_topic[0] == '\0') return;
    if (audit_keys_load(worker.config->recon.keys, AUDIT_KEY_ACCOUNT, &keys, &err) != 0) refuse(&err);
    int status = account_kafka_open(&port, worker.config, &err);
    if (status == 0) status = recon_share(recon, &port, keys.account, &err);
    explicit_bzero(&keys, sizeof keys);
    if (status != 0) refuse(&err);
}

int main(int argc, char **argv) {
    static struct evidence_port evidence;
    struct err err = {0};
    worker_init(&worker, ROLE_RECON, argc, argv);
    FAULT("recon:start");
    worker_hide();
    setpriority(PRIO_PROCESS, 0, NICE);
    struct recon *recon = recon_open(&worker, &evidence, &err);
    bool ready = recon == NULL;
    if (recon == NULL) recon = store_await(&evidence, &err);
    evidence_start(recon, &evidence);
    share(recon);
    FAULT("recon:ready");
    if (!ready) worker_ready(&worker);
    const struct worker_body body = {
        .self = recon, .step = recon_step, .arm = recon_arm, .disarm = recon_disarm, .wants = recon_wants};
    int status = worker_run(&worker, &body);
    recon_close(recon);
    _Exit(status); /* the Kafka thread ends with the process */
}
