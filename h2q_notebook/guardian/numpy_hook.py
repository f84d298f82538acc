"""Refuses one numpy allocation that does not fit what is left of the budget.

Covers ``malloc`` of numpy's data allocator (NEP 49): ``np.ones``, ``np.outer``, ``astype``,
broadcasting, and pandas wherever it allocates through numpy. Not ``calloc`` (``np.zeros`` stays
lazy), not ``realloc`` (pandas swallows the failure inside its own vectors and then writes out of
bounds: a crash), not pandas' hash tables, and nothing below the threshold.

How: numpy's own handler is copied and only its ``malloc`` pointer changed; calloc, realloc and free
stay the native functions. The new ``malloc`` is a 60-byte native stub: a request below the
threshold jumps straight to numpy's allocator (no Python, about a nanosecond); only a large one asks
Python, and Python's answer is a flag the stub has already set to "grant". That is a matter of
safety before speed: a ctypes callback that ends in an exception (Ctrl-C may arrive on its first
instruction) returns whatever was on the stack, and numpy would write through that pointer. Where no
stub can be made (not Linux on x86-64, or executable pages forbidden) the hook stays off and says
why; there is no variant that calls Python for every allocation (also 6 times slower).

An exception that a signal handler raises while the callback runs (about 20 us per large request)
is printed as "Exception ignored" by ctypes and lost: Ctrl-C must be pressed again; the sidecar's
stop strikes again by itself.

Scope: numpy keeps its handler in a context variable. What runs in the context of the cell sees the
hook, and so do the asyncio tasks it starts; other threads do not (they start in an empty context).
A task that outlives the cell keeps the handler, which is then without effect until the next arm.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import platform
import struct
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["NumpyHook"]

_NAME = b"h2q_budget"
_CAPSULE = b"mem_handler"
_ABI_VERSIONS = (0x1000009, 0x2000000)  # numpy 1.22 to 1.26, numpy 2
_SLOT_ABI, _SLOT_SET, _SLOT_GET, _SLOT_DEFAULT = 0, 304, 305, 306
_NEVER = (1 << 64) - 1  # a threshold no request reaches

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


class _Handler(ctypes.Structure):
    """numpy's ``PyDataMem_Handler``, version 1."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("ctx", ctypes.c_void_p),
        ("malloc", ctypes.c_void_p),
        ("calloc", ctypes.c_void_p),
        ("realloc", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )


class _StubData(ctypes.Structure):
    """What the stub reads; the threshold is changed while armed, the rest never."""

    _fields_ = (
        ("threshold", ctypes.c_uint64),
        ("malloc", ctypes.c_void_p),
        ("callback", ctypes.c_void_p),
    )


def _stub_code(data_address: int) -> bytes:
    """The stub for x86-64 (System V): ``void *malloc(void *ctx, size_t size)``."""
    load = b"\x49\xbb" + struct.pack("<Q", data_address)  # mov r11, data
    pass_on = b"\x41\xff\x63\x08"  # jmp [r11+8]: numpy's malloc, same arguments
    return b"".join(
        (
            b"\xf3\x0f\x1e\xfa",  # endbr64
            load,
            b"\x49\x3b\x33",  # cmp rsi, [r11]
            b"\x73\x04",  # jae slow
            pass_on,
            b"\x57\x56\x6a\x00",  # slow: push rdi; push rsi; push 0 (the answer: grant)
            b"\x48\x89\xe2",  # mov rdx, rsp
            b"\x41\xff\x53\x10",  # call [r11+16]
            b"\x58\x5e\x5f",  # pop rax; pop rsi; pop rdi
            b"\x48\x85\xc0",  # test rax, rax
            b"\x75\x0e",  # jne refuse
            load,
            pass_on,
            b"\x31\xc0\xc3",  # refuse: xor eax, eax; ret
        )
    )


def _why_no_stub() -> str:
    """Why this platform gets no stub; empty where it does."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or struct.calcsize("P") != 8:
        return "needs Linux on x86-64"
    if sys.implementation.name != "cpython":
        return "needs CPython"
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "not on a free-threaded Python"
    return ""


def _api_capsule() -> object:
    """Numpy's C API table."""
    try:
        core = importlib.import_module("numpy._core._multiarray_umath")
    except ImportError:  # numpy 1
        core = importlib.import_module("numpy.core._multiarray_umath")
    return core._ARRAY_API


