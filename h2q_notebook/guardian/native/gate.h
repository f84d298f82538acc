/* The gate: while it is armed, one large request for memory that does not fit the budget is refused.
 *
 * Files, each one job; data flows down this list:
 *   usage.c     what the process holds, from /proc, without an allocation and without the GIL
 *   promises.c  large blocks that were granted and are not touched yet
 *   verdict.c   the question: does it fit? and the record of what was refused
 *   python_doors.c   Python's own allocators, by PyMem_SetAllocator and PyObject_SetArenaAllocator
 *   library_doors.c  what stands in the place of malloc and its kin
 *   objects.c   entries of an object's own GOT/PLT, changed by value: an entry that points anywhere
 *               else than to the C library's own function is left alone
 *   module.c    Python's side. Which doors are opened, when, and what is told is gate.py's business.
 *
 * What is never refused: calloc (lazy: np.zeros, bytes(n)), realloc of numpy (pandas swallows the
 * failure and writes out of bounds: a crash), anything of an object that no door was opened in.
 * Refusing is not safe in every library: benchmarks/gate_faults.py holds the evidence for each door.
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

/* ---- verdict.c ------------------------------------------------------------------------------------ */

enum door { DOOR_PYTHON, DOOR_ARENA, DOOR_MALLOC, DOOR_ALIGNED };
enum answer { FITS, REFUSED, LAZY };

typedef struct {
    int64_t asked, used, limit;
    int door;
    char object[64];
} event_t;
#define EVENTS 64

/* Requests below it are one compare and a jump; NEVER while disarmed. */
extern _Atomic size_t threshold HIDDEN;
/* Written by Python and the sidecar in the page that guardian and sidecar share: the limit may be
 * moved while the cell runs, and what children hold is known to the sidecar alone. */
extern _Atomic int64_t *limit_at HIDDEN, *extra_at HIDDEN, *refused_at HIDDEN;
extern event_t events[EVENTS] HIDDEN;
extern _Atomic unsigned n_events HIDDEN;
/* Above 0 this thread is refused nothing: it initialises a C extension. The code that does is written
 * with no thought of a MemoryError: numpy's own ended in a SIGSEGV (gate_faults, polars: to_numpy). */
extern THREAD int passing HIDDEN;

/* Whether n_bytes more do not fit. Keeps errno: it is asked in the middle of other people's calls. */
enum answer judge(int door, size_t n_bytes, const char *object) HIDDEN;
void note(int door, size_t asked, int64_t used, int64_t limit, const char *object) HIDDEN;

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

typedef struct {
    const char *symbol;
    void *real, *hook;
} function_t;
/* NULL where there is no door for that symbol. */
const function_t *function_of(const char *symbol) HIDDEN;

/* ---- objects.c ------------------------------------------------------------------------------------ */

/* How many entries of objects whose file name begins so were changed. */
int open_door(const char *object, const function_t *function) HIDDEN;
void close_all_doors(void) HIDDEN;
/* The file name of the object that holds this address; empty where no door was opened in it. */
const char *object_of(void *caller) HIDDEN;

#endif
