#include "base/json_text.h"

#include "base/utf8.h"

void json_text_put(const void *text, size_t len, FILE *out) {
    const uint8_t *p = text;
    fputc('"', out);
    while (len > 0) {
        size_t n = utf8_bytes(p, len);
        if (n == 0)
            fputs("\\ufffd", out);
        else if (*p < 0x20 || *p == 0x7f)
            fprintf(out, "\\u%04x", *p);
        else if (*p == '"' || *p == '\\')
            fprintf(out, "\\%c", *p);
        else
            fwrite(p, 1, n, out);
        n += n == 0;
        p += n;
        len -= n;
    }
    fputc('"', out);
}