class NumpyHook:
    """The allocation hook; one per process, made when numpy is there.

    Nothing it makes is ever freed: an array made under the hook is freed through it, whenever.

    Args:
        must_refuse: asked with a size in bytes, at or above *threshold_bytes*; called with the GIL
            held; may raise (the request is then granted).
        threshold_bytes: requests below it are never asked about.
    """

    def __init__(self, must_refuse: Callable[[int], bool], threshold_bytes: int) -> None:
        self.reason = _why_no_stub()
        """Why the hook is off; empty while it can be armed."""
        self._must_refuse = must_refuse
        self._threshold_bytes = max(1, threshold_bytes)
        self._owner_pid = os.getpid()
        self._armed = False
        if not self.reason:
            try:
                self.reason = self._build()
            except Exception as error:  # a numpy unlike any we know must never break a cell
                self.reason = f"this numpy cannot be hooked ({type(error).__name__})"
        if not self.reason:
            _KEEP.append(self)

    def _build(self) -> str:
        """Copy numpy's handler and replace its malloc; why not, or empty."""
        # Prototypes of our own: setting restype on ctypes.pythonapi would change it for everybody.
        pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
            ("PyCapsule_GetPointer", ctypes.pythonapi)
        )
        new = ctypes.PYFUNCTYPE(
            ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
        )(("PyCapsule_New", ctypes.pythonapi))
        api = ctypes.cast(pointer(_api_capsule(), None), ctypes.POINTER(ctypes.c_void_p))
        abi = int(ctypes.PYFUNCTYPE(ctypes.c_uint)(api[_SLOT_ABI] or 0)())
        if abi not in _ABI_VERSIONS:
            return f"numpy ABI {abi:#x} is not known"
        # PYFUNCTYPE: these want the GIL and may set a Python error.
        self._set = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(api[_SLOT_SET] or 0)
        self._get = ctypes.PYFUNCTYPE(ctypes.py_object)(api[_SLOT_GET] or 0)
        self._default = ctypes.cast(
            api[_SLOT_DEFAULT] or 0, ctypes.POINTER(ctypes.py_object)
        ).contents.value
        native = _Handler.from_address(pointer(self._default, _CAPSULE))
        if native.version != 1:
            return f"numpy allocation handler version {native.version} is not known"
        self._callback = _CALLBACK(self._asked)
        self._data = _StubData(
            _NEVER, native.malloc, ctypes.cast(self._callback, ctypes.c_void_p).value
        )
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self._page.write(_stub_code(ctypes.addressof(self._data)))
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        # Written first, executable afterwards: never both at once.
        if protect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC) != 0:
            return f"this system allows no executable page ({os.strerror(ctypes.get_errno())})"
        self._handler = _Handler()
        ctypes.memmove(ctypes.byref(self._handler), ctypes.byref(native), ctypes.sizeof(_Handler))
        self._handler.name = _NAME
        self._handler.malloc = address
        self._capsule: Any = new(ctypes.addressof(self._handler), _CAPSULE, None)
        return ""

    def _asked(self, _ctx: int | None, size_bytes: int, answer_address: int) -> None:
        """A large request: write 1 at *answer_address* to refuse it; leaving it alone grants."""
        try:
            # A forked child has memory of its own, which our reader does not read.
            if os.getpid() == self._owner_pid and self._must_refuse(size_bytes):
                ctypes.c_uint64.from_address(answer_address).value = 1
        except Exception:
            return

    def arm(self) -> bool:
        """Switch on in the caller's context; False (and ``reason``) where that cannot be done."""
        if self.reason:
            return False
        current = self._get()
        if current is not self._default and current is not self._capsule:
            return False
        if current is not self._capsule:
            self._set(self._capsule)
        self._data.threshold = self._threshold_bytes
        self._armed = True
        return True

    def disarm(self) -> None:
        """Switch off; numpy's own handler comes back unless the cell has set another one."""
        if not self._armed:
            return
        self._armed = False
        self._data.threshold = _NEVER
        if self._get() is self._capsule:
            self._set(self._default)


_KEEP: list[NumpyHook] = []
"""Every hook ever built: arrays made under one hold its handler for as long as they live."""
