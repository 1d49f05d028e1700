/* Note: what a commit says beside its offset. It is the metadata of the commit, a text, so that it reaches whoever has
 * the partition next, on this machine or another:
 *
 *     millrace 1 origin=120 lost=500-900 first=1 rewound=1 run=81b3c0ffee5a9d02 by=5c1e0ddba11f00d5
 *
 * Words may be missing, unknown ones are passed over. Metadata of anybody else, and none, is an empty note. */
#ifndef MILLRACE_KAFKA_NOTE_H
#define MILLRACE_KAFKA_NOTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NOTE_BYTES = 160 }; /* three offsets of 19 digits, two numbers of 16, the words, and a NUL */
#define NOTE_SEVERAL 1ULL

struct note {
    int64_t origin;             /* where the group first began with the partition, [0, 2^62); 0 also when unknown */
    int64_t lost_from, lost_to; /* offsets that Redis needs and Kafka no longer has, from < to; 0 and 0: none */
    bool first;                 /* the group's first start, and no mark was made yet: the commit is where it began */
    bool rewound;               /* read again from this offset on, and the mark was not set back yet */
    bool accepted;              /* … because an operator gave up what is lost before it */
    uint64_t run;               /* the run (struct control) in which its mark was there; 0: none is known */
    uint64_t by;                /* the instance that has committed here (note_instance), NOTE_SEVERAL, 0 unknown */
};

/* note_instance is what stands for an instance in `by`; never 0 or NOTE_SEVERAL. */
uint64_t note_instance(const char *name);

/* note_by is what the instance `self` has to commit where `by` stands: itself, or NOTE_SEVERAL once another one has
 * been there. */
static inline uint64_t note_by(uint64_t by, uint64_t self) { return by == 0 || by == self ? self : NOTE_SEVERAL; }

/* note_write writes the text of a note, NUL-terminated, and returns its length. */
size_t note_write(char out[NOTE_BYTES], const struct note *note);

/* note_read reads a text of len bytes (text NULL: none). What it cannot read counts as not there. */
struct note note_read(const char *text, size_t len);

static inline bool note_same(const struct note *a, const struct note *b) {
    return a->origin == b->origin && a->lost_from == b->lost_from && a->lost_to == b->lost_to && a->first == b->first &&
           a->rewound == b->rewound && a->accepted == b->accepted && a->run == b->run &&
           a->by == b->by;
}

#endif
