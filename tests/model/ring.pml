/* The protocol of shm/ring.c: one producer, one consumer, deaths and restarts of both at any store to shared memory.
 * README.md says what is modelled and how to read it. CAP, N, DEATHS and the mutations come from the command line.
 *
 * A step of a process (an `atomic`) has one access to what the other end may be using; stores that the other end does
 * not look at are in the same step, with a death possible after each. */
#ifndef CAP
#define CAP 4 /* units of the data: a header, or the body of a long record */
#endif
#ifndef N
#define N 4 /* records to write */
#endif
#ifndef DEATHS
#define DEATHS 1 /* of each end */
#endif
#define ROOM 3   /* that has to be free before a sleeping producer is woken: the longest record with padding */
#define BATCH 2  /* records in a publication, or in a release, at most */
#define NONE 255 /* a position that matches nothing */

#define FREE_OF(h) (CAP - (cursor - (h)))
#define TO_END (CAP - cursor % CAP)

mtype = {scrap, padding, short_record, long_record, body};

/* Shared memory. Positions are free-running; a cell is a unit of data. */
mtype kind[CAP] = scrap;
byte owner[CAP]; /* the record that the cell belongs to */
byte tail, wake_at, ps_position[2], ps_number[2], ps_aux[2]; /* the producer writes these */
byte head, cs_position[2], cs_number[2];                     /* the consumer these */
bit p_waiting, c_waiting, p_bell, c_bell;

/* Each sleep has a number of its own, and an end remembers which one it has answered. A new number equals none before:
 * all there is to know is whether the sleep of now was answered by the end that lives. While nobody sleeps nobody looks
 * at it: it is zero then, and wake_at too, which keeps the states few. */
bit p_answered, c_answered;

/* What no process of the product can see: what has happened, to be compared with what a successor is told. */
byte published, published_aux, released, applied;
byte p_deaths, c_deaths;

#define MAY_DIE(deaths, dead)                                                                                          \
    if                                                                                                                 \
    :: deaths < DEATHS -> deaths++; goto dead                                                                          \
    :: true                                                                                                            \
    fi
#define PSTORE(what) what; MAY_DIE(p_deaths, p_dead)
#define CSTORE(what) what; MAY_DIE(c_deaths, c_dead)

/* -- the producer -------------------------------------------------------------------------------------------------- */

inline p_attach() {
    atomic {
        cursor = tail;
        assert((ps_position[0] == tail) != (ps_position[1] == tail));
        current = (ps_position[1] == tail -> 1 : 0);
        number = ps_number[current];
        aux = ps_aux[current];
        assert(number == published && aux == published_aux);
        number_published = number;
        c_answered = 0;
        PSTORE(ps_position[1 - current] = NONE);
#ifndef MUTATE_NO_HEALING
        PSTORE(ps_aux[1 - current] = ps_aux[current]);
#endif
        head_seen = head
    }
}

inline p_write() {
    if
    :: pad > 0 -> PSTORE(kind[cursor % CAP] = padding; owner[cursor % CAP] = 0)
    :: else
    fi;
    cursor = cursor + pad;
#ifndef MUTATE_TAIL_BEFORE_DATA
    if
    :: long_one -> PSTORE(kind[(cursor + 1) % CAP] = body; owner[(cursor + 1) % CAP] = number + 1)
    :: else
    fi;
#endif
    PSTORE(kind[cursor % CAP] = (long_one -> long_record : short_record); owner[cursor % CAP] = number + 1);
    number++;
    staged++;
    cursor = cursor + 1 + long_one;
    if /* the aux word is set for every other record, and has to be carried on by the others */
    :: number % 2 == 0 -> aux = number; set_now = true
    :: else
    fi
}

