/* Who asks: every frame between a request and the Python function that runs.
 *
 * Only where the answer would be no, and never before: some 0.05-0.1 ms. A Python function copes with
 * an exception; what lies between it and the allocator may not. Frames of known objects (the
 * interpreter, and libraries whose record shows no crash) may be refused; with one of anybody else's
 * among them the request is granted. So it is where the stack does not lead to Python: in a thread of
 * a library's own nobody waits for an exception (pyarrow's reader of CSV ends the process there:
 * "ValueOrDie called on an error"), and where code made at run time hides the rest of it. */
#define _GNU_SOURCE 1
#include "gate.h"

#include <Python.h>

#include <dlfcn.h>
#include <execinfo.h>
#include <link.h>
#include <string.h>

#define FRAMES 128

/* The function that runs Python code. Parts of it that a compiler has moved elsewhere have no name:
 * most of it, in the Python 3.14 of Debian. They are known by where they begin, which is learned by
 * calling ourselves once through Python code and once without. What is not learned is not recognised,
 * and the look goes on to the next frame: at worst something is granted. */
static uintptr_t eval_low, eval_high;
#define PARTS 8
static void *parts[PARTS];
static int n_parts;
static void *(*begin_of)(void *);

static int is_part(const void *frame) {
    uintptr_t at = (uintptr_t)frame;
    if (at >= eval_low && at < eval_high) return 1;
    void *begin = n_parts ? begin_of((void *)frame) : NULL;
    for (int i = 0; i < n_parts; i++)
        if (begin == parts[i]) return 1;
    return 0;
}

typedef struct {
    int n;
    void *begins[FRAMES];
} look_t;
static look_t *looking;

static PyObject *look_here(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    void *frames[FRAMES];
    looking->n = backtrace(frames, FRAMES);
    for (int i = 0; i < looking->n; i++) looking->begins[i] = begin_of(frames[i]);
    Py_RETURN_NONE;
}

static int holds(const look_t *look, const void *begin) {
    for (int i = 0; i < look->n; i++)
        if (look->begins[i] == begin) return 1;
    return 0;
}

/* A function with a name is none of its parts: PyObject_Vectorcall leads to C functions, too. */
static int has_name(const void *begin) {
    Dl_info info;
    return dladdr(begin, &info) && info.dli_sname && info.dli_saddr == begin;
}

/* What stands on the stack when Python code calls us and does not when we are called without any. The
 * frames of the import that runs now stand below both: those above them tell. */
static void learn_parts(PyObject *look, PyObject *code) {
    look_t with = {0}, without = {0};
    looking = &with;
    PyObject *first = PyObject_CallNoArgs(code);
    looking = &without;
    PyObject *second = first ? PyObject_CallNoArgs(look) : NULL;
    looking = NULL;
    int with_n = with.n, without_n = without.n;
    while (with_n && without_n && with.begins[with_n - 1] == without.begins[without_n - 1])
        with_n--, without_n--;
    without.n = without_n;
    for (int i = 0; second && i < with_n && n_parts < PARTS; i++) {
        void *begin = with.begins[i];
        if (begin && !has_name(begin) && !holds(&without, begin)) parts[n_parts++] = begin;
    }
    Py_XDECREF(first);
    Py_XDECREF(second);
}

/* Under the GIL; without what it needs, the name alone must do. */
void find_python(void) {
    static PyMethodDef definition = {"look", look_here, METH_NOARGS, NULL};
    void *eval = dlsym(RTLD_DEFAULT, "_PyEval_EvalFrameDefault");
    Dl_info info;
    const ElfW(Sym) *symbol = NULL;
    if (!eval || !dladdr1(eval, &info, (void **)&symbol, RTLD_DL_SYMENT) || !symbol) return;
    eval_low = (uintptr_t)eval;
    eval_high = eval_low + symbol->st_size;
    void *frames[1];
    backtrace(frames, 1); /* loads the unwinder */
    void *unwinder = dlopen("libgcc_s.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (!unwinder) return;
    begin_of = (void *(*)(void *))dlsym(unwinder, "_Unwind_FindEnclosingFunction");
    PyObject *names = PyDict_New(), *look = PyCFunction_New(&definition, NULL), *code = NULL;
    if (begin_of && names && look && !PyDict_SetItemString(names, "look", look))
        code = PyRun_String("lambda: look()", Py_eval_input, names, names);
    if (code) learn_parts(look, code);
    PyErr_Clear();
    Py_XDECREF(code);
    Py_XDECREF(look);
    Py_XDECREF(names);
}

/* torch.empty and its like do not write to what they get, so that asking for 2 GB and touching 100 MB
 * is no overrun. Their allocator is the one that torch.ones uses; only the stack tells them apart.
 * Every torch operator has an exported function of its own, at::_ops::NAME::call, and empty's is the
 * only one on the way. 1: it is; -1: another operator; 0: none of torch's. */
static int is_empty_operator(const void *frame) {
    static const char mark[] = "_ZN2at4_ops";
    Dl_info info;
    if (!dladdr(frame, &info) || !info.dli_sname) return 0;
    if (strncmp(info.dli_sname, mark, sizeof mark - 1)) return 0;
    const char *name = info.dli_sname + sizeof mark - 1;
    while (*name >= '0' && *name <= '9') name++; /* its length */
    return strncmp(name, "empty", 5) && strncmp(name, "new_empty", 9) ? -1 : 1;
}

asker_t who_asks(int look_for_lazy) {
    void *frames[FRAMES];
    int n = backtrace(frames, FRAMES), level = atomic_load(&armed_level);
    asker_t asker = {.known = n == FRAMES}; /* a deep recursion in C, all of it known */
    object_t *ours = object_of((void *)who_asks);
    int first = 0; /* above ours: what looks at the stack for us (a sanitizer's own backtrace) */
    while (first < n && object_of(frames[first]) != ours) first++;
    for (int i = first; i < n; i++) {
        if (is_part(frames[i])) {
            asker.known = 1;
            break;
        }
        object_t *object = object_of(frames[i]);
        asker.stranger = object;
        if (!object || object->kind == KIND_UNKNOWN || object->level > level) {
            asker.known = 0;
            break;
        }
        if (look_for_lazy) {
            int empty = is_empty_operator(frames[i]);
            if (empty) look_for_lazy = empty > 0;
            asker.lazy = empty ? empty > 0 : asker.lazy;
        }
    }
    return asker;
}
