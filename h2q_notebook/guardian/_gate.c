/* The gate: while it is armed, one large request for memory that does not fit the budget is refused.
 *
 * Covers three doors, each through the narrowest way in that there is:
 *   Python   its own allocators, by the public PyMem_SetAllocator and PyObject_SetArenaAllocator;
 *   libraries  entries of an object's own GOT/PLT (malloc of numpy's core, posix_memalign of torch's
 *            c10, and what the caller of open_door() names), by value: an entry that points
 *            anywhere else than to the C library's own function is left alone;
 *   reading  what the process holds, from /proc, without an allocation and without the GIL.
 * Which doors are opened, when, and what is told about a refusal is Python's business (gate.py).
 *
 * What is never refused: calloc (lazy: np.zeros, bytes(n)), realloc of numpy (pandas swallows the
 * failure and writes out of bounds: a crash), anything of an object that no door was opened in.
 * Refusing is not safe in every library: benchmarks/gate_faults.py holds the evidence for each door.
 *
 * Threads: hooks run in any thread, many without the GIL, and allocate nothing. Doors are opened and
 * closed under the GIL. Disarming is one store; the entries stay changed until close_doors().
 * A forked child runs disarmed: the descriptors it inherits read its parent's memory.
 *
 * Linux with glibc, x86-64 and aarch64. Elsewhere this file is not built (setup.py).
 * Sources: the ELF gABI and psABIs (relocation types), mincore(2), proc(5), PEP 445.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#define REL_SLOT R_X86_64_JUMP_SLOT
#define REL_DATA R_X86_64_GLOB_DAT
#define REL_ABS R_X86_64_64
#elif defined(__aarch64__)
#define REL_SLOT R_AARCH64_JUMP_SLOT
#define REL_DATA R_AARCH64_GLOB_DAT
#define REL_ABS R_AARCH64_ABS64
#else
#error "the gate is for x86-64 and aarch64"
#endif

#define LIKELY(x) __builtin_expect(!!(x), 1)
/* Read in every allocation: no call to find it. Fits glibc's spare TLS for libraries loaded late. */
#define THREAD static __thread __attribute__((tls_model("initial-exec")))

#define MIB ((size_t)1 << 20)
#define NEVER SIZE_MAX

/* ---- state ---------------------------------------------------------------------------------- */

/* Requests below it are one compare and a jump; NEVER while disarmed. */
static _Atomic size_t threshold = NEVER;
/* Written by Python and the sidecar in the page that guardian and sidecar share: the limit may be
 * moved while the cell runs, and what children hold is known to the sidecar alone. */
static _Atomic int64_t *limit_at, *extra_at, *refused_at;
static Py_buffer page;
static _Atomic int64_t arena_grace;
static int statm_fd = -1, status_fd = -1;
static long page_bytes;
static pid_t owner;
static pthread_t arming_thread;

/* Python's clean-up after a MemoryError needs arenas: each refusal lets it have some more. */
#define ARENA_GRACE (16 * (int64_t)MIB)

enum door { DOOR_PYTHON, DOOR_ARENA, DOOR_MALLOC, DOOR_ALIGNED, DOOR_REALLOC, DOOR_MMAP };

typedef struct {
    int64_t asked, used, limit;
    int door;
    char object[64];
} event_t;
#define EVENTS 64
static event_t events[EVENTS];
static _Atomic unsigned n_events;

/* ---- what the process holds --------------------------------------------------------------------- */

static int64_t field(const char *text, const char *key) {
    const char *at = strstr(text, key);
    return at ? (int64_t)strtoull(at + strlen(key), NULL, 10) * 1024 : 0;
}

/* Anonymous, shared and swapped bytes, as budgets count them; -1 where they cannot be read.
 * `fits` lets the cheap figure do (1-4 us against 10-26): all resident pages are an upper bound of
 * what counts, swap aside, so that a request which fits on top of them needs no closer look. */
