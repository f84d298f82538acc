/* Entries of an object's own GOT/PLT, changed by value. */
#define _GNU_SOURCE
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

#define DOORS 32
typedef struct {
    uintptr_t low, high;
    char name[64];
} opened_t;
static opened_t opened[DOORS];
static _Atomic int n_opened;

const char *object_of(void *caller) {
    uintptr_t at = (uintptr_t)caller;
    int n = atomic_load_explicit(&n_opened, memory_order_acquire);
    for (int i = 0; i < n; i++)
        if (at >= opened[i].low && at < opened[i].high) return opened[i].name;
    return "";
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

int open_door(const char *object, const function_t *function) {
    visit_t visit = {.object = object, .function = function};
    dl_iterate_phdr(visit_object, &visit);
    return visit.changed;
}

void close_all_doors(void) {
    visit_t visit = {.closing = 1};
    dl_iterate_phdr(visit_object, &visit);
    atomic_store(&n_opened, 0);
}
