/* Large blocks that were granted and are not touched yet.
 *
 * Two requests in a row, each of which fits, must not both pass: the first is not seen in the
 * resident pages until it is written to. A block leaves the list when it is full, unmapped or given
 * back in part, and when nothing was written to it for two seconds: then it is meant to be lazy. */
#define _GNU_SOURCE 1
#include "gate.h"

#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PROMISES 128
#define SAMPLES 24
#define LAZY_NS 2000000000LL

typedef struct {
    uintptr_t start;
    size_t n_bytes;
    int seen;
    int64_t at_ns;
} promise_t;
static promise_t promises[PROMISES];
static atomic_flag promises_lock = ATOMIC_FLAG_INIT;
_Atomic int64_t in_flight;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void lock_promises(void) {
    while (atomic_flag_test_and_set_explicit(&promises_lock, memory_order_acquire)) {
    }
}

void unlock_promises(void) {
    atomic_flag_clear_explicit(&promises_lock, memory_order_release);
}

void promise(void *block, size_t n_bytes) {
    uintptr_t start = (uintptr_t)block;
    int64_t at_ns = now_ns();
    promise_t *free_one = NULL;
    lock_promises();
    for (int i = 0; i < PROMISES; i++) {
        promise_t *one = &promises[i];
        int overlaps = one->n_bytes && start < one->start + one->n_bytes &&
                       start + n_bytes > one->start;
        if (overlaps) one->n_bytes = 0; /* freed and granted again */
        if (!one->n_bytes && !free_one) free_one = one;
    }
    if (free_one) *free_one = (promise_t){start, n_bytes, 0, at_ns};
    unlock_promises();
}

/* How many of SAMPLES pages spread over the block are resident; -1 where it is gone. */
static int resident_samples(const promise_t *one) {
    uintptr_t first = (one->start + page_bytes - 1) & ~(uintptr_t)(page_bytes - 1);
    size_t span = one->start + one->n_bytes - first - page_bytes;
    int seen = 0;
    for (int i = 0; i < SAMPLES; i++) {
        unsigned char in = 0;
        uintptr_t at = (first + span / SAMPLES * i) & ~(uintptr_t)(page_bytes - 1);
        if (mincore((void *)at, page_bytes, &in)) return -1;
        seen += in & 1;
    }
    return seen;
}

int64_t promised_bytes(void) {
    int64_t total = 0, at_ns = now_ns();
    lock_promises();
    for (int i = 0; i < PROMISES; i++) {
        promise_t *one = &promises[i];
        if (!one->n_bytes) continue;
        int seen = resident_samples(one);
        if (seen > one->seen) one->at_ns = at_ns;
        if (seen < one->seen || seen == SAMPLES || at_ns - one->at_ns > LAZY_NS) {
            one->n_bytes = 0;
            continue;
        }
        one->seen = seen;
        total += (int64_t)(one->n_bytes / SAMPLES) * (SAMPLES - seen);
    }
    unlock_promises();
    return total;
}

void forget_promises(void) {
    lock_promises();
    memset(promises, 0, sizeof promises);
    unlock_promises();
}
