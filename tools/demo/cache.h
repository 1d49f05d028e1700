/* The demo's Redis: a server of its own on a unix socket, and the comparison of what it holds with what it should. */
#ifndef MILLRACE_TOOLS_DEMO_CACHE_H
#define MILLRACE_TOOLS_DEMO_CACHE_H

#include <stdint.h>

#include "base/err.h"
#include "base/keys.h"
#include "tools/demo/cards.h"
#include "tools/demo/process.h"

/* cache_start runs redis-server in folder and waits until it answers on folder/redis.sock. */
int cache_start(struct process *p, const char *folder, const char *log, struct err *err);

struct difference {
    uint64_t missing;    /* should be there and is not */
    uint64_t altered;    /* is there, but not with the bytes that were published, or not encrypted */
    uint64_t unexpected; /* is there and should not be */
};

/* cache_compare reads every key, decrypts every value and compares it with the fold, whose entries it marks as seen. */
int cache_compare(const char *folder, const struct keys *keys, struct fold *fold, struct difference *out,
                  struct err *err);

#endif
