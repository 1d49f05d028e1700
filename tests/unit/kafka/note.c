/* The text that goes with a commit: what is written is read again, and what others wrote is no note. */
#include <criterion/criterion.h>
#include <string.h>

#include "kafka/note.h"

static struct note read_text(const char *text) { return note_read(text, strlen(text)); }

static void round_trip(struct note note, const char *text) {
    char out[NOTE_BYTES];
    size_t n = note_write(out, &note);
    cr_assert_str_eq(out, text);
    cr_assert_eq(n, strlen(text));
    struct note back = note_read(out, n);
    cr_assert(note_same(&back, &note), "%s", text);
}

Test(note, is_read_as_it_was_written) {
    round_trip((struct note){0}, "millrace 1 origin=0");
    round_trip((struct note){.origin = 120}, "millrace 1 origin=120");
    round_trip((struct note){.origin = 7, .lost_from = 0, .lost_to = 9}, "millrace 1 origin=7 lost=0-9");
    round_trip((struct note){.origin = 7, .first = true}, "millrace 1 origin=7 first=1");
    round_trip((struct note){.origin = 7, .rewound = true}, "millrace 1 origin=7 rewound=1");
    round_trip((struct note){.origin = 7, .rewound = true, .accepted = true},
               "millrace 1 origin=7 rewound=1 accepted=1");
    int64_t most = (1LL << 62) - 1;
    round_trip((struct note){most, most - 1, most, true, true, true, UINT64_MAX, UINT64_MAX},
               "millrace 1 origin=4611686018427387903 lost=4611686018427387902-4611686018427387903 first=1 rewound=1 "
               "accepted=1 run=ffffffffffffffff by=ffffffffffffffff");
    round_trip((struct note){.run = 7}, "millrace 1 origin=0 run=0000000000000007");
    cr_assert_eq(read_text("millrace 1 run=7").run, 0, "cut short");
}

Test(note, says_which_instance_has_committed_or_that_several_have) {
    uint64_t one = note_instance("node1"), two = note_instance("node2");
    cr_assert(one != two && one > NOTE_SEVERAL && two > NOTE_SEVERAL);
    round_trip((struct note){.by = 7}, "millrace 1 origin=0 by=0000000000000007");
    cr_assert_eq(read_text("millrace 1 by=007").by, 0, "cut short");
    cr_assert_eq(note_by(0, one), one);
    cr_assert_eq(note_by(one, one), one);
    cr_assert_eq(note_by(two, one), NOTE_SEVERAL);
    cr_assert_eq(note_by(NOTE_SEVERAL, two), NOTE_SEVERAL, "that is never forgotten");
}

Test(note, needs_no_end_of_the_text) { cr_assert_eq(note_read("millrace 1 origin=1234", 20).origin, 12); }

Test(note, of_somebody_else_is_empty) {
    static const char *const texts[] = {
        "", "origin=5", "millrace", "millrace 2 origin=5", "millrace 10 origin=5", "Millrace 1 origin=5"};
    struct note empty = {0};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct note note = read_text(texts[i]);
        cr_assert(note_same(&note, &empty), "%s", texts[i]);
    }
    struct note note = note_read(NULL, 0);
    cr_assert(note_same(&note, &empty));
    char large[400] = "millrace 1 origin=5 ";
    memset(large + 20, 'x', sizeof large - 21);
    note = read_text(large);
    cr_assert(note_same(&note, &empty));
}

Test(note, passes_over_words_it_does_not_know_or_cannot_read) {
    static const char *const bad[] = {"millrace 1 origin= lost=5 first=2 new=x",
                                      "millrace 1 origin=-4 lost=9-5",
                                      "millrace 1 origin=5x lost=5-9x",
                                      "millrace 1 lost=-5",
                                      "millrace 1 lost=5-5",
                                      "millrace 1 origin=99999999999999999999 lost=1-4611686018427387904"};
    struct note empty = {0};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct note note = read_text(bad[i]);
        cr_assert(note_same(&note, &empty), "%s", bad[i]);
    }
    struct note note = read_text("millrace 1 later=1 rewound=1  origin=3");
    cr_assert(note.rewound && note.origin == 3);
}