static int64_t used_bytes(int64_t fits) {
    char text[2048];
    ssize_t n = pread(statm_fd, text, 200, 0);
    if (n <= 0) return -1;
    text[n] = 0;
    char *at;
    strtoull(text, &at, 10);
    int64_t resident = (int64_t)strtoull(at, NULL, 10) * page_bytes;
    if (resident <= fits) return resident;
    n = pread(status_fd, text, sizeof text - 1, 0);
    if (n <= 0) return -1;
    text[n] = 0;
    return field(text, "\nRssAnon:") + field(text, "\nRssShmem:") + field(text, "\nVmSwap:");
}

/* ---- promises: large blocks that were granted and are not touched yet ----------------------------- */

/* Two requests in a row, each of which fits, must not both pass: the first is not seen in the
 * resident pages until it is written to. A block leaves the list when it is full, unmapped or given
 * back in part, and when nothing was written to it for two seconds: then it is meant to be lazy. */
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
static _Atomic int64_t in_flight;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void lock_promises(void) {
    while (atomic_flag_test_and_set_explicit(&promises_lock, memory_order_acquire)) {
    }
}

static void unlock_promises(void) {
    atomic_flag_clear_explicit(&promises_lock, memory_order_release);
}

static void promise(void *block, size_t n_bytes) {
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

static int64_t promised_bytes(void) {
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

/* ---- the question ------------------------------------------------------------------------------- */

/* Above 0 this thread is refused nothing: it initialises a C extension. The code that does is written
 * with no thought of a MemoryError: numpy's own ended in a SIGSEGV (gate_faults, polars: to_numpy). */
THREAD int passing;

static void note(int door, size_t asked, int64_t used, int64_t limit, const char *object) {
    event_t *one = &events[atomic_fetch_add(&n_events, 1) % EVENTS];
    one->asked = (int64_t)asked;
    one->used = used;
    one->limit = limit;
    one->door = door;
    strncpy(one->object, object, sizeof one->object - 1);
    atomic_fetch_add_explicit(refused_at, 1, memory_order_relaxed);
}

/* torch.empty and its like do not write to what they get, so that asking for 2 GB and touching 100 MB
 * is no overrun. Their allocator is the one that torch.ones uses; only the stack tells them apart.
 * It is read where the answer would be no, and never before: some 0.1 ms. Every torch operator has an
 * exported function of its own, at::_ops::NAME::call, and empty's is the only one on the way. */
#define STACK 64
static int asked_by_empty(void) {
    static const char mark[] = "_ZN2at4_ops";
    void *frames[STACK];
    int n = backtrace(frames, STACK), found = 0;
    for (int i = 0; i < n; i++) {
        Dl_info info;
        if (!dladdr(frames[i], &info) || !info.dli_sname) continue;
        if (strncmp(info.dli_sname, mark, sizeof mark - 1)) continue;
        const char *name = info.dli_sname + sizeof mark - 1;
        while (*name >= '0' && *name <= '9') name++; /* its length */
        if (strncmp(name, "empty", 5) && strncmp(name, "new_empty", 9)) return 0;
        found = 1;
    }
    return found;
}

/* Whether n_bytes more do not fit. Keeps errno: it is asked in the middle of other people's calls. */
enum answer { FITS, REFUSED, LAZY };
static enum answer judge(int door, size_t n_bytes, const char *object) {
    int before = errno;
    enum answer refused = FITS;
    if (passing || n_bytes > (size_t)INT64_MAX / 4) return FITS; /* malloc itself says no */
    int64_t limit = atomic_load_explicit(limit_at, memory_order_relaxed);
    int64_t others = atomic_load_explicit(extra_at, memory_order_relaxed) + promised_bytes() +
                     atomic_load_explicit(&in_flight, memory_order_relaxed);
    int64_t room = limit - others - (int64_t)n_bytes;
    int64_t used = used_bytes(room);
    if (used > room && used >= 0) {
        refused = door == DOOR_ALIGNED && asked_by_empty() ? LAZY : REFUSED;
        if (refused == REFUSED) note(door, n_bytes, used + others, limit, object);
    }
    errno = before;
    return refused;
}

static int is_large(size_t n_bytes) {
    return !LIKELY(n_bytes < atomic_load_explicit(&threshold, memory_order_relaxed));
}

/* ---- Python's own allocators ---------------------------------------------------------------------- */

static PyMemAllocatorEx raw_before;
static PyObjectArenaAllocator arena_before;
static int python_open;
/* An arena was refused: pymalloc now asks the raw allocator for the small block itself. */
THREAD int refuse_next;

static void *shut_once(void) {
    refuse_next = 0;
    return NULL;
}

static __attribute__((noinline)) void *large_raw_malloc(size_t n_bytes) {
    if (judge(DOOR_PYTHON, n_bytes, "")) return NULL;
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

static __attribute__((noinline)) void *large_raw_realloc(void *block, size_t n_bytes) {
    size_t held = block ? malloc_usable_size(block) : 0;
    if (n_bytes > held && judge(DOOR_PYTHON, n_bytes - held, "")) return NULL;
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
        if (used > room && used >= 0) {
            note(DOOR_ARENA, n_bytes, used + others, limit, "");
            atomic_store(&arena_grace, used + others - limit +
                                           atomic_load(&arena_grace) + ARENA_GRACE);
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

static void open_python(void) {
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
static int close_python(void) {
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

/* ---- doors in libraries: entries of their GOT ------------------------------------------------------- */

#define DOORS 32
typedef struct {
    uintptr_t low, high;
    char name[64];
} opened_t;
static opened_t opened[DOORS];
static _Atomic int n_opened;

static const char *object_of(void *caller) {
    uintptr_t at = (uintptr_t)caller;
    int n = atomic_load_explicit(&n_opened, memory_order_acquire);
    for (int i = 0; i < n; i++)
        if (at >= opened[i].low && at < opened[i].high) return opened[i].name;
    return "";
}

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

typedef struct {
    const char *symbol;
    void *real, *hook;
} function_t;
/* What may be asked for. The real ones are what this object itself is bound to: where a preloaded
 * allocator stands in for the C library's, both sides see it. */
static const function_t *function_of(const char *symbol) {
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

typedef struct {
    const char *object;         /* the file name begins with it; NULL: any */
    const function_t *function; /* NULL: every one */
    int closing;
    int changed;
} visit_t;

/* One object as the dynamic linker has mapped it. */
typedef struct {
    uintptr_t base, low, high, relro, relro_end;
    const ElfW(Sym) * symbols;
    const char *strings;
    const ElfW(Rela) * slots, *data;
    size_t n_slots, n_data;
} object_t;

static int read_object(const struct dl_phdr_info *info, object_t *one) {
    const ElfW(Dyn) *dynamic = NULL;
    memset(one, 0, sizeof *one);
    one->base = info->dlpi_addr;
    one->low = UINTPTR_MAX;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        uintptr_t at = one->base + part->p_vaddr, end = at + part->p_memsz;
        if (part->p_type == PT_DYNAMIC) dynamic = (const void *)at;
        if (part->p_type == PT_GNU_RELRO) {
            one->relro = at & ~(uintptr_t)(page_bytes - 1);
            one->relro_end = end;
        }
        if (part->p_type == PT_LOAD) {
            if (at < one->low) one->low = at;
            if (end > one->high) one->high = end;
        }
    }
    if (!dynamic) return 0;
    for (; dynamic->d_tag != DT_NULL; dynamic++) {
        const void *at = (const void *)dynamic->d_un.d_ptr; /* glibc has relocated these */
        switch (dynamic->d_tag) {
            case DT_SYMTAB: one->symbols = at; break;
            case DT_STRTAB: one->strings = at; break;
            case DT_JMPREL: one->slots = at; break;
            case DT_RELA: one->data = at; break;
            case DT_PLTRELSZ: one->n_slots = dynamic->d_un.d_val / sizeof(ElfW(Rela)); break;
            case DT_RELASZ: one->n_data = dynamic->d_un.d_val / sizeof(ElfW(Rela)); break;
            default: break;
        }
    }
    return one->symbols && one->strings;
}

static int write_entry(const object_t *one, uintptr_t at, void *value) {
    int sealed = at >= one->relro && at < one->relro_end;
    void *start = (void *)(at & ~(uintptr_t)(page_bytes - 1));
    if (sealed && mprotect(start, page_bytes, PROT_READ | PROT_WRITE)) return 0;
    __atomic_store_n((void **)at, value, __ATOMIC_RELEASE);
    if (sealed) mprotect(start, page_bytes, PROT_READ);
    return 1;
}

static int visit_table(const object_t *one, const ElfW(Rela) * table, size_t n, visit_t *visit) {
    int changed = 0;
    for (size_t i = 0; table && i < n; i++) {
        unsigned type = ELF64_R_TYPE(table[i].r_info);
        if (type != REL_SLOT && type != REL_DATA && type != REL_ABS) continue;
        if (type == REL_ABS && table[i].r_addend) continue;
        const ElfW(Sym) *symbol = &one->symbols[ELF64_R_SYM(table[i].r_info)];
        if (symbol->st_shndx != SHN_UNDEF) continue; /* its own function of that name */
        const function_t *function = function_of(one->strings + symbol->st_name);
        if (!function || (visit->function && function != visit->function)) continue;
        uintptr_t at = one->base + table[i].r_offset;
        void *now = __atomic_load_n((void **)at, __ATOMIC_ACQUIRE);
        /* Not called yet: the entry points into the object's own stub, which would bind it. */
        int unbound = type == REL_SLOT && (uintptr_t)now >= one->low && (uintptr_t)now < one->high;
        if (visit->closing) {
            if (now == function->hook) changed += write_entry(one, at, function->real);
        } else if (now == function->real || unbound) {
            changed += write_entry(one, at, function->hook);
        }
    }
    return changed;
}

static int visit_object(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size;
    visit_t *visit = data;
    const char *path = info->dlpi_name ? info->dlpi_name : "", *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    if (visit->object && strncmp(name, visit->object, strlen(visit->object))) return 0;
    object_t one;
    if (!read_object(info, &one)) return 0;
    if (!visit->closing) { /* known before the first call through the door can come */
        int n = atomic_load(&n_opened);
        if (n == DOORS) return 1;
        opened[n].low = one.low;
        opened[n].high = one.high;
        strncpy(opened[n].name, name, sizeof opened[n].name - 1);
        atomic_store_explicit(&n_opened, n + 1, memory_order_release);
    }
    visit->changed += visit_table(&one, one.slots, one.n_slots, visit);
    visit->changed += visit_table(&one, one.data, one.n_data, visit);
    return 0;
}

/* ---- Python's side ---------------------------------------------------------------------------------- */

static void in_child(void) {
    atomic_store(&threshold, NEVER);
    atomic_flag_clear(&promises_lock); /* another thread may have held it */
    refuse_next = 0;
}

static void close_files(void) {
    if (statm_fd >= 0) close(statm_fd);
    if (status_fd >= 0) close(status_fd);
    statm_fd = status_fd = -1;
}

static PyObject *gate_watch(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *buffer;
    Py_ssize_t limit, extra, refused;
    if (!PyArg_ParseTuple(args, "Onnn", &buffer, &limit, &extra, &refused)) return NULL;
    if (page.obj) {
        PyErr_SetString(PyExc_RuntimeError, "a page is being watched already");
        return NULL;
    }
    if (PyObject_GetBuffer(buffer, &page, PyBUF_WRITABLE)) return NULL;
    Py_ssize_t words = page.len / 8;
    if (limit < 0 || extra < 0 || refused < 0 || limit >= words || extra >= words ||
        refused >= words) {
        PyBuffer_Release(&page);
        PyErr_SetString(PyExc_IndexError, "no such word in the page");
        return NULL;
    }
    if (owner != getpid()) close_files(); /* a forked child that wants a gate of its own */
    if (statm_fd < 0) statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (status_fd < 0) status_fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    if (statm_fd < 0 || status_fd < 0) {
        PyBuffer_Release(&page);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    _Atomic int64_t *all = page.buf;
    limit_at = all + limit;
    extra_at = all + extra;
    refused_at = all + refused;
    owner = getpid();
    Py_RETURN_NONE;
}

static PyObject *gate_unwatch(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    atomic_store(&threshold, NEVER);
    if (page.obj) PyBuffer_Release(&page);
    close_files();
    Py_RETURN_NONE;
}

static PyObject *gate_open_python(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    open_python();
    Py_RETURN_NONE;
}

static PyObject *gate_open_door(PyObject *self, PyObject *args) {
    (void)self;
    visit_t visit = {0};
    const char *symbol;
    if (!PyArg_ParseTuple(args, "ss", &visit.object, &symbol)) return NULL;
    visit.function = function_of(symbol);
    if (!visit.function) return PyErr_Format(PyExc_ValueError, "no door for %s", symbol);
    dl_iterate_phdr(visit_object, &visit);
    return PyLong_FromLong(visit.changed);
}

static PyObject *gate_close_doors(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    atomic_store(&threshold, NEVER);
    visit_t visit = {.closing = 1};
    dl_iterate_phdr(visit_object, &visit);
    atomic_store(&n_opened, 0);
    return PyBool_FromLong(close_python());
}

static PyObject *gate_arm(PyObject *self, PyObject *args) {
    (void)self;
    Py_ssize_t least = 16 * MIB;
    if (!PyArg_ParseTuple(args, "|n", &least)) return NULL;
    if (!page.obj || owner != getpid()) {
        PyErr_SetString(PyExc_RuntimeError, "watch() a page first");
        return NULL;
    }
    lock_promises();
    memset(promises, 0, sizeof promises);
    unlock_promises();
    atomic_store(&n_events, 0);
    atomic_store(&in_flight, 0);
    atomic_store(&arena_grace, ARENA_GRACE / 2);
    atomic_store_explicit(refused_at, 0, memory_order_relaxed);
    refuse_next = 0;
    arming_thread = pthread_self();
    atomic_store(&threshold, least < 1 ? 1 : (size_t)least);
    Py_RETURN_NONE;
}

static PyObject *gate_disarm(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    atomic_store(&threshold, NEVER);
    refuse_next = 0;
    Py_RETURN_NONE;
}

static PyObject *gate_let_pass(PyObject *self, PyObject *args) {
    (void)self;
    int by;
    if (!PyArg_ParseTuple(args, "i", &by)) return NULL;
    passing += by;
    return PyLong_FromLong(passing);
}

static PyObject *gate_events(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    unsigned n = atomic_load(&n_events), first = n > EVENTS ? n - EVENTS : 0;
    PyObject *told = PyList_New(0);
    for (unsigned i = first; told && i < n; i++) {
        const event_t *one = &events[i % EVENTS];
        PyObject *row = Py_BuildValue("(isLLL)", one->door, one->object, (long long)one->asked,
                                      (long long)one->used, (long long)one->limit);
        if (!row || PyList_Append(told, row)) Py_CLEAR(told);
        Py_XDECREF(row);
    }
    return told;
}

static PyObject *gate_used(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    return PyLong_FromLongLong(used_bytes(-1));
}

static PyObject *gate_promised(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    return PyLong_FromLongLong(promised_bytes());
}

static PyMethodDef methods[] = {
    {"watch", gate_watch, METH_VARARGS, "watch(page, limit, extra, refused): words of a page."},
    {"unwatch", gate_unwatch, METH_NOARGS, "Let the page go."},
    {"open_python", gate_open_python, METH_NOARGS, "Stand before Python's allocators."},
    {"open_door", gate_open_door, METH_VARARGS, "open_door(object, symbol) -> entries changed."},
    {"close_doors", gate_close_doors, METH_NOARGS, "Put all back -> whether all could be."},
    {"arm", gate_arm, METH_VARARGS, "arm(threshold): refuse what does not fit."},
    {"disarm", gate_disarm, METH_NOARGS, "Refuse nothing."},
    {"let_pass", gate_let_pass, METH_VARARGS, "let_pass(+1 or -1): refuse this thread nothing."},
    {"events", gate_events, METH_NOARGS, "[(door, object, asked, used, limit)] since arm()."},
    {"used", gate_used, METH_NOARGS, "Bytes in use."},
    {"promised", gate_promised, METH_NOARGS, "Bytes granted and not touched yet."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "h2q_notebook.guardian._gate", "See guardian/gate.py.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__gate(void) {
    page_bytes = sysconf(_SC_PAGESIZE);
    pthread_atfork(NULL, NULL, in_child);
    void *first[1];
    backtrace(first, 1); /* loads the unwinder now, and not in the middle of an allocation */
    return PyModule_Create(&definition);
}
