/* Python's side: see guardian/gate.py. */
#define _GNU_SOURCE 1
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "gate.h"

#include <execinfo.h>
#include <pthread.h>
#include <unistd.h>

static Py_buffer page;
static pid_t owner;

static void in_child(void) {
    atomic_store(&threshold, NEVER);
    unlock_promises(); /* another thread may have held it */
    disarm_arenas();
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
    if (owner != getpid()) close_usage(); /* a forked child that wants a gate of its own */
    if (open_usage()) {
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
    close_usage();
    Py_RETURN_NONE;
}

static PyObject *gate_open_python(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    open_python();
    Py_RETURN_NONE;
}

static PyObject *gate_know(PyObject *self, PyObject *args) {
    (void)self;
    const char *text;
    int kind, level;
    if (!PyArg_ParseTuple(args, "sii", &text, &kind, &level)) return NULL;
    if (add_rule(text, kind, level)) {
        PyErr_SetString(PyExc_ValueError, "too many rules, or one too long");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *gate_scan(PyObject *self, PyObject *args) {
    (void)self;
    int recording;
    if (!PyArg_ParseTuple(args, "p", &recording)) return NULL;
    find_operator_new();
    return PyLong_FromLong(scan_objects(recording));
}

static PyObject *gate_open_door(PyObject *self, PyObject *args) {
    (void)self;
    const char *object, *symbol;
    if (!PyArg_ParseTuple(args, "ss", &object, &symbol)) return NULL;
    const function_t *function = function_of(symbol);
    if (!function) return PyErr_Format(PyExc_ValueError, "no door for %s", symbol);
    find_operator_new();
    return PyLong_FromLong(open_door(object, function));
}

static PyObject *gate_hooked(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    return PyLong_FromLong(count_hooked());
}

static PyObject *gate_close_doors(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    atomic_store(&threshold, NEVER);
    close_all_doors();
    forget_rules();
    return PyBool_FromLong(close_python());
}

static PyObject *gate_arm(PyObject *self, PyObject *args) {
    (void)self;
    Py_ssize_t least = 16 * MIB;
    int level = LEVEL_SAFE;
    if (!PyArg_ParseTuple(args, "|ni", &least, &level)) return NULL;
    if (!page.obj || owner != getpid()) {
        PyErr_SetString(PyExc_RuntimeError, "watch() a page first");
        return NULL;
    }
    forget_promises();
    forget_passed();
    scan_objects(level == LEVEL_WIDE);
    atomic_store(&armed_level, level);
    atomic_store(&n_events, 0);
    atomic_store(&in_flight, 0);
    atomic_store_explicit(refused_at, 0, memory_order_relaxed);
    arm_arenas();
    atomic_store(&threshold, least < 1 ? 1 : (size_t)least);
    Py_RETURN_NONE;
}

static PyObject *gate_disarm(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    atomic_store(&threshold, NEVER);
    disarm_arenas();
    Py_RETURN_NONE;
}

static PyObject *gate_let_pass(PyObject *self, PyObject *args) {
    (void)self;
    int by;
    if (!PyArg_ParseTuple(args, "i", &by)) return NULL;
    passing += by;
    return PyLong_FromLong(passing);
}

/* The newest are kept; a door of no object is Python's own. */
static PyObject *gate_events(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    unsigned n = atomic_load(&n_events), first = n > EVENTS ? n - EVENTS : 0;
    PyObject *told = PyList_New(0);
    for (unsigned i = first; told && i < n; i++) {
        const event_t *one = &events[i % EVENTS];
        PyObject *row = Py_BuildValue("(isLLL)", one->door, one->object ? one->object->path : "",
                                      (long long)one->asked, (long long)one->used,
                                      (long long)one->limit);
        if (!row || PyList_Append(told, row)) Py_CLEAR(told);
        Py_XDECREF(row);
    }
    return told;
}

static int tell_passed(object_t *one, void *data) {
    PyObject *told = data;
    long long count = atomic_load(&one->passed);
    if (!count) return 0;
    PyObject *row = Py_BuildValue("(sLLL)", one->path, count, (long long)atomic_load(&one->largest),
                                  (long long)atomic_load(&one->left));
    int failed = !row || PyList_Append(told, row);
    Py_XDECREF(row);
    return failed;
}

static PyObject *gate_passed(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    PyObject *told = PyList_New(0);
    if (told && (tell_passed(&nowhere, told) || for_each_object(tell_passed, told)))
        Py_CLEAR(told);
    return told;
}

static int tell_object(object_t *one, void *data) {
    if (!one->high) return 0;
    PyObject *row = Py_BuildValue("(siiI)", one->path, one->kind, one->level, one->doors);
    int failed = !row || PyList_Append(data, row);
    Py_XDECREF(row);
    return failed;
}

static PyObject *gate_objects(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    PyObject *told = PyList_New(0);
    if (told && for_each_object(tell_object, told)) Py_CLEAR(told);
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
    {"know", gate_know, METH_VARARGS, "know(text, kind, level): a rule for objects."},
    {"scan", gate_scan, METH_VARARGS, "scan(recording) -> objects that are new."},
    {"open_door", gate_open_door, METH_VARARGS, "open_door(object, symbol) -> entries changed."},
    {"hooked", gate_hooked, METH_NOARGS, "Entries that lead to a hook now."},
    {"close_doors", gate_close_doors, METH_NOARGS, "Put all back -> whether all could be."},
    {"arm", gate_arm, METH_VARARGS, "arm(threshold, level): refuse what does not fit."},
    {"disarm", gate_disarm, METH_NOARGS, "Refuse nothing."},
    {"let_pass", gate_let_pass, METH_VARARGS, "let_pass(+1 or -1): refuse this thread nothing."},
    {"events", gate_events, METH_NOARGS, "[(door, object, asked, used, limit)] since arm()."},
    {"passed", gate_passed, METH_NOARGS, "[(path, count, largest, left)] granted beyond the limit."},
    {"objects", gate_objects, METH_NOARGS, "[(path, kind, level, doors)] of what is loaded."},
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
    find_python();
    find_called();
    void *first[1];
    backtrace(first, 1); /* loads the unwinder now, and not in the middle of an allocation */
    return PyModule_Create(&definition);
}
