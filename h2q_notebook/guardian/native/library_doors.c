/* What stands in the place of malloc and its kin, in the objects whose entries were changed.
 *
 * One hook serves objects that may be refused and objects whose requests are only recorded: the object
 * that the return address lies in has a bit for each function that may be refused there. (A function
 * that ends in a jump to malloc shows its own caller: such a request is granted, or told of another
 * library's.) calloc has no hook: what it gives is lazy. */
#define _GNU_SOURCE 1
#include "gate.h"

#include <Python.h>

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { F_MALLOC, F_POSIX_MEMALIGN, F_ALIGNED_ALLOC, F_NEW, F_NEW_ARRAY, F_REALLOC, F_MMAP, F_MMAP64,
       F_RAW_MALLOC, F_RAW_REALLOC };
static function_t functions[11];

#define CALLER __builtin_return_address(0)

static enum answer ask(int door, int function, size_t n_bytes, const void *caller) {
    object_t *object = object_of(caller);
    int level = atomic_load_explicit(&armed_level, memory_order_relaxed);
    int may = object && object->doors & 1u << function && object->level <= level;
    if (!may && level < LEVEL_WIDE) return LAZY; /* recording was for another cell */
    return judge(door, n_bytes, object, !may);
}

/* Granted: it counts from now on, and once it is there, until its pages say so themselves. */
#define GRANT(n_bytes, call, block)                       \
    atomic_fetch_add(&in_flight, (int64_t)(n_bytes));     \
    call;                                                 \
    if (block) promise(block, n_bytes);                   \
    atomic_fetch_sub(&in_flight, (int64_t)(n_bytes))

static __attribute__((noinline)) void *large_malloc(size_t n_bytes, const void *caller) {
    enum answer answer = ask(DOOR_MALLOC, F_MALLOC, n_bytes, caller);
    if (answer == REFUSED) {
        errno = ENOMEM;
        return NULL;
    }
    if (answer == LAZY) return malloc(n_bytes);
    void *block;
    GRANT(n_bytes, block = malloc(n_bytes), block);
    return block;
}

static void *door_malloc(size_t n_bytes) {
    if (is_large(n_bytes)) return large_malloc(n_bytes, CALLER);
    return malloc(n_bytes);
}

static int door_posix_memalign(void **block, size_t alignment, size_t n_bytes) {
    if (!is_large(n_bytes)) return posix_memalign(block, alignment, n_bytes);
    enum answer answer = ask(DOOR_ALIGNED, F_POSIX_MEMALIGN, n_bytes, CALLER);
    if (answer == REFUSED) return ENOMEM;
    if (answer == LAZY) return posix_memalign(block, alignment, n_bytes);
    int failed;
    GRANT(n_bytes, failed = posix_memalign(block, alignment, n_bytes), failed ? NULL : *block);
    return failed;
}

static void *door_aligned_alloc(size_t alignment, size_t n_bytes) {
    if (!is_large(n_bytes)) return aligned_alloc(alignment, n_bytes);
    enum answer answer = ask(DOOR_ALIGNED, F_ALIGNED_ALLOC, n_bytes, CALLER);
    if (answer == REFUSED) {
        errno = ENOMEM;
        return NULL;
    }
    if (answer == LAZY) return aligned_alloc(alignment, n_bytes);
    void *block;
    GRANT(n_bytes, block = aligned_alloc(alignment, n_bytes), block);
    return block;
}

/* C++'s operator new: refused by asking the real one for more than there is, which throws its
 * std::bad_alloc. The hook ends in a jump, so that nothing of ours is unwound. */
static __attribute__((noinline)) size_t new_size(size_t n_bytes, int function, const void *caller) {
    return ask(DOOR_NEW, function, n_bytes, caller) == REFUSED ? (size_t)PTRDIFF_MAX : n_bytes;
}

static void *door_new(size_t n_bytes) {
    if (is_large(n_bytes)) n_bytes = new_size(n_bytes, F_NEW, CALLER);
    return ((void *(*)(size_t))functions[F_NEW].real)(n_bytes);
}

static void *door_new_array(size_t n_bytes) {
    if (is_large(n_bytes)) n_bytes = new_size(n_bytes, F_NEW_ARRAY, CALLER);
    return ((void *(*)(size_t))functions[F_NEW_ARRAY].real)(n_bytes);
}

/* Recorded alone, in every object: no library of the record copes with a realloc that fails, and
 * allocators that map for themselves (jemalloc, mimalloc) serve libraries that end the process. */
static void *door_realloc(void *block, size_t n_bytes) {
    if (is_large(n_bytes)) {
        size_t held = block ? malloc_usable_size(block) : 0;
        if (n_bytes > held) ask(DOOR_MALLOC, F_REALLOC, n_bytes - held, CALLER);
    }
    return realloc(block, n_bytes);
}

