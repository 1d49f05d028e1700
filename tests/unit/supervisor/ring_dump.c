/* Rings kept before they are made anew: those of one lane or of all, for their owner, and never too many. */
#include "supervisor/ring_dump.h"

#include <ftw.h>

#include "shm/ring_file.h"
#include "tests/unit/supervisor/help.h"

static struct plumbing p;
static struct config config;
static char folder[64], rings[80];

static void begin(void) {
    struct err err = {0};
    folder_make(folder);
    config_small(&config, folder);
    config.lanes = 2;
    snprintf(rings, sizeof rings, "%s/rings", folder);
    log_init("node", "supervisor", -1, 0, LOG_ERROR);
    cr_assert_eq(plumbing_create(&p, &config, &err), 0, "%s", err.text);
}

static int one_remove(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void end(void) { nftw(folder, one_remove, 16, FTW_DEPTH | FTW_PHYS); }

TestSuite(ring_dump, .init = begin, .fini = end, .timeout = 60);

/* How many entries a folder has; the name of one of them in last. */
static int entries(const char *path, char last[256]) {
    int n = 0;
    DIR *d = opendir(path);
    if (d == NULL) return 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.') continue;
        snprintf(last, 256, "%s", e->d_name);
        n++;
    }
    closedir(d);
    return n;
}

Test(ring_dump, keeps_what_was_in_the_rings_of_the_lane) {
    struct ring_producer producer;
    struct err err = {0};
    char name[256], path[400];
    cr_assert_eq(ring_producer_attach(&producer, &p.lane[1].to_sink.rw, -1, &err), RING_ATTACHED);
    memcpy(ring_reserve(&producer, 16), "sixteen bytes ok", 16);
    ring_stage(&producer, 16, RECORD_DATA);
    ring_publish(&producer);
    ring_producer_detach(&producer);
    ring_dump(&p, 1);
    cr_assert_eq(entries(rings, name), 1);
    snprintf(path, sizeof path, "%s/%s", rings, name);
    cr_assert_eq(entries(path, name), 3);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct ring_fds copy;
    struct ring_consumer consumer;
    struct ring_item item;
    struct stat st;
    cr_assert_eq(ring_file_load(&copy, fd, "transform-1.ring", RING_FILE_WHOLE, &err), 0, "%s", err.text);
    cr_assert_eq(ring_consumer_attach(&consumer, &copy, -1, &err), RING_ATTACHED);
    cr_assert_eq(ring_peek(&consumer, &item, &err), RING_OK);
    cr_assert_arr_eq(item.body, "sixteen bytes ok", 16);
    cr_assert_eq(fstatat(fd, "transform-1.ring", &st, 0), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
    cr_assert_eq(stat(rings, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0700);
}

Test(ring_dump, keeps_a_ring_in_ruins_too) {
    uint64_t nonsense[64];
    char name[256], path[400];
    memset(nonsense, 0xa5, sizeof nonsense);
    cr_assert_eq(pwrite(p.lane[0].to_sink.rw.producer, nonsense, sizeof nonsense, 0), (ssize_t)sizeof nonsense);
    ring_dump(&p, -1);
    cr_assert_eq(entries(rings, name), 1);
    snprintf(path, sizeof path, "%s/%s", rings, name);
    cr_assert_eq(entries(path, name), 6, "three of both lanes");
}

Test(ring_dump, stops_when_nobody_removes_them) {
    char name[256];
    for (int i = 0; i < RING_DUMPS_MAX + 3; i++) {
        ring_dump(&p, 0);
        usleep(2000);
    }
    cr_assert_eq(entries(rings, name), RING_DUMPS_MAX);
}
