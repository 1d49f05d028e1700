/* Plumbing: who inherits which memory and may write it, what each role's copy of the configuration holds. */
#include "tests/unit/supervisor/help.h"

#include <sys/mman.h>
#include <sysexits.h>

#include "tests/unit/shm/huge.h"

enum { LANES = 3 };

static struct plumbing *make(struct config *config, char folder[64]) {
    static struct plumbing p;
    struct err err = {0};
    folder_make(folder);
    config_small(config, folder);
    config->lanes = LANES;
    config->audit = 1;
    cr_assert_eq(plumbing_create(&p, config, &err), 0, "%s", err.text);
    return &p;
}

static bool same_file(int a, int b) {
    struct stat x, y;
    cr_assert_eq(fstat(a, &x), 0);
    cr_assert_eq(fstat(b, &y), 0);
    return x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static bool writable(int fd) { return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR; }

/* -- inheritance ------------------------------------------------------------------------------- */

/* What worker.h documents, one entry a descriptor: the memory it must be, and whether it may be written. */
struct expected {
    int fd;
    bool rw;
};

static int expect(struct expected *e, int n, int fd, bool rw) {
    e[n] = (struct expected){fd, rw};
    return n + 1;
}

static int expect_ring(struct expected *e, int n, const struct ring_fds *r, bool producer) {
    n = expect(e, n, r->constants, false);
    n = expect(e, n, r->producer, producer);
    return expect(e, n, r->consumer, !producer);
}

static int expect_lane(const struct plumbing *p, enum role role, uint32_t lane, struct expected *e, int n) {
    const struct plumbing_lane *l = &p->lane[lane];
    if (role == ROLE_INGEST) {
        n = expect_ring(e, n, &l->to_transform.rw, true);
        n = expect_ring(e, n, &l->rejects.rw, false);
        n = expect(e, n, l->sink_ledger_rw, false);
        return expect(e, n, p->doorbell[stats_block_index(ROLE_TRANSFORM, lane)], true);
    }
    if (role == ROLE_TRANSFORM) {
        n = expect_ring(e, n, &l->to_transform.rw, false);
        n = expect_ring(e, n, &l->to_sink.rw, true);
        n = expect_ring(e, n, &l->rejects.rw, true);
        n = expect(e, n, p->doorbell[stats_block_index(ROLE_INGEST, 0)], true);
        return expect(e, n, p->doorbell[stats_block_index(ROLE_SINK, lane)], true);
    }
    if (role == ROLE_AUDIT) {
        n = expect_ring(e, n, &l->to_audit.rw, false);
        return expect(e, n, p->doorbell[stats_block_index(ROLE_SINK, lane)], true);
    }
    if (role == ROLE_RECON) return n;
    n = expect_ring(e, n, &l->to_sink.rw, false);
    n = expect(e, n, p->doorbell[stats_block_index(ROLE_TRANSFORM, lane)], true);
    n = expect(e, n, l->sink_ledger_rw, true);
    if (!p->config->audit) return n;
    n = expect_ring(e, n, &l->to_audit.rw, true);
    return expect(e, n, p->doorbell[stats_block_index(ROLE_AUDIT, p->config->lanes)], true);
}

static int expect_all(const struct plumbing *p, enum role role, uint32_t lane, struct expected *e) {
    int n = expect(e, 0, p->config_fd[role], false);
    n = expect(e, n, p->stats_fd, true);
    n = expect(e, n, p->control_ro, false);
    n = expect(e, n, p->doorbell[stats_block_index(role, lane)], true);
    n = expect(e, n, p->attention, true);
    n = expect(e, n, p->ledger_rw, role == ROLE_INGEST);
    n = expect(e, n, p->audited_rw, role == ROLE_AUDIT);
    if (role == ROLE_TRANSFORM || role == ROLE_SINK) return expect_lane(p, role, lane, e, n);
    for (uint32_t i = 0; i < p->config->lanes; i++) n = expect_lane(p, role, i, e, n);
    return n;
}

static void inheritance_check(const struct plumbing *p, enum role role, uint32_t lane) {
    struct expected want[WORKER_FDS_MAX];
    int fds[WORKER_FDS_MAX];
    int n = expect_all(p, role, lane, want);
    cr_assert_eq(plumbing_descriptors(p, role, lane, fds), n, "%s[%u]", role_name(role), lane);
    for (int i = 0; i < n; i++) {
        bool eventfd = i + WORKER_FD_CONFIG == WORKER_FD_DOORBELL || i + WORKER_FD_CONFIG == WORKER_FD_ATTENTION;
        if (eventfd)
            cr_assert_eq(fds[i], want[i].fd, "%s[%u] descriptor %d is another doorbell", role_name(role), lane, i);
        cr_assert(same_file(fds[i], want[i].fd), "%s[%u] descriptor %d is another file", role_name(role), lane, i);
        cr_assert_eq(writable(fds[i]), want[i].rw, "%s[%u] descriptor %d", role_name(role), lane, i);
    }
}

Test(plumbing, gives_every_worker_the_documented_descriptors_in_their_order) {
    struct config config;
    char folder[64];
    const struct plumbing *p = make(&config, folder);
    inheritance_check(p, ROLE_INGEST, 0);
    for (uint32_t lane = 0; lane < LANES; lane++) {
        inheritance_check(p, ROLE_TRANSFORM, lane);
        inheritance_check(p, ROLE_SINK, lane);
    }
    inheritance_check(p, ROLE_AUDIT, LANES);
    inheritance_check(p, ROLE_RECON, LANES);
    folder_remove(folder);
}

Test(plumbing, makes_no_ring_to_an_audit_that_is_off) {
    struct config config;
    char folder[64];
    struct plumbing *p = make(&config, folder);
    struct err err = {0};
    uint64_t huge, with = plumbing_ring_bytes(p, &huge);
    config.audit = 0;
    cr_assert_eq(plumbing_remake(p, &config, &err), 0, "%s", err.text);
    uint64_t without = plumbing_ring_bytes(p, &huge);
    cr_assert(with - without >= LANES * RING_BYTES_MIN && with - without < LANES * (RING_BYTES_MIN + 65536));
    for (uint32_t lane = 0; lane < LANES; lane++) {
        cr_assert_eq(p->lane[lane].to_audit.rw.producer, -1);
        inheritance_check(p, ROLE_SINK, lane);
    }
    inheritance_check(p, ROLE_INGEST, 0);
    folder_remove(folder);
}

Test(plumbing, gives_doorbells_of_the_right_workers) {
    struct config config;
    char folder[64];
    const struct plumbing *p = make(&config, folder);
    int fds[WORKER_FDS_MAX];
    const int first = WORKER_FD_LANES - WORKER_FD_CONFIG;
    for (uint32_t lane = 0; lane < LANES; lane++) {
        int transform = p->doorbell[stats_block_index(ROLE_TRANSFORM, lane)];
        plumbing_descriptors(p, ROLE_INGEST, 0, fds);
        cr_assert_eq(fds[first + (int)lane * INGEST_LANE_FDS + 7], transform);
        plumbing_descriptors(p, ROLE_TRANSFORM, lane, fds);
        cr_assert_eq(fds[first + 9], p->doorbell[stats_block_index(ROLE_INGEST, 0)]);
        cr_assert_eq(fds[first + 10], p->doorbell[stats_block_index(ROLE_SINK, lane)]);
        plumbing_descriptors(p, ROLE_SINK, lane, fds);
        cr_assert_eq(fds[first + 3], transform);
        cr_assert_eq(fds[first + 8], p->doorbell[stats_block_index(ROLE_AUDIT, LANES)]);
        plumbing_descriptors(p, ROLE_AUDIT, LANES, fds);
        cr_assert_eq(fds[first + (int)lane * AUDIT_LANE_FDS + 3], p->doorbell[stats_block_index(ROLE_SINK, lane)]);
    }
    for (uint32_t i = 1; i < 4 + 2 * LANES; i++)
        for (uint32_t k = 1; k < i; k++) cr_assert_neq(p->doorbell[i], p->doorbell[k]);
    folder_remove(folder);
}

Test(plumbing, maps_nothing_writable_through_a_read_only_descriptor) {
    struct config config;
    char folder[64];
    const struct plumbing *p = make(&config, folder);
    int fds[WORKER_FDS_MAX], checked = 0;
    for (int role = ROLE_INGEST; role < ROLE_COUNT; role++) {
        int n = plumbing_descriptors(p, (enum role)role, 0, fds);
        for (int i = 0; i < n; i++) {
            if (writable(fds[i])) continue;
            cr_assert_eq(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0), MAP_FAILED);
            void *m = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fds[i], 0);
            cr_assert_neq(m, MAP_FAILED);
            cr_assert_eq(mprotect(m, 4096, PROT_READ | PROT_WRITE), -1, "%s descriptor %d", role_name((enum role)role),
                         i);
            cr_assert_eq(write(fds[i], "x", 1), -1);
            munmap(m, 4096);
            checked++;
        }
    }
    cr_assert_gt(checked, 25);
    folder_remove(folder);
}