static void *door_mmap(void *at, size_t n_bytes, int access, int flags, int fd, off_t offset) {
    int anonymous = flags & MAP_PRIVATE && flags & MAP_ANONYMOUS && access & PROT_WRITE;
    if (anonymous && is_large(n_bytes)) ask(DOOR_MALLOC, F_MMAP, n_bytes, CALLER);
    return mmap(at, n_bytes, access, flags, fd, offset);
}

static int is_open(int function, const void *caller) {
    object_t *object = object_of(caller);
    return object && object->doors & 1u << function;
}

/* numpy 2.5 and newer takes its data from Python's raw allocator, and so from behind the door of
 * Python's own requests. Asked here, a refusal carries numpy's name, and is not asked a second time.
 * Others go on as if there were no hook: they are asked behind that door. */
static __attribute__((noinline)) void *large_raw_malloc(size_t n_bytes, const void *caller) {
    if (!is_open(F_RAW_MALLOC, caller)) return PyMem_RawMalloc(n_bytes);
    if (ask(DOOR_MALLOC, F_RAW_MALLOC, n_bytes, caller) == REFUSED) return NULL;
    passing++;
    void *block = PyMem_RawMalloc(n_bytes);
    passing--;
    return block;
}

static void *door_raw_malloc(size_t n_bytes) {
    if (is_large(n_bytes)) return large_raw_malloc(n_bytes, CALLER);
    return PyMem_RawMalloc(n_bytes);
}

/* Where this door is open nothing is refused: pandas' value_counts ended in a SIGSEGV (numpy 2.5.5,
 * pandas 3.1.1), as it did on the realloc of numpy before. */
static void *door_raw_realloc(void *block, size_t n_bytes) {
    if (!is_large(n_bytes) || !is_open(F_RAW_REALLOC, CALLER)) return PyMem_RawRealloc(block, n_bytes);
    passing++;
    void *moved = PyMem_RawRealloc(block, n_bytes);
    passing--;
    return moved;
}

/* The real ones are what this object itself is bound to: where a preloaded allocator stands in for
 * the C library's, both sides see it. */
static function_t functions[] = {
    [F_MALLOC] = {"malloc", (void *)malloc, (void *)door_malloc, NULL},
    [F_POSIX_MEMALIGN] = {"posix_memalign", (void *)posix_memalign, (void *)door_posix_memalign, NULL},
    [F_ALIGNED_ALLOC] = {"aligned_alloc", (void *)aligned_alloc, (void *)door_aligned_alloc, NULL},
    [F_NEW] = {"_Znwm", NULL, (void *)door_new, NULL},
    [F_NEW_ARRAY] = {"_Znam", NULL, (void *)door_new_array, NULL},
    [F_REALLOC] = {"realloc", (void *)realloc, (void *)door_realloc, NULL},
    [F_MMAP] = {"mmap", (void *)mmap, (void *)door_mmap, NULL},
    [F_MMAP64] = {"mmap64", (void *)mmap64, (void *)door_mmap, NULL}, /* off_t has 64 bits here */
    [F_RAW_MALLOC] = {"PyMem_RawMalloc", (void *)PyMem_RawMalloc, (void *)door_raw_malloc, NULL},
    [F_RAW_REALLOC] = {"PyMem_RawRealloc", (void *)PyMem_RawRealloc, (void *)door_raw_realloc, NULL},
    {NULL, NULL, NULL, NULL},
};

const function_t *function_of(const char *symbol) {
    for (const function_t *one = functions; one->symbol; one++)
        if (!strcmp(one->symbol, symbol)) return one;
    return NULL;
}

unsigned bit_of(const function_t *function) {
    return function ? 1u << (function - functions) : 0;
}

/* A program linked to a fixed address (the Python of Debian and Ubuntu) that takes the address of
 * malloc is where every pointer to malloc leads, this object's too: to a stub in the program. Calls do
 * not, they are bound to the C library. That second address is believed only where the program itself
 * calls it: with a preloaded allocator, or hooks of others, the door stays shut there. */
void find_called(void) {
    void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
    if (!libc) return;
    for (function_t *one = functions; one->symbol; one++) {
        void *own = dlsym(libc, one->symbol);
        if (own && own != one->real && program_calls(one->symbol, own)) one->called = own;
    }
    dlclose(libc);
}

void find_operator_new(void) {
    if (functions[F_NEW].real) return;
    void *library = dlopen("libstdc++.so.6", RTLD_LAZY | RTLD_NOLOAD);
    if (!library) return;
    functions[F_NEW_ARRAY].real = dlsym(library, "_Znam");
    functions[F_NEW].real = dlsym(library, "_Znwm");
    dlclose(library);
}
