#ifndef MILLRACE_TESTS_SIM_REDIS_H
#define MILLRACE_TESTS_SIM_REDIS_H

#include "tests/sim/sim.h"

enum redis_refusal {
    REFUSE_NONE,
    REFUSE_OOM,
    REFUSE_LOADING,
    REFUSE_READONLY,
    REFUSE_MISCONF,
    REFUSE_NOPERM,
    REFUSALS
};

struct redis_weather {
    uint64_t stalled_until_ns; /* stopped: nothing is executed, connections are taken */
    uint64_t down_until_ns;
    enum redis_refusal refuse;
    uint64_t refuse_until_ns;
};
extern struct redis_weather redis_weather;

void redis_init(void);

/* The client's end: a connection's number, -1 refused; read and write return -1 when the other side has ended it. */
int redis_connect(uint32_t lane);
ssize_t redis_client_read(int connection, void *out, size_t len);
ssize_t redis_client_write(int connection, const void *bytes, size_t len);
void redis_client_close(int connection);
bool redis_client_readable(int connection);

bool redis_runnable(void);
void redis_turn(void); /* executes some of what has arrived */

/* Ends all connections; the last `lose` writes are gone; it is back after down_ms. */
void redis_crash(uint32_t lose, uint64_t down_ms);
void redis_flush(void);         /* FLUSHALL by somebody else */
void redis_cut(uint32_t bytes); /* a connection breaks after so many more bytes, in either direction */
void redis_calm(void);

const char *redis_value(const char *key, size_t *len); /* NULL: there is none */
uint32_t redis_keys(void);
void redis_other_set(const char *key, const char *value, size_t len, int part, int64_t at); /* by another member */

#endif
