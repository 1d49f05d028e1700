/* The stats segment as one line, for a service manager. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "shm/stats_render.h"
#include "shm/stats_view.h"

/* Records that Redis does not have yet; -1 when that is not known of any partition. */
static int64_t lag_sum(const struct stats *s) {
    int64_t sum = -1;
    for (uint32_t i = 0, count = view_partition_count(s); i < count; i++) {
        struct partition_numbers n = view_partition(stats_partition(s, i));
        if (n.assigned && n.lag >= 0) sum = (sum < 0 ? 0 : sum) + n.lag;
    }
    return sum;
}

bool stats_status(const struct stats *s, struct stats_status *line, uint64_t now_ns) {
    char reason[STATS_TEXT_BYTES], state[sizeof line->state], lag[32] = "unknown";
    if (line->looked_ns != 0 && now_ns - line->looked_ns < STATS_STATUS_LOOK_MS * NS_PER_MS) return false;
    line->looked_ns = now_ns;
    const char *name = stats_state(s, reason);
    snprintf(state, sizeof state, "%s%s%s", name, reason[0] != 0 ? ": " : "", reason);
    uint64_t since_ns = now_ns - line->told_ns;
    if (strcmp(state, line->state) == 0 && since_ns < STATS_STATUS_MS * NS_PER_MS) return false;
    memcpy(line->state, state, sizeof state);
    uint64_t applied = view_sum_named(s, "sink", "record_applied");
    /* Fewer than before: the segment was made anew, with fewer lanes perhaps. */
    bool comparable = line->told_ns != 0 && since_ns != 0 && applied >= line->applied;
    uint64_t rate = comparable ? (applied - line->applied) * NS_PER_S / since_ns : 0;
    line->applied = applied;
    line->told_ns = now_ns;
    int64_t behind = lag_sum(s);
    if (behind >= 0) snprintf(lag, sizeof lag, "%" PRId64, behind);
    snprintf(line->text, sizeof line->text, "%s; %" PRIu64 " records/s to Redis, lag %s", state, rate, lag);
    return true;
}
