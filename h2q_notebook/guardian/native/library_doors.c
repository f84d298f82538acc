/* What stands in the place of malloc and its kin, in the objects that a door was opened in. */
#define _GNU_SOURCE
#include "gate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CALLER __builtin_return_address(0)

static __attribute__((noinline)) void *large_malloc(size_t n_bytes, void *caller) {
    if (judge(DOOR_MALLOC, n_bytes, object_of(caller))) {
        errno = ENOMEM;
        return NULL;
    }
    atomic_fetch_add(&in_flight, (int64_t)n_bytes);
    void *block = malloc(n_bytes);
    if (block) promise(block, n_bytes);
    atomic_fetch_sub(&in_flight, (int64_t)n_bytes);
    return block;
}

static void *door_malloc(size_t n_bytes) {
    if (is_large(n_bytes)) return large_malloc(n_bytes, CALLER);
    return malloc(n_bytes);
}

static int door_posix_memalign(void **block, size_t alignment, size_t n_bytes) {
    if (!is_large(n_bytes)) return posix_memalign(block, alignment, n_bytes);
    enum answer answer = judge(DOOR_ALIGNED, n_bytes, object_of(CALLER));
    if (answer == REFUSED) return ENOMEM;
    if (answer == LAZY) return posix_memalign(block, alignment, n_bytes);
    atomic_fetch_add(&in_flight, (int64_t)n_bytes);
    int failed = posix_memalign(block, alignment, n_bytes);
    if (!failed) promise(*block, n_bytes);
    atomic_fetch_sub(&in_flight, (int64_t)n_bytes);
    return failed;
}

static void *door_aligned_alloc(size_t alignment, size_t n_bytes) {
    if (!is_large(n_bytes)) return aligned_alloc(alignment, n_bytes);
    if (judge(DOOR_ALIGNED, n_bytes, object_of(CALLER)) == REFUSED) {
        errno = ENOMEM;
        return NULL;
    }
    void *block = aligned_alloc(alignment, n_bytes);
    if (block) promise(block, n_bytes);
    return block;
}

/* What may be asked for. The real ones are what this object itself is bound to: where a preloaded
 * allocator stands in for the C library's, both sides see it. */
const function_t *function_of(const char *symbol) {
    static const function_t functions[] = {
        {"malloc", (void *)malloc, (void *)door_malloc},
        {"posix_memalign", (void *)posix_memalign, (void *)door_posix_memalign},
        {"aligned_alloc", (void *)aligned_alloc, (void *)door_aligned_alloc},
        {NULL, NULL, NULL},
    };
    for (const function_t *one = functions; one->symbol; one++)
        if (!strcmp(one->symbol, symbol)) return one;
    return NULL;
}
