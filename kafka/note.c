#include "kafka/note.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shm/record.h"

#define LEAD "millrace 1"
enum { TEXT_MAX = 255 }; /* of what others may have put there, no more is looked at */

uint64_t note_instance(const char *name) {
    uint64_t hash = record_producer_hash(name, strlen(name));
    return hash > NOTE_SEVERAL ? hash : NOTE_SEVERAL + 1;
}

size_t note_write(char out[NOTE_BYTES], const struct note *note) {
    int n = snprintf(out, NOTE_BYTES, LEAD " origin=%lld", (long long)note->origin);
    if (note->lost_to > note->lost_from)
        n += snprintf(out + n, NOTE_BYTES - (size_t)n, " lost=%lld-%lld", (long long)note->lost_from,
                      (long long)note->lost_to);
    n += snprintf(out + n, NOTE_BYTES - (size_t)n, "%s%s%s", note->first ? " first=1" : "",
                  note->rewound ? " rewound=1" : "", note->accepted ? " accepted=1" : "");
    if (note->run != 0) n += snprintf(out + n, NOTE_BYTES - (size_t)n, " run=%016" PRIx64, note->run);
    if (note->by != 0) n += snprintf(out + n, NOTE_BYTES - (size_t)n, " by=%016" PRIx64, note->by);
    return (size_t)n;
}

/* An offset at *at, which moves behind it. -1: there is none. */
static int64_t offset_read(const char **at) {
    char *end;
    if (**at < '0' || **at > '9') return -1;
    unsigned long long n = strtoull(*at, &end, 10);
    *at = end;
    return n < 1ULL << 62 ? (int64_t)n : -1;
}

/* 16 hexadecimal digits; 0: they are not. */
static uint64_t number_read(const char *text) {
    return strspn(text, "0123456789abcdef") == 16 && text[16] == 0 ? strtoull(text, NULL, 16) : 0;
}

static void word_read(const char *word, struct note *note) {
    if (strcmp(word, "first=1") == 0) note->first = true;
    if (strcmp(word, "rewound=1") == 0) note->rewound = true;
    if (strcmp(word, "accepted=1") == 0) note->accepted = true;
    if (strncmp(word, "run=", 4) == 0) note->run = number_read(word + 4);
    if (strncmp(word, "by=", 3) == 0) note->by = number_read(word + 3);
    if (strncmp(word, "origin=", 7) == 0) {
        word += 7;
        int64_t origin = offset_read(&word);
        if (origin >= 0 && *word == 0) note->origin = origin;
    } else if (strncmp(word, "lost=", 5) == 0) {
        word += 5;
        int64_t from = offset_read(&word);
        if (from < 0 || *word++ != '-') return;
        int64_t to = offset_read(&word);
        if (to <= from || *word != 0) return;
        note->lost_from = from;
        note->lost_to = to;
    }
}

struct note note_read(const char *text, size_t len) {
    struct note note = {0};
    char copy[TEXT_MAX + 1], *rest = NULL;
    if (text == NULL || len > TEXT_MAX || len < strlen(LEAD)) return note;
    memcpy(copy, text, len);
    copy[len] = 0;
    if (strncmp(copy, LEAD, strlen(LEAD)) != 0 || (copy[strlen(LEAD)] != 0 && copy[strlen(LEAD)] != ' ')) return note;
    for (char *word = strtok_r(copy + strlen(LEAD), " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest))
        word_read(word, &note);
    return note;
}