Test(plumbing, makes_memory_that_nobody_can_resize) {
    struct config config;
    char folder[64];
    const struct plumbing *p = make(&config, folder);
    int fds[WORKER_FDS_MAX], resized = 0;
    for (int role = ROLE_INGEST; role < ROLE_COUNT; role++) {
        int n = plumbing_descriptors(p, (enum role)role, 0, fds);
        for (int i = 0; i < n; i++) {
            int seals = fcntl(fds[i], F_GET_SEALS);
            if (seals < 0 || (seals & F_SEAL_SEAL) == 0) continue; /* an eventfd, or the stats file */
            cr_assert_eq(seals & (F_SEAL_SHRINK | F_SEAL_GROW), F_SEAL_SHRINK | F_SEAL_GROW);
            resized += ftruncate(fds[i], 0) == 0;
        }
    }
    cr_assert_eq(resized, 0);
    folder_remove(folder);
}

Test(plumbing, marks_every_descriptor_of_its_own_close_on_exec) {
    struct config config;
    char folder[64];
    const struct plumbing *p = make(&config, folder);
    int fds[WORKER_FDS_MAX];
    for (int role = ROLE_INGEST; role < ROLE_COUNT; role++) {
        int n = plumbing_descriptors(p, (enum role)role, 0, fds);
        for (int i = 0; i < n; i++) cr_assert_neq(fcntl(fds[i], F_GETFD) & FD_CLOEXEC, 0);
    }
    folder_remove(folder);
}

