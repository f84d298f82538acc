/* What is loaded where, and which of it is known; entries of its GOT/PLT, changed by value.
 *
 * The table is written under the GIL and read without it: an entry lies nowhere until it is complete,
 * and never moves. The entry of an object that has been unloaded lies nowhere again, and is used for
 * the next one. */
#define _GNU_SOURCE 1
#include "gate.h"

#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>

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

#define OBJECTS 1024
static object_t objects[OBJECTS];
static _Atomic int n_objects;
static unsigned long long adds_seen, removals_seen;
static int recorded; /* whether the last look changed entries for recording */

#define RULES 64
static struct {
    char text[64];
    int kind, level;
} rules[RULES];
static int n_rules;

/* ---- the table ------------------------------------------------------------------------------------ */

object_t *object_of(const void *address) {
    uintptr_t at = (uintptr_t)address;
    int n = atomic_load_explicit(&n_objects, memory_order_acquire);
    for (int i = 0; i < n; i++)
        if (at >= objects[i].low && at < objects[i].high) return &objects[i];
    return NULL;
}

int for_each_object(int (*visit)(object_t *, void *), void *data) {
    int n = atomic_load(&n_objects);
    for (int i = 0; i < n; i++) {
        int stop = visit(&objects[i], data);
        if (stop) return stop;
    }
    return 0;
}

void forget_passed(void) {
    int n = atomic_load(&n_objects);
    atomic_store(&nowhere.passed, 0);
    atomic_store(&nowhere.largest, 0);
    for (int i = 0; i < n; i++) {
        atomic_store(&objects[i].passed, 0);
        atomic_store(&objects[i].largest, 0);
    }
}

static void forget_objects(void) {
    atomic_store(&n_objects, 0);
    adds_seen = removals_seen = 0;
}

int add_rule(const char *text, int kind, int level) {
    if (n_rules == RULES || strlen(text) >= sizeof rules[0].text) return -1;
    forget_objects(); /* they are looked at again, by the new rules */
    strcpy(rules[n_rules].text, text);
    rules[n_rules].kind = kind;
    rules[n_rules++].level = level;
    return 0;
}

void forget_rules(void) {
    n_rules = 0;
    forget_objects();
}

static const char *file_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static void classify(object_t *one, const char *path) {
    for (int i = 0; i < n_rules; i++) {
        const char *text = rules[i].text;
        int matches = strchr(text, '/') ? strstr(path, text) != NULL
                                   : !strncmp(file_of(path), text, strlen(text));
        if (!matches) continue;
        one->kind = rules[i].kind;
        one->level = rules[i].level;
        return;
    }
}

/* ---- one object, as the dynamic linker has mapped it --------------------------------------------- */

typedef struct {
    uintptr_t base, low, high, relro, relro_end;
    const ElfW(Sym) * symbols;
    const char *strings;
    const ElfW(Rela) * slots, *data;
    size_t n_slots, n_data;
} mapped_t;

