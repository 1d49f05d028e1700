/* The part of the configuration that every process needs; reading it is config_parse.c, which links libyaml. */
#include "base/config.h"

#include <string.h>
#include <unistd.h>

const char *role_name(enum role role) {
    static const char *const names[] = {"supervisor", "ingest", "transform", "sink", "audit", "recon"};
    static_assert(sizeof names / sizeof names[0] == ROLE_COUNT, "a name per role");
    return (unsigned)role < ROLE_COUNT ? names[role] : "unknown";
}

const char *config_find(void) {
    static const char *const places[] = {"./millrace.yaml", "/etc/millrace/millrace.yaml"};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        if (access(places[i], F_OK) == 0) return places[i];
    return NULL;
}

const struct cpus *config_cpus_of(const struct config *c, enum role role, uint32_t lane) {
    const struct config_cpus *p = role == ROLE_INGEST      ? &c->cpus.ingest
                                  : role == ROLE_TRANSFORM ? &c->cpus.transform
                                  : role == ROLE_SINK      ? &c->cpus.sink
                                                           : NULL;
    if (p == NULL || p->count == 0) return NULL;
    return &p->set[p->count == 1 ? 0 : lane];
}

void config_redact(struct config *c, enum role role) {
    if (role != ROLE_SINK) explicit_bzero(c->redis.password, sizeof c->redis.password);
    if (role != ROLE_SINK) explicit_bzero(c->redis.tls.key_file, sizeof c->redis.tls.key_file);
    if (role != ROLE_TRANSFORM) explicit_bzero(c->crypto.keys, sizeof c->crypto.keys);
    if (role != ROLE_TRANSFORM && role != ROLE_AUDIT && role != ROLE_RECON)
        explicit_bzero(c->recon.keys, sizeof c->recon.keys);
    if (role != ROLE_RECON) explicit_bzero(c->recon.webhook, sizeof c->recon.webhook);
    if (role == ROLE_INGEST || role == ROLE_RECON) return;
    for (uint32_t i = 0; i < c->kafka.property_count; i++)
        if (c->kafka.property[i].secret) explicit_bzero(c->kafka.property[i].value, sizeof c->kafka.property[i].value);
}

int config_topic_index(const struct config *c, const char *name) {
    for (uint32_t i = 0; i < c->topic_count; i++)
        if (strcmp(c->topic[i].name, name) == 0) return (int)i;
    return -1;
}