/* -- memory of the rings ----------------------------------------------------------------------- */

/* Makes the plumbing of one lane with these settings. Returns 0, or -1 with the reason in why. */
static int make_held(struct plumbing *p, struct err *why) {
    static struct config config;
    char folder[64];
    folder_make(folder);
    config_small(&config, folder);
    config.memory.huge_pages = p->config->memory.huge_pages;
    config.memory.prefault = p->config->memory.prefault;
    int result = plumbing_create(p, &config, why);
    folder_remove(folder);
    return result;
}

static bool all_there(int fd) {
    struct stat st;
    cr_assert_eq(fstat(fd, &st), 0);
    return st.st_blocks * 512 >= st.st_size;
}

static void pass_a_record(const struct plumbing_ring *r) {
    struct ring_producer producer;
    struct ring_consumer consumer;
    struct ring_item item;
    struct err err = {0};
    struct ring_fds writes = {r->ro.constants, r->rw.producer, r->ro.consumer};
    struct ring_fds reads = {r->ro.constants, r->ro.producer, r->rw.consumer};
    cr_assert_eq(ring_producer_attach(&producer, &writes, -1, &err), RING_ATTACHED, "%s", err.text);
    cr_assert_eq(ring_consumer_attach(&consumer, &reads, -1, &err), RING_ATTACHED, "%s", err.text);
    memset(ring_reserve(&producer, 1000), 'x', 1000);
    ring_stage(&producer, 1000, RECORD_DATA);
    ring_publish(&producer);
    cr_assert_eq(ring_peek(&consumer, &item, &err), RING_OK, "%s", err.text);
    cr_assert(item.len == 1000 && item.body[999] == 'x');
    ring_producer_detach(&producer);
    ring_consumer_detach(&consumer);
}

static void rings_close(const struct plumbing *p) {
    const struct plumbing_ring *const rings[] = {&p->lane[0].to_transform, &p->lane[0].to_sink, &p->lane[0].rejects};
    for (int i = 0; i < 3; i++) {
        close(rings[i]->rw.producer);
        close(rings[i]->ro.producer);
    }
}

