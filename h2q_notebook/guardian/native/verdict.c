/* The question: does it fit, and may it be refused? And the record of both. */
#define _GNU_SOURCE 1
#include "gate.h"

#include <errno.h>
#include <stddef.h>

_Atomic size_t threshold = NEVER;
_Atomic int armed_level;
_Atomic int64_t *limit_at, *extra_at, *refused_at;
event_t events[EVENTS];
_Atomic unsigned n_events;
THREAD int passing;

/* Code that lies in no object: made at run time, or loaded since the last look. */
object_t nowhere;

static void note_refused(int door, size_t asked, object_t *object, int64_t used, int64_t limit) {
    event_t *one = &events[atomic_fetch_add(&n_events, 1) % EVENTS];
    *one = (event_t){(int64_t)asked, used, limit, door, object};
    atomic_fetch_add_explicit(refused_at, 1, memory_order_relaxed);
}

static void note_passed(size_t asked, object_t *object, int64_t left) {
    if (!object) object = &nowhere;
    atomic_fetch_add_explicit(&object->passed, 1, memory_order_relaxed);
    if ((int64_t)asked > atomic_load(&object->largest)) {
        atomic_store(&object->largest, (int64_t)asked);
        atomic_store(&object->left, left < 0 ? 0 : left);
    }
}

enum answer settle(int door, size_t n_bytes, object_t *object, int only_record, int64_t used,
                   int64_t limit) {
    asker_t asker = {.stranger = object};
    if (!only_record) asker = who_asks(door == DOOR_ALIGNED);
    if (asker.lazy) return LAZY;
    if (asker.known) {
        note_refused(door, n_bytes, object, used, limit);
        return REFUSED;
    }
    note_passed(n_bytes, asker.stranger, limit - used);
    return FITS;
}

enum answer judge(int door, size_t n_bytes, object_t *object, int only_record) {
    int before = errno;
    enum answer answer = FITS;
    if (passing || n_bytes > (size_t)INT64_MAX / 4) return FITS; /* malloc itself says no */
    int64_t limit = atomic_load_explicit(limit_at, memory_order_relaxed);
    int64_t others = atomic_load_explicit(extra_at, memory_order_relaxed) + promised_bytes() +
                     atomic_load_explicit(&in_flight, memory_order_relaxed);
    int64_t room = limit - others - (int64_t)n_bytes;
    int64_t used = used_bytes(room);
    if (used > room && used >= 0)
        answer = settle(door, n_bytes, object, only_record, used + others, limit);
    errno = before;
    return answer;
}

