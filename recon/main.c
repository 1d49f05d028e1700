/* millrace-recon: reconciles the audit log with what was published. Beside the chain, never in its way. */
#include "base/log.h"
#include "recon/recon.h"

static struct worker worker;

int main(int argc, char **argv) {
    struct err err = {0};
    worker_init(&worker, ROLE_RECON, argc, argv);
    struct recon *recon = recon_open(&worker, NULL, &err);
    if (recon == NULL) {
        worker_fail(&worker, "recon.cannot_start", "%s", err.text);
        return EXIT_DONT_RESTART;
    }
    worker_ready(&worker);
    const struct worker_body body = {
        .self = recon, .step = recon_step, .arm = recon_arm, .disarm = recon_disarm, .wants = recon_wants};
    int status = worker_run(&worker, &body);
    recon_close(recon);
    return status;
}