Test(plumbing, allocates_the_rings_at_the_start_only_when_asked_to) {
    struct err err = {0};
    struct config c = {0};
    static struct plumbing p;
    for (int prefault = 0; prefault < 2; prefault++) {
        c.memory.prefault = (uint8_t)prefault;
        p.config = &c;
        cr_assert_eq(make_held(&p, &err), 0, "%s", err.text);
        cr_assert_eq(all_there(p.lane[0].to_transform.rw.producer), prefault);
        cr_assert_eq(all_there(p.lane[0].to_sink.rw.producer), prefault);
        cr_assert_eq(all_there(p.lane[0].rejects.rw.producer), prefault);
        uint64_t huge;
        cr_assert_geq(plumbing_ring_bytes(&p, &huge), 3 * RING_BYTES_MIN);
        cr_assert_lt(plumbing_ring_bytes(&p, &huge), 3 * RING_BYTES_MIN + 3 * 65536);
        cr_assert_eq(huge, 0);
        pass_a_record(&p.lane[0].to_sink);
    }
}

Test(plumbing, puts_rings_into_huge_pages_and_they_work_there, .fini = huge_give_back) {
    struct err err = {0};
    struct config c = {.memory.huge_pages = HUGE_PAGES_REQUIRE};
    static struct plumbing p;
    p.config = &c;
    if (!huge_free_is("rings in huge pages", 3)) return;
    int made = make_held(&p, &err);
    uint64_t huge = 0, bytes = made == 0 ? plumbing_ring_bytes(&p, &huge) : 0;
    if (made == 0) {
        pass_a_record(&p.lane[0].to_transform);
        pass_a_record(&p.lane[0].to_sink);
        rings_close(&p);
    }
    huge_give_back();
    cr_assert_eq(made, 0, "%s", err.text);
    cr_assert(bytes == 3 * 2 << 20 && huge == bytes);
}

Test(plumbing, takes_ordinary_pages_for_the_rings_that_do_not_fit_into_huge_ones, .fini = huge_give_back) {
    struct err err = {0};
    struct config c = {.memory.huge_pages = HUGE_PAGES_TRY};
    static struct plumbing p;
    p.config = &c;
    if (!huge_free_is("rings in too few huge pages", 2)) return;
    int made = make_held(&p, &err);
    uint64_t huge = 0, bytes = made == 0 ? plumbing_ring_bytes(&p, &huge) : 0;
    if (made == 0) pass_a_record(&p.lane[0].rejects);
    rings_close(&p);
    huge_give_back();
    cr_assert_eq(made, 0, "%s", err.text);
    cr_assert_eq(huge, 2 * 2 << 20);
    cr_assert_gt(bytes, huge);
}

Test(plumbing, without_the_huge_pages_that_are_required_there_is_no_start, .fini = huge_give_back) {
    struct err err = {0};
    struct config c = {.memory.huge_pages = HUGE_PAGES_REQUIRE};
    static struct plumbing p;
    p.config = &c;
    if (!huge_free_is("huge pages that are required and not there", 0)) return;
    int made = make_held(&p, &err);
    huge_give_back();
    cr_assert_eq(made, -1);
    cr_assert_eq(err.code, EX_OSERR);
    cr_assert(strstr(err.text, "ring ingest[0]: no huge pages (") == err.text, "%s", err.text);
    cr_assert_not_null(strstr(err.text, "`millrace tune check` says how many to reserve"), "%s", err.text);
}

/* -- the copies of the configuration ----------------------------------------------------------- */

static bool copy_holds(int fd, const char *text) {
    static struct config copy;
    cr_assert_eq(pread(fd, &copy, sizeof copy, 0), (ssize_t)sizeof copy);
    cr_assert_eq(copy.abi, CONFIG_ABI);
    return memmem(&copy, sizeof copy, text, strlen(text)) != NULL;
}

Test(plumbing, keeps_each_secret_out_of_the_copies_of_other_roles) {
    struct config config;
    char folder[64];
    const struct plumbing *p = make(&config, folder);
    for (int role = ROLE_INGEST; role < ROLE_COUNT; role++) {
        int fd = p->config_fd[role];
        const char *name = role_name((enum role)role);
        cr_assert_eq(copy_holds(fd, "redis-secret"), role == ROLE_SINK, "%s", name);
        cr_assert_eq(copy_holds(fd, "kafka-secret"), role == ROLE_INGEST || role == ROLE_RECON, "%s", name);
        cr_assert_eq(copy_holds(fd, "/path/of/the/keys"), role == ROLE_TRANSFORM, "%s", name);
        cr_assert(copy_holds(fd, "localhost:1"), "%s: a property that is no secret", name);
        cr_assert(copy_holds(fd, "unit"), "%s", name);
    }
    cr_assert_str_eq(config.redis.password, "redis-secret", "the original was blanked");
    folder_remove(folder);
}

