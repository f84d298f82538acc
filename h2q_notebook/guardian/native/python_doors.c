/* Python's own allocators, by their public interface (PEP 445). */
#define _GNU_SOURCE 1
#include "gate.h"

#include <Python.h>

#include <malloc.h>
#include <pthread.h>

/* Python's clean-up after a MemoryError needs arenas: each refusal lets it have some more. */
#define ARENA_GRACE (16 * (int64_t)MIB)

static _Atomic int64_t arena_grace;
static pthread_t arming_thread;
static PyMemAllocatorEx raw_before;
static PyObjectArenaAllocator arena_before;
static int python_open;
/* An arena was refused: pymalloc now asks the raw allocator for the small block itself. */
static THREAD int refuse_next;

static void *shut_once(void) {
    refuse_next = 0;
    return NULL;
}

static __attribute__((noinline)) void *large_raw_malloc(size_t n_bytes) {
    if (judge(DOOR_PYTHON, n_bytes, NULL, 0) == REFUSED) return NULL;
    atomic_fetch_add(&in_flight, (int64_t)n_bytes);
    void *block = raw_before.malloc(raw_before.ctx, n_bytes);
    if (block) promise(block, n_bytes);
    atomic_fetch_sub(&in_flight, (int64_t)n_bytes);
    return block;
}

static void *raw_malloc(void *ctx, size_t n_bytes) {
    (void)ctx;
    if (is_large(n_bytes)) return large_raw_malloc(n_bytes);
    if (!LIKELY(!refuse_next)) return shut_once();
    return raw_before.malloc(raw_before.ctx, n_bytes);
}

static void *raw_calloc(void *ctx, size_t count, size_t n_bytes) {
    (void)ctx;
    if (!LIKELY(!refuse_next)) return shut_once();
    return raw_before.calloc(raw_before.ctx, count, n_bytes);
}

/* What a block of `held` bytes adds when it grows to n_bytes. One that glibc has mapped for itself is
 * moved page by page: its end is all that is new. (Such a block begins two words into a page and ends
 * with one, but for a word since glibc 2.43.) One that lies in the heap may have to be copied, and then
 * both are there: a bytearray that grew in a heap full of holes took 148 MiB more than its budget. */
static size_t growth(const void *block, size_t held, size_t n_bytes) {
    uintptr_t in_page = (uintptr_t)page_bytes - 1, at = (uintptr_t)block;
    int mapped = (at & in_page) == 2 * sizeof(size_t) && (-(at + held) & in_page) <= sizeof(size_t);
    return mapped ? n_bytes - held : n_bytes;
}

static __attribute__((noinline)) void *large_raw_realloc(void *block, size_t n_bytes) {
    /* Under a debug allocator (which has a context) a block is not one of malloc's. */
    if (raw_before.ctx) return raw_before.realloc(raw_before.ctx, block, n_bytes);
    size_t held = block ? malloc_usable_size(block) : 0;
    if (n_bytes > held && judge(DOOR_PYTHON, growth(block, held, n_bytes), NULL, 0) == REFUSED)
        return NULL;
    void *moved = raw_before.realloc(raw_before.ctx, block, n_bytes);
    if (moved && n_bytes > held) promise(moved, n_bytes);
    return moved;
}

static void *raw_realloc(void *ctx, void *block, size_t n_bytes) {
    (void)ctx;
    if (is_large(n_bytes)) return large_raw_realloc(block, n_bytes);
    if (!LIKELY(!refuse_next)) return shut_once();
    return raw_before.realloc(raw_before.ctx, block, n_bytes);
}

static void raw_free(void *ctx, void *block) {
    (void)ctx;
    raw_before.free(raw_before.ctx, block);
}

/* One arena (1 MiB; 256 KiB before Python 3.10) that does not fit, so that a loop in C over small
 * objects (json.loads, list(range(n)), itertools) gets its MemoryError while it keeps the GIL. */
static void *arena_alloc(void *ctx, size_t n_bytes) {
    (void)ctx;
    /* The cell's own thread alone: one that carries the kernel's messages must not lose one. */
    if (atomic_load_explicit(&threshold, memory_order_relaxed) != NEVER &&
        pthread_equal(pthread_self(), arming_thread) && !passing) {
        int64_t limit = atomic_load_explicit(limit_at, memory_order_relaxed) +
                        atomic_load_explicit(&arena_grace, memory_order_relaxed);
        int64_t others = atomic_load_explicit(extra_at, memory_order_relaxed);
        int64_t room = limit - others - (int64_t)n_bytes;
        int64_t used = used_bytes(room);
        if (used > room && used >= 0 &&
            settle(DOOR_ARENA, n_bytes, NULL, 0, used + others, limit) == REFUSED) {
            int64_t grace = atomic_load(&arena_grace);
            atomic_store(&arena_grace, used + others - limit + grace + ARENA_GRACE);
            refuse_next = 1;
            return NULL;
        }
    }
    return arena_before.alloc(arena_before.ctx, n_bytes);
}

static void arena_free(void *ctx, void *block, size_t n_bytes) {
    (void)ctx;
    arena_before.free(arena_before.ctx, block, n_bytes);
}

void open_python(void) {
    if (python_open) return;
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &raw_before);
    PyObject_GetArenaAllocator(&arena_before);
    PyMemAllocatorEx raw = {NULL, raw_malloc, raw_calloc, raw_realloc, raw_free};
    PyObjectArenaAllocator arena = {NULL, arena_alloc, arena_free};
    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &raw);
    PyObject_SetArenaAllocator(&arena);
    python_open = 1;
}

/* Only where nobody has put a hook of their own (tracemalloc) on top of ours meanwhile. */
int close_python(void) {
    if (!python_open) return 1;
    PyMemAllocatorEx raw;
    PyObjectArenaAllocator arena;
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &raw);
    PyObject_GetArenaAllocator(&arena);
    if (raw.malloc != raw_malloc || arena.alloc != arena_alloc) return 0;
    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &raw_before);
    PyObject_SetArenaAllocator(&arena_before);
    python_open = 0;
    return 1;
}

void arm_arenas(void) {
    atomic_store(&arena_grace, ARENA_GRACE / 2);
    refuse_next = 0;
    arming_thread = pthread_self();
}

void disarm_arenas(void) { refuse_next = 0; }