static int read_mapped(const struct dl_phdr_info *info, mapped_t *one) {
    const ElfW(Dyn) *dynamic = NULL;
    uintptr_t page = ~(uintptr_t)(page_bytes - 1);
    memset(one, 0, sizeof *one);
    one->base = info->dlpi_addr;
    one->low = UINTPTR_MAX;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        uintptr_t at = one->base + part->p_vaddr, end = at + part->p_memsz;
        if (part->p_type == PT_DYNAMIC) dynamic = (const void *)at;
        if (part->p_type == PT_GNU_RELRO) { /* rounded down at both ends, as the linker does it */
            one->relro = at & page;
            one->relro_end = end & page;
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
    /* The kernel's own (vdso) is not relocated: its tables are offsets, not addresses. */
    return one->symbols && one->strings && (uintptr_t)one->symbols >= one->low;
}

static int write_entry(const mapped_t *one, uintptr_t at, void *value) {
    int sealed = at >= one->relro && at < one->relro_end;
    void *start = (void *)(at & ~(uintptr_t)(page_bytes - 1));
    if (sealed && mprotect(start, page_bytes, PROT_READ | PROT_WRITE)) return 0;
    __atomic_store_n((void **)at, value, __ATOMIC_RELEASE);
    if (sealed) mprotect(start, page_bytes, PROT_READ);
    return 1;
}

typedef struct {
    const char *symbol;
    const void *address;
    int found;
} call_t;

static int look_in_program(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size;
    call_t *call = data;
    mapped_t program;
    if (!read_mapped(info, &program)) return 1;
    for (size_t i = 0; program.slots && i < program.n_slots && !call->found; i++) {
        const ElfW(Rela) *slot = &program.slots[i];
        const ElfW(Sym) *symbol = &program.symbols[ELF64_R_SYM(slot->r_info)];
        if (strcmp(program.strings + symbol->st_name, call->symbol)) continue;
        void *now = __atomic_load_n((void **)(program.base + slot->r_offset), __ATOMIC_ACQUIRE);
        call->found = now == call->address;
    }
    return 1; /* it is the first of all objects */
}

int program_calls(const char *symbol, const void *address) {
    call_t call = {.symbol = symbol, .address = address};
    dl_iterate_phdr(look_in_program, &call);
    return call.found;
}

enum act { OPEN, CLOSE, COUNT };
/* function NULL: every one. */
static int visit_table(const mapped_t *one, const ElfW(Rela) * table, size_t n,
                       const function_t *function, enum act act) {
    int changed = 0;
    for (size_t i = 0; table && i < n; i++) {
        unsigned type = ELF64_R_TYPE(table[i].r_info);
        if (type != REL_SLOT && type != REL_DATA && type != REL_ABS) continue;
        if (type == REL_ABS && table[i].r_addend) continue;
        const ElfW(Sym) *symbol = &one->symbols[ELF64_R_SYM(table[i].r_info)];
        if (symbol->st_shndx != SHN_UNDEF) continue; /* its own function of that name */
        const function_t *found = function_of(one->strings + symbol->st_name);
        if (!found || !found->real || (function && function != found)) continue;
        uintptr_t at = one->base + table[i].r_offset;
        void *now = __atomic_load_n((void **)at, __ATOMIC_ACQUIRE);
        /* Not called yet: the entry points into the object's own stub, which would bind it. */
        int unbound = type == REL_SLOT && (uintptr_t)now >= one->low && (uintptr_t)now < one->high;
        if (act == CLOSE) {
            if (now == found->hook) write_entry(one, at, found->real);
        } else if (now == found->hook) {
            changed++; /* opened before, or its requests were recorded */
        } else if (act == COUNT) {
            continue;
        } else if (now == found->real || (now && now == found->called) || unbound) {
            changed += write_entry(one, at, found->hook);
        }
    }
    return changed;
}

static int visit_entries(const mapped_t *one, const function_t *function, enum act act) {
    return visit_table(one, one->slots, one->n_slots, function, act) +
           visit_table(one, one->data, one->n_data, function, act);
}

/* ---- walks over all of them ------------------------------------------------------------------------ */

static object_t *free_entry(void) {
    int n = atomic_load(&n_objects);
    for (int i = 0; i < n; i++)
        if (!objects[i].high) return &objects[i];
    return n == OBJECTS ? NULL : &objects[n];
}

static object_t *add_object(const char *path, const mapped_t *mapped, int is_program) {
    object_t *one = free_entry();
    if (!one) return NULL;
    memset(one, 0, sizeof *one);
    classify(one, path);
    if (is_program && !one->kind) {
        one->kind = KIND_PYTHON;
        one->level = LEVEL_SAFE;
    }
    size_t length = strlen(path), most = sizeof one->path - 1;
    strcpy(one->path, path + (length > most ? length - most : 0));
    one->low = mapped->low;
    __atomic_store_n(&one->high, mapped->high, __ATOMIC_RELEASE);
    if (one == &objects[atomic_load(&n_objects)])
        atomic_fetch_add_explicit(&n_objects, 1, memory_order_release);
    return one;
}

typedef struct {
    int recording, visited, found;
} scan_t;

static int scan_one(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size;
    scan_t *scan = data;
    mapped_t mapped;
    adds_seen = info->dlpi_adds;
    removals_seen = info->dlpi_subs;
    int is_program = !scan->visited++, readable = read_mapped(info, &mapped);
    object_t *one = object_of((void *)mapped.low);
    if (!one) {
        const char *path = info->dlpi_name ? info->dlpi_name : "";
        one = add_object(path, &mapped, is_program); /* the program itself comes first, unnamed */
        scan->found += one != NULL;
    }
    if (readable && scan->recording && one &&
        (one->kind == KIND_UNKNOWN || one->kind == KIND_LIBRARY))
        visit_entries(&mapped, NULL, OPEN);
    return 0;
}

static int look_once(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size;
    unsigned long long *seen = data;
    seen[0] = info->dlpi_adds;
    seen[1] = info->dlpi_subs;
    return 1;
}

int scan_objects(int recording) {
    unsigned long long seen[2] = {0, 0};
    dl_iterate_phdr(look_once, seen); /* 0.1 us: mostly nothing is new */
    if (atomic_load(&n_objects) && seen[0] == adds_seen && seen[1] == removals_seen &&
        recording <= recorded)
        return 0;
    int n = atomic_load(&n_objects);
    for (int i = 0; seen[1] != removals_seen && i < n; i++) /* something new may lie in their place */
        if (!objects[i].doors) objects[i].low = objects[i].high = 0;
    scan_t scan = {.recording = recording};
    dl_iterate_phdr(scan_one, &scan);
    recorded = recording;
    return scan.found;
}

typedef struct {
    const char *file;
    const function_t *function;
    enum act act;
    int changed;
} visit_t;

static int visit_one(struct dl_phdr_info *info, size_t size, void *data) {
    (void)size;
    visit_t *visit = data;
    const char *path = info->dlpi_name ? info->dlpi_name : "";
    mapped_t mapped;
    if (visit->file && strncmp(file_of(path), visit->file, strlen(visit->file))) return 0;
    if (!read_mapped(info, &mapped)) return 0;
    object_t *one = object_of((void *)mapped.low);
    /* Known before the first call through the door can come. */
    if (visit->act == OPEN && one) one->doors |= bit_of(visit->function);
    visit->changed += visit_entries(&mapped, visit->function, visit->act);
    return 0;
}

int open_door(const char *file, const function_t *function) {
    visit_t visit = {.file = file, .function = function, .act = OPEN};
    scan_objects(recorded);
    dl_iterate_phdr(visit_one, &visit);
    return visit.changed;
}

int count_hooked(void) {
    visit_t visit = {.act = COUNT};
    dl_iterate_phdr(visit_one, &visit);
    return visit.changed;
}

void close_all_doors(void) {
    visit_t visit = {.act = CLOSE};
    dl_iterate_phdr(visit_one, &visit);
    int n = atomic_load(&n_objects);
    for (int i = 0; i < n; i++) objects[i].doors = 0;
    recorded = 0;
}