Test(plumbing, seals_the_copies_of_the_configuration_for_good) {
    struct config config;
    char folder[64], path[64];
    const struct plumbing *p = make(&config, folder);
    for (int role = ROLE_INGEST; role < ROLE_COUNT; role++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", p->config_fd[role]);
        int fd = open(path, O_RDWR | O_CLOEXEC); /* as the same user may */
        cr_assert(fd < 0 || write(fd, "x", 1) < 0);
        if (fd >= 0) close(fd);
    }
    folder_remove(folder);
}

/* -- the rest ---------------------------------------------------------------------------------- */

Test(plumbing, gives_the_rings_of_a_lane_one_incarnation_and_every_lane_its_own) {
    struct config config;
    char folder[64];
    struct plumbing *p = make(&config, folder);
    struct ring_snapshot a, b, c;
    uint64_t seen[LANES];
    struct err err;
    for (uint32_t lane = 0; lane < LANES; lane++) {
        const struct plumbing_lane *l = &p->lane[lane];
        cr_assert_eq(ring_observe(&l->to_transform.ro, &a, &err), RING_ATTACHED);
        cr_assert_eq(ring_observe(&l->to_sink.ro, &b, &err), RING_ATTACHED);
        cr_assert_eq(ring_observe(&l->rejects.ro, &c, &err), RING_ATTACHED);
        cr_assert(a.incarnation == b.incarnation && b.incarnation == c.incarnation);
        cr_assert_neq(a.incarnation, 0);
        cr_assert_eq(a.capacity, config.ring_bytes);
        seen[lane] = a.incarnation;
        for (uint32_t k = 0; k < lane; k++) cr_assert_neq(seen[k], seen[lane]);
    }
    folder_remove(folder);
}

Test(plumbing, rings_the_doorbell_of_one_worker) {
    struct config config;
    char folder[64];
    const struct plumbing *p = make(&config, folder);
    plumbing_wake(p, 3);
    plumbing_wake(p, 3);
    for (uint32_t i = 1; i < 2 + 2 * LANES; i++) {
        uint64_t n = 0;
        ssize_t r = read(p->doorbell[i], &n, sizeof n);
        cr_assert_eq(r > 0 ? n : 0, i == 3 ? 2 : 0);
    }
    folder_remove(folder);
}

Test(plumbing, names_the_input_of_those_who_have_one) {
    struct config config;
    char folder[64];
    const struct plumbing *p = make(&config, folder);
    cr_assert_null(plumbing_input(p, ROLE_INGEST, 0));
    cr_assert_eq(plumbing_input(p, ROLE_TRANSFORM, 2), &p->lane[2].to_transform);
    cr_assert_eq(plumbing_input(p, ROLE_SINK, 1), &p->lane[1].to_sink);
    folder_remove(folder);
}

Test(plumbing, makes_as_many_lanes_as_there_may_be) {
    struct config config;
    char folder[64];
    static struct plumbing p;
    struct err err = {0};
    int fds[WORKER_FDS_MAX];
    folder_make(folder);
    config_small(&config, folder);
    config.lanes = LANES_MAX;
    cr_assert_eq(plumbing_create(&p, &config, &err), 0, "%s", err.text);
    cr_assert_leq(plumbing_descriptors(&p, ROLE_INGEST, 0, fds), WORKER_FDS_MAX);
    folder_remove(folder);
}

Test(plumbing, that_cannot_be_made_says_why) {
    struct config config;
    char folder[64];
    static struct plumbing p;
    struct err err = {0};
    folder_make(folder);
    config_small(&config, folder);
    snprintf(config.run_dir, sizeof config.run_dir, "%s/missing", folder);
    cr_assert_eq(plumbing_create(&p, &config, &err), -1);
    cr_assert_not_null(strstr(err.text, "missing"));
    folder_remove(folder);
}

/* -- made anew --------------------------------------------------------------------------------- */

