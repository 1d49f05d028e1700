#include "supervisor/reload.h"

#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>

static void mix(uint64_t *h, const void *bytes, size_t len) {
    const uint8_t *p = bytes;
    for (size_t i = 0; i < len; i++) *h = (*h ^ p[i]) * 0x100000001b3ULL; /* FNV-1a */
}

static void mix_file(uint64_t *h, const char *path) {
    struct stat st = {0};
    if (path[0] == 0) return;
    if (stat(path, &st) != 0) memset(&st, 0, sizeof st); /* a missing file is a state as well */
    mix(h, &st.st_dev, sizeof st.st_dev);
    mix(h, &st.st_ino, sizeof st.st_ino);
    mix(h, &st.st_size, sizeof st.st_size);
    mix(h, &st.st_mtim, sizeof st.st_mtim);
    mix(h, &st.st_ctim, sizeof st.st_ctim);
}

uint64_t reload_files(const struct config *c) {
    uint64_t h = 0xcbf29ce484222325ULL;
    mix_file(&h, c->crypto.keys);
    mix_file(&h, c->recon.keys);
    mix_file(&h, c->redis.tls.ca_file);
    mix_file(&h, c->redis.tls.cert_file);
    mix_file(&h, c->redis.tls.key_file);
    for (uint32_t i = 0; i < c->kafka.property_count; i++)
        if (c->kafka.property[i].value[0] == '/') mix_file(&h, c->kafka.property[i].value);
    return h;
}

/* What names the instance and its place stays: another value would be another instance. */
static int identity_check(const char *file, const struct config *now, const struct config *next, struct err *err) {
    const struct {
        const char *key, *now, *next;
    } fixed[] = {
        {"name", now->name, next->name},
        {"instance", now->instance, next->instance},
        {"run_dir", now->run_dir, next->run_dir},
        {"data_dir", now->data_dir, next->data_dir},
        {"kafka.group.id", now->kafka.group_id, next->kafka.group_id},
    };
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
        if (strcmp(fixed[i].now, fixed[i].next) != 0)
            return err_set(err, EX_CONFIG,
                           "%s: `%s` cannot change while running (%.100s, now %.100s): restart the instance", file,
                           fixed[i].key, fixed[i].now, fixed[i].next);
    return 0;
}

enum reload_verdict reload_look(const char *file, const struct config *now, uint64_t files, struct config *next,
                                struct err *err) {
    if (config_load(file, next, err) != 0 || identity_check(file, now, next, err) != 0) return RELOAD_REFUSED;
    return memcmp(now, next, sizeof *now) == 0 && files == reload_files(next) ? RELOAD_UNCHANGED : RELOAD_GO;
}
