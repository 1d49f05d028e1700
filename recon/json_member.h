/* A member of a JSON object of the given type; NULL: there is none. */
#ifndef MILLRACE_RECON_JSON_MEMBER_H
#define MILLRACE_RECON_JSON_MEMBER_H

#include <yajl/yajl_tree.h>

static inline yajl_val json_member(yajl_val object, const char *name, yajl_type type) {
    return yajl_tree_get(object, (const char *[]){name, NULL}, type);
}

#endif