static int lines_of(const char *path) {
    int n = 0;
    FILE *f = fopen(path, "re");
    cr_assert_not_null(f);
    for (int c; (c = getc(f)) != EOF;) n += c == '\n';
    fclose(f);
    return n;
}

static int descriptors_open(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d) != NULL) n++;
    closedir(d);
    return n;
}

Test(plumbing, made_anew_a_thousand_times_leaves_nothing_behind, .timeout = 120) {
    static struct config config, next;
    char folder[64];
    struct err err = {0};
    struct plumbing *p = make(&config, folder);
    int fds = 0, maps = 0;
    for (int i = 0; i < 1000; i++) {
        next = config;
        next.lanes = 1 + (uint32_t)i % 3;
        cr_assert_eq(plumbing_remake(p, &next, &err), 0, "%s", err.text);
        if (i == 3) {
            fds = descriptors_open();
            maps = lines_of("/proc/self/maps");
        }
    }
    cr_assert_eq(descriptors_open(), fds, "%d descriptors, %d at first", descriptors_open(), fds);
    cr_assert_eq(lines_of("/proc/self/maps"), maps, "%d mappings, %d at first", lines_of("/proc/self/maps"), maps);
    cr_assert_eq(p->control->lives, 1000);
    folder_remove(folder);
}

Test(plumbing, made_anew_is_empty_and_another_incarnation) {
    static struct config config, next;
    char folder[64];
    struct err err = {0};
    struct plumbing *p = make(&config, folder);
    struct ring_snapshot before, after;
    struct ring_producer producer;
    cr_assert_eq(ring_producer_attach(&producer, &p->lane[0].to_sink.rw, -1, &err), RING_ATTACHED);
    cr_assert_not_null(ring_reserve(&producer, 16));
    ring_stage(&producer, 16, RECORD_DATA);
    ring_publish(&producer);
    ring_producer_detach(&producer);
    cr_assert_eq(ring_observe(&p->lane[0].to_sink.ro, &before, &err), RING_ATTACHED);
    cr_assert_eq(before.published, 1);
    atomic_store(&p->control->mode[1], CONTROL_LEAVE);
    atomic_store(&p->control->accept_loss, 5);
    uint64_t run = p->control->run;
    next = config;
    next.lanes = 2;
    next.ring_bytes = 2 * config.ring_bytes;
    cr_assert_eq(plumbing_remake(p, &next, &err), 0, "%s", err.text);
    cr_assert_eq(ring_observe(&p->lane[0].to_sink.ro, &after, &err), RING_ATTACHED);
    cr_assert_eq(after.published, 0);
    cr_assert_eq(after.capacity, next.ring_bytes);
    cr_assert_neq(after.incarnation, before.incarnation);
    cr_assert_eq(ring_observe(&p->lane[1].rejects.ro, &after, &err), RING_ATTACHED);
    cr_assert_eq(atomic_load(&p->control->mode[1]), CONTROL_RUN);
    cr_assert_eq(atomic_load(&p->control->accept_loss), 0);
    cr_assert_eq(atomic_load(&p->ledger->count), 0);
    cr_assert(p->control->run != 0 && p->control->run == run, "the same run");
    next.redis.db++;
    cr_assert_eq(plumbing_remake(p, &next, &err), 0, "%s", err.text);
    cr_assert_neq(p->control->run, run, "with another Redis");
    inheritance_check(p, ROLE_INGEST, 0);
    inheritance_check(p, ROLE_SINK, 1);
    folder_remove(folder);
}

Test(plumbing, that_cannot_be_made_anew_can_be_made_with_another_configuration) {
    static struct config config, bad;
    char folder[64];
    struct err err = {0};
    struct plumbing *p = make(&config, folder);
    struct ring_snapshot s;
    bad = config;
    bad.ring_bytes = 12345; /* no power of two */
    int fds = descriptors_open();
    cr_assert_eq(plumbing_remake(p, &bad, &err), -1);
    cr_assert_lt(descriptors_open(), fds, "what was made before the failure is given back");
    cr_assert_eq(plumbing_remake(p, &config, &err), 0, "%s", err.text);
    cr_assert_eq(ring_observe(&p->lane[0].to_sink.ro, &s, &err), RING_ATTACHED);
    cr_assert_eq(descriptors_open(), fds);
    folder_remove(folder);
}