inline p_publish() {
    atomic {
        spare = 1 - current;
#ifdef MUTATE_SLOT_IN_PLACE
        spare = current;
#endif
#ifdef MUTATE_TAIL_BEFORE_SLOT
        PSTORE(tail = cursor; published = number; published_aux = aux);
#endif
        if
        :: set_now || set_before -> PSTORE(ps_aux[spare] = aux)
        :: else
        fi;
        PSTORE(ps_number[spare] = number);
        PSTORE(ps_position[spare] = cursor);
        set_before = set_now;
        set_now = false;
#ifdef MUTATE_AUX_FORGOTTEN
        set_before = false;
#endif
        PSTORE(tail = cursor; published = number; published_aux = aux)
    }
#ifdef MUTATE_TAIL_BEFORE_DATA
    atomic {
        if
        :: long_one -> kind[(cursor - 1) % CAP] = body; owner[(cursor - 1) % CAP] = number
        :: else
        fi
    }
#endif
    atomic { /* looks whether the other end sleeps */
        current = spare;
        number_published = number;
        staged = 0;
        if
        :: c_waiting && !c_answered -> c_answered = 1
        :: else -> goto p_next
        fi
    }
}

/* Sleeps until there is room. No wake-up may be lost; but when the other end has died, whoever sleeps wakes by the
 * longest time that a worker sleeps, and then looks again. */
inline p_sleep() {
    atomic { PSTORE(wake_at = (cursor + ROOM > CAP -> cursor + ROOM - CAP : 0)) }
    atomic { PSTORE(p_waiting = 1; p_answered = 0) }
    atomic {
        seen = c_deaths;
#ifndef MUTATE_PRODUCER_SLEEPS_BLINDLY
        head_seen = head;
#endif
        if
        :: FREE_OF(head_seen) >= ROOM -> goto p_awake
        :: else
        fi
    }
    atomic {
        if
        :: p_bell -> p_bell = 0
        :: seen != c_deaths
        :: p_deaths < DEATHS -> p_deaths++; goto p_dead
        fi
    }
p_awake:
    atomic { PSTORE(p_waiting = 0; p_answered = 0; wake_at = 0) }
}

proctype producer() {
    byte cursor, number, number_published, aux, head_seen, seen, need, pad, staged;
    bit current, spare, long_one;
    bool set_now, set_before;
p_start:
    p_attach();
p_next:
    atomic {
        if
        :: number == N && number_published == N -> goto p_end
        :: number == N && number_published < N -> goto p_full
        :: number < N -> long_one = 0
        :: number < N -> long_one = 1
        fi;
        pad = (long_one + 1 > TO_END -> TO_END : 0);
        need = pad + long_one + 1;
#ifdef MUTATE_PADDING_IS_FREE
        need = long_one + 1;
#endif
        if
        :: need > FREE_OF(head_seen) -> head_seen = head
        :: else
        fi;
        assert(head_seen <= tail && tail - head_seen <= CAP);
        if
#ifdef MUTATE_ROOM_ONE_TOO_MANY
        :: need > FREE_OF(head_seen) + 1 -> goto p_full
#else
        :: need > FREE_OF(head_seen) -> goto p_full
#endif
        :: else
        fi;
        p_write();
        if
        :: staged < BATCH -> goto p_next
        :: true
        fi
    }
p_full:
    if
    :: number != number_published
    :: else -> p_sleep(); goto p_next
    fi;
    p_publish();
#ifndef MUTATE_NO_DOORBELL
    atomic { PSTORE(c_bell = 1) }
#endif
    goto p_next;
p_dead: /* nothing but shared memory is left */
    atomic {
        cursor = 0; number = 0; number_published = 0; aux = 0; head_seen = 0; seen = 0; need = 0; pad = 0; staged = 0;
        current = 0; spare = 0; long_one = 0; set_now = false; set_before = false
    }
    goto p_start;
p_end:
    skip
}

/* -- the consumer -------------------------------------------------------------------------------------------------- */

inline c_attach() {
    atomic {
        c_head = head;
        cursor = head;
        tail_seen = head;
        assert((cs_position[0] == head) != (cs_position[1] == head));
        current = (cs_position[1] == head -> 1 : 0);
        number = cs_number[current];
        assert(number == released);
        number_released = number;
        p_answered = 0
    }
}

