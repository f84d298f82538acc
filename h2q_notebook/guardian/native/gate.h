/* The gate: while it is armed, one large request for memory that does not fit the budget is refused.
 *
 * Files, each one job; data flows down this list:
 *   usage.c     what the process holds, from /proc, without an allocation and without the GIL
 *   promises.c  large blocks that were granted and are not touched yet
 *   objects.c   what is loaded where, and which of it is known; entries of its GOT/PLT, changed by
 *               value: one that points anywhere else than to the C library's function is left alone
 *   stack.c     who asks: every frame up to the running Python function
 *   verdict.c   the question: does it fit, and may it be refused? and the record of both
 *   python_doors.c   Python's own allocators, by PyMem_SetAllocator and PyObject_SetArenaAllocator
 *   library_doors.c  what stands in the place of malloc and its kin
 *   module.c    Python's side. Which doors are opened, when, and what is told is gate.py's business.
 *
 * What is never refused: calloc (lazy: np.zeros, bytes(n)), realloc of numpy (pandas swallows the
 * failure and writes out of bounds: a crash), anything of an object that no door was opened in, and
 * any request with a frame of an unknown library between it and the Python function that runs: many
 * never look whether they got what they asked for. Those are granted and recorded.
 * benchmarks/gate_faults.py holds the evidence for what is known.
 *
 * Threads: hooks run in any thread, many without the GIL, and allocate nothing. Doors are opened and
 * closed under the GIL. Disarming is one store; the entries stay changed until close_doors().
 * A forked child runs disarmed: the descriptors it inherits read its parent's memory.
 *
 * Linux with glibc, x86-64 and aarch64. Elsewhere these files are not built (setup.py).
 * Sources: the ELF gABI and psABIs (relocation types), mincore(2), proc(5), PEP 445.
 */
#ifndef H2Q_GATE_H
#define H2Q_GATE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define HIDDEN __attribute__((visibility("hidden")))
/* Read in every allocation: no call to find it. Fits glibc's spare TLS for libraries loaded late. */
#define THREAD __thread __attribute__((tls_model("initial-exec")))
#define MIB ((size_t)1 << 20)
#define NEVER SIZE_MAX

/* ---- usage.c -------------------------------------------------------------------------------------- */

extern long page_bytes HIDDEN;
/* 0, or -1 with errno. */
int open_usage(void) HIDDEN;
void close_usage(void) HIDDEN;
/* Anonymous, shared and swapped bytes, as budgets count them; -1 where they cannot be read.
 * `fits` lets the cheap figure do (1-4 us against 10-26): all resident pages are an upper bound of
 * what counts, swap aside, so that a request which fits on top of them needs no closer look. */
int64_t used_bytes(int64_t fits) HIDDEN;

/* ---- promises.c ----------------------------------------------------------------------------------- */

void promise(void *block, size_t n_bytes) HIDDEN;
int64_t promised_bytes(void) HIDDEN;
void forget_promises(void) HIDDEN;
void unlock_promises(void) HIDDEN;
/* Asked for and on its way to being granted. */
extern _Atomic int64_t in_flight HIDDEN;

/* ---- objects.c ------------------------------------------------------------------------------------ */

/* SYSTEM and PYTHON are never changed; LIBRARY and UNKNOWN have what they ask for recorded where that
 * is wanted. All but UNKNOWN may stand between a refused request and Python. */
enum kind { KIND_UNKNOWN, KIND_SYSTEM, KIND_PYTHON, KIND_LIBRARY };
/* Each level has what the one before it has. */
enum level { LEVEL_OFF, LEVEL_SAFE, LEVEL_WIDE };

typedef struct {
    uintptr_t low, high;
    int kind, level;        /* known from this level on */
    unsigned doors;         /* a bit for each function that may be refused there */
    _Atomic int64_t passed; /* requests that did not fit and were granted, since arm() */
    _Atomic int64_t largest, left;
    char path[160]; /* its end, where it is longer */
} object_t;

typedef struct {
    const char *symbol;
    void *real, *hook;
    void *called; /* what calls are bound to, where that is another address than `real`; else NULL */
} function_t;

/* Objects whose path contains it (where it has a slash), or whose file name begins so, are of that
 * kind; the first rule that matches counts. 0, or -1 where there are too many. */
