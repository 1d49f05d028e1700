#include "base/config_text.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

struct target {
    char *out;
    size_t size, len;
};

static bool target_put(struct target *t, const char *text, size_t len) {
    if (len >= t->size - t->len) return false;
    memcpy(t->out + t->len, text, len);
    t->len += len;
    t->out[t->len] = 0;
    return true;
}

/* s points at "${". Puts the value and moves *p behind the closing brace. */
static int variable_put(struct target *t, const char *s, const char **p, struct err *err) {
    char name[128];
    const char *close = strchr(s, '}');
    if (close == NULL) return err_set(err, EX_CONFIG, "${ without } (write $${ for the characters themselves)");
    size_t n = strspn(s + 2, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    const char *after = s + 2 + n;
    if (n == 0 || n >= sizeof name || isdigit((unsigned char)s[2]) || (*after != '}' && *after != ':'))
        return err_set(err, EX_CONFIG, "after ${ comes the name of an environment variable, then } or :default}");
    memcpy(name, s + 2, n);
    name[n] = 0;
    *p = close + 1;
    const char *value = getenv(name);
    if (value == NULL && *after == '}')
        return err_set(err, EX_CONFIG, "the environment variable %s is not set, and there is no ${%s:default}", name,
                       name);
    bool fits =
        value != NULL ? target_put(t, value, strlen(value)) : target_put(t, after + 1, (size_t)(close - after - 1));
    return fits ? 0 : err_set(err, EX_CONFIG, "is too long once ${%s} is filled in", name);
}

int config_expand(const char *text, char *out, size_t size, size_t *at, struct err *err) {
    struct target t = {.out = out, .size = size};
    out[0] = 0;
    for (const char *p = text; *p != 0;) {
        *at = (size_t)(p - text);
        if (p[0] == '$' && p[1] == '{') {
            if (variable_put(&t, p, &p, err) != 0) return -1;
            continue;
        }
        bool literal = strncmp(p, "$${", 3) == 0;
        if (!target_put(&t, literal ? "${" : p, literal ? 2 : 1)) return err_set(err, EX_CONFIG, "is too long");
        p += literal ? 3 : 1;
    }
    *at = 0;
    return 0;
}

static int file_judge(int fd, bool secret, struct err *err) {
    struct stat st;
    if (fstat(fd, &st) != 0) return err_set(err, EX_CONFIG, "%s", strerror(errno));
    if (!S_ISREG(st.st_mode)) return err_set(err, EX_CONFIG, "not a regular file");
    if (secret && (st.st_mode & 007) != 0)
        return err_set(err, EX_CONFIG, "mode %04o lets every user of the machine at it; chmod it to 0640 or less",
                       st.st_mode & 07777);
    return 0;
}

/* Without waiting: a pipe in its place must not hold us. */
static int file_open(const char *path) { return open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); }

int config_file_check(const char *path, bool secret, struct err *err) {
    int fd = file_open(path);
    int r = fd < 0 ? err_set(err, EX_CONFIG, "%s", strerror(errno)) : file_judge(fd, secret, err);
    if (fd >= 0) close(fd);
    return r == 0 ? 0 : err_prefix(err, "%s", path);
}

static int secret_take(int fd, char *out, size_t size, struct err *err) {
    size_t len = 0;
    if (file_judge(fd, true, err) != 0) return -1;
    while (len < size) {
        ssize_t n = read(fd, out + len, size - len);
        if (n < 0) return err_set(err, EX_CONFIG, "%s", strerror(errno));
        if (n == 0) break;
        len += (size_t)n;
    }
    char *newline = memchr(out, '\n', len);
    if (newline != NULL) len = (size_t)(newline - out);
    if (len == 0) return err_set(err, EX_CONFIG, "its first line is empty");
    if (len >= size) return err_set(err, EX_CONFIG, "its first line is longer than %zu bytes", size - 1);
    if (memchr(out, 0, len) != NULL) return err_set(err, EX_CONFIG, "its first line contains a NUL");
    explicit_bzero(out + len, size - len);
    return 0;
}

int config_secret_read(const char *path, char *out, size_t size, struct err *err) {
    int fd = file_open(path);
    int r = fd < 0 ? err_set(err, EX_CONFIG, "%s", strerror(errno)) : secret_take(fd, out, size, err);
    if (fd >= 0) close(fd);
    if (r == 0) return 0;
    explicit_bzero(out, size);
    return err_prefix(err, "%s", path);
}