/* Takes the record at the cursor, which says what it is; fails when it is not the one that must come now. */
inline c_take() {
    if
    :: kind[cursor % CAP] == padding -> assert(TO_END < tail_seen - cursor); cursor = cursor + TO_END
    :: else
    fi;
    last = cursor;
    assert(owner[cursor % CAP] == number + 1);
    if
    :: kind[cursor % CAP] == short_record -> cursor++
    :: kind[cursor % CAP] == long_record -> cursor = cursor + 2
    :: else -> assert(false)
    fi;
    assert(cursor <= tail_seen);
    number++;
    held++
}

/* What the record is for: the next stage, or Redis. After a death it may come again, but none is ever left out. It is
 * used where it stands: whoever writes there meanwhile shows here. */
inline c_apply() {
    assert(owner[last % CAP] == number);
    if
    :: kind[last % CAP] == long_record -> assert(kind[(last + 1) % CAP] == body && owner[(last + 1) % CAP] == number)
    :: else
    fi;
    assert(number <= applied + 1);
    if
    :: number > applied -> applied = number
    :: else
    fi
}

/* What is given back is nobody's: whoever reads it all the same shows. */
inline c_give_back() {
    do
    :: c_head < cursor -> kind[c_head % CAP] = scrap; owner[c_head % CAP] = 0; c_head++
    :: else -> break
    od;
    head = cursor;
    released = number
}

inline c_release() {
    atomic {
        current = 1 - current;
#ifdef MUTATE_HEAD_BEFORE_SLOT
        CSTORE(c_give_back());
#endif
        CSTORE(cs_number[current] = number);
        CSTORE(cs_position[current] = cursor);
        CSTORE(c_give_back())
    }
    atomic { /* looks whether the other end sleeps for what is free now */
        number_released = number;
        held = 0;
        if
        :: p_waiting && !p_answered && cursor >= wake_at -> p_answered = 1
        :: else -> goto c_next
        fi
    }
}

inline c_sleep() {
    atomic { CSTORE(c_waiting = 1; c_answered = 0) }
    atomic {
        seen = p_deaths;
#ifndef MUTATE_CONSUMER_SLEEPS_BLINDLY
        if
        :: tail != cursor -> goto c_awake
        :: else
        fi
#endif
    }
    atomic {
        if
        :: c_bell -> c_bell = 0
        :: seen != p_deaths
        :: c_deaths < DEATHS -> c_deaths++; goto c_dead
        fi
    }
c_awake:
    atomic { CSTORE(c_waiting = 0; c_answered = 0) }
}

proctype consumer() {
    byte c_head, cursor, number, number_released, tail_seen, seen, held, last;
    bit current;
c_start:
    c_attach();
c_next:
    atomic {
        if
        :: number_released == N -> goto c_end
        :: else
        fi;
        if
        :: cursor == tail_seen -> tail_seen = tail
        :: else
        fi;
        assert(tail_seen >= cursor && tail_seen - c_head <= CAP);
        if
        :: cursor == tail_seen && held > 0 -> goto c_full
        :: cursor == tail_seen && held == 0 -> goto c_dry
        :: else
        fi;
        c_take()
    }
#ifdef MUTATE_RELEASE_BEFORE_EFFECT
    atomic {
        if
        :: held >= BATCH ->
            current = 1 - current;
            cs_number[current] = number;
            cs_position[current] = cursor;
            CSTORE(c_head = cursor; head = cursor; released = number);
            number_released = number;
            held = 0
        :: else
        fi
    }
#endif
    atomic {
        CSTORE(c_apply());
        if
        :: held > 0
        :: held < BATCH -> goto c_next
        fi
    }
c_full:
    c_release();
    atomic { CSTORE(p_bell = 1) }
    goto c_next;
c_dry:
    c_sleep();
    goto c_next;
c_dead:
    atomic {
        c_head = 0; cursor = 0; number = 0; number_released = 0; tail_seen = 0; seen = 0; held = 0; last = 0;
        current = 0
    }
    goto c_start;
c_end:
    assert(applied == N)
}

init {
    atomic { ps_position[1] = NONE; cs_position[1] = NONE; run producer(); run consumer() }
}