int add_rule(const char *text, int kind, int level) HIDDEN;
void forget_rules(void) HIDDEN;
/* Find what has been loaded since the last look; how many objects are new. With `recording`, entries
 * of libraries are changed so that what they ask for is seen. */
int scan_objects(int recording) HIDDEN;
/* How many entries of objects whose file name begins so were changed. */
int open_door(const char *file, const function_t *function) HIDDEN;
/* Whether calls of that name in the program itself are bound to that address by now. */
int program_calls(const char *symbol, const void *address) HIDDEN;
/* How many entries of all objects lead to a hook now. */
int count_hooked(void) HIDDEN;
/* Every entry that leads to a hook leads to the C library again. */
void close_all_doors(void) HIDDEN;
/* NULL where it lies in nothing that was loaded at the last look (code made at run time). */
object_t *object_of(const void *address) HIDDEN;
int for_each_object(int (*visit)(object_t *, void *), void *data) HIDDEN;
void forget_passed(void) HIDDEN;

/* ---- stack.c -------------------------------------------------------------------------------------- */

typedef struct {
    int known;            /* every frame up to the running Python function is */
    int lazy;             /* torch.empty and its like, which do not write to what they get */
    object_t *stranger;   /* where it is not: the object it ended in; NULL for code in no object */
} asker_t;
asker_t who_asks(int look_for_lazy) HIDDEN;
void find_python(void) HIDDEN;

/* ---- verdict.c ------------------------------------------------------------------------------------ */

enum door { DOOR_PYTHON, DOOR_ARENA, DOOR_MALLOC, DOOR_ALIGNED, DOOR_NEW };
/* LAZY: granted, and not taken for a promise. */
enum answer { FITS, REFUSED, LAZY };

typedef struct {
    int64_t asked, used, limit;
    int door;
    object_t *object;
} event_t;
#define EVENTS 64

/* Requests below it are one compare and a jump; NEVER while disarmed. */
extern _Atomic size_t threshold HIDDEN;
extern _Atomic int armed_level HIDDEN;
/* Written by Python and the sidecar in the page that guardian and sidecar share: the limit may be
 * moved while the cell runs, and what children hold is known to the sidecar alone. */
extern _Atomic int64_t *limit_at HIDDEN, *extra_at HIDDEN, *refused_at HIDDEN;
extern event_t events[EVENTS] HIDDEN;
extern _Atomic unsigned n_events HIDDEN;
/* Above 0 this thread is refused nothing: it initialises a C extension. The code that does is written
 * with no thought of a MemoryError: numpy's own ended in a SIGSEGV (gate_faults, polars: to_numpy). */
extern THREAD int passing HIDDEN;
/* Stands for code that lies in no object. */
extern object_t nowhere HIDDEN;

/* Whether n_bytes more are to be refused. Keeps errno: it is asked in the middle of other people's
 * calls. `object` asks; NULL is Python itself. With `only_record` the answer is never REFUSED. */
enum answer judge(int door, size_t n_bytes, object_t *object, int only_record) HIDDEN;
/* The same where it is known that it does not fit. */
enum answer settle(int door, size_t n_bytes, object_t *object, int only_record, int64_t used,
                   int64_t limit) HIDDEN;

static inline int is_large(size_t n_bytes) {
    return !LIKELY(n_bytes < atomic_load_explicit(&threshold, memory_order_relaxed));
}

/* ---- python_doors.c ------------------------------------------------------------------------------- */

void open_python(void) HIDDEN;
/* Whether it could be: not where somebody has put a hook (tracemalloc) on top of ours meanwhile. */
int close_python(void) HIDDEN;
/* Arenas are refused in the calling thread alone, and in no other. */
void arm_arenas(void) HIDDEN;
void disarm_arenas(void) HIDDEN;

/* ---- library_doors.c ------------------------------------------------------------------------------ */

/* NULL where there is no door for that symbol. */
const function_t *function_of(const char *symbol) HIDDEN;
unsigned bit_of(const function_t *function) HIDDEN;
void find_called(void) HIDDEN;
/* C++'s own, once libstdc++ is there. */
void find_operator_new(void) HIDDEN;

#endif
