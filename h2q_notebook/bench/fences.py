"""The fences of the process that runs generated code; each is raised once, before that code.

Covers rlimits, no_new_privs, namespaces, Landlock, a seccomp filter and an audit hook, from the
standard library alone. A fence that this system does not offer is reported, never an error. All of
them together are isolation against accidents and plain malice; only a kernel without a hole makes
them a security boundary.

Sources: prctl(2), unshare(2), landlock(7), seccomp(2), and the system call tables of Linux (x86_64,
and asm-generic for aarch64, which no machine of ours has run).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["FENCES", "raise_fences"]

FENCES = ("rlimits", "no-new-privileges", "network-namespace", "landlock", "seccomp", "audit-hook")
"""In the order in which they are raised."""

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 4, 38, 22
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIGKILL = 9


class FenceError(OSError):
    """This system does not offer a fence; the text says why."""


def raise_fences(
    cpu_s: float, memory_bytes: int, readable: Sequence[str], wanted: Sequence[str] = FENCES
) -> dict[str, str]:
    """Raise every wanted fence around this process.

    Args:
        cpu_s: seconds of processor time it may use from now on.
        memory_bytes: its largest address space.
        readable: directories whose files may still be read; all else is closed.
        wanted: some of ``FENCES``; the others are reported as not asked for.

    Returns:
        For each fence ``"held"``, or why it does not hold.
    """
    libc = _libc()
    raisers: dict[str, Callable[[], None]] = {
        "rlimits": lambda: _rlimits(cpu_s, memory_bytes),
        "no-new-privileges": lambda: _no_new_privileges(libc),
        "network-namespace": lambda: _namespaces(libc),
        "landlock": lambda: _landlock(libc, readable),
        "seccomp": lambda: _seccomp(libc),
        "audit-hook": lambda: sys.addaudithook(_audit),
    }
    told = {}
    for name in FENCES:
        if name not in wanted:
            told[name] = "not asked for"
            continue
        try:
            raisers[name]()
            told[name] = "held"
        except (OSError, AttributeError, ImportError, ValueError) as error:
            told[name] = f"{error}" or type(error).__name__
    return told


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _must(result: int, what: str) -> int:
    if result < 0:
        raise FenceError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _rlimits(cpu_s: float, memory_bytes: int) -> None:
    import resource

    used_s = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    cpu = int(used_s + cpu_s) + 1
    limits = [
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_NPROC, 0),  # does not bind root; seccomp does
    ]
    for which, value in limits:
        _, hard = resource.getrlimit(which)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # A second more than allowed, so that the first signal is the one that says why.
        last = allowed + 1 if which == resource.RLIMIT_CPU else allowed
        resource.setrlimit(which, (allowed, last if hard == resource.RLIM_INFINITY else allowed))


def _no_new_privileges(libc: Any) -> None:
    if sys.platform != "linux":
        raise FenceError("needs Linux")
    _must(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    # Nobody of the same user may look into it, and it ends with the thread that began it.
    _must(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")
    _must(libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "prctl")


def _namespaces(libc: Any) -> None:
    if sys.platform != "linux":
        raise FenceError("needs Linux")
    flags = _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS
    if libc.unshare(flags) != 0:
        # Without privileges a user namespace of its own is needed first.
        _must(libc.unshare(flags | _CLONE_NEWUSER), "unshare")


# -- Landlock: files ----------------------------------------------------------------------------

_LANDLOCK = {"create": 444, "add": 445, "restrict": 446}  # the same on every architecture
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# How many rights each version of the interface knows (landlock(7)).
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_FS_RIGHTS_NOW = 16  # version 5 and later
_NET_RIGHTS = 3  # bind and connect of TCP, from version 4
_SCOPES = 3  # abstract sockets and signals outside, from version 6


def _landlock(libc: Any, readable: Sequence[str]) -> None:
    if sys.platform != "linux":
        raise FenceError("needs Linux")
    version = libc.syscall(_LANDLOCK["create"], None, ctypes.c_size_t(0), 1)
    _must(version, "landlock")
    handled = (1 << _FS_RIGHTS.get(version, _FS_RIGHTS_NOW)) - 1
    attributes = struct.pack("<Q", handled)
    if version >= 4:
        attributes += struct.pack("<Q", _NET_RIGHTS)
    if version >= 6:
        attributes += struct.pack("<Q", _SCOPES)
    size = ctypes.c_size_t(len(attributes))
    rules = _must(libc.syscall(_LANDLOCK["create"], attributes, size, 0), "landlock")
    try:
        for path in readable:
            with contextlib.suppress(FileNotFoundError):
                _allow_reading(libc, rules, path)
        _must(libc.syscall(_LANDLOCK["restrict"], rules, 0), "landlock")
    finally:
        os.close(rules)


def _allow_reading(libc: Any, rules: int, path: str) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("<Qi", _READ_FILE | _READ_DIR, fd)
        _must(libc.syscall(_LANDLOCK["add"], rules, 1, rule, 0), "landlock")
    finally:
        os.close(fd)


# -- seccomp: system calls ----------------------------------------------------------------------

# What generated code has no business with, as (x86_64, aarch64); -1 where there is none.
# Reading, arithmetic, memory of its own and threads remain.
_DENIED = {
    "fork": (57, -1), "vfork": (58, -1), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "setsid": (112, 157), "setpgid": (109, 154), "prctl": (157, 167), "arch_prctl": (158, -1),
    "setrlimit": (160, 164), "prlimit64": (302, 261), "setpriority": (141, 140),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122), "ioprio_set": (251, 30), "personality": (135, 92),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272),
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "accept4": (288, 242),
    "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211), "recvmsg": (47, 212),
    "sendmmsg": (307, 269), "recvmmsg": (299, 243), "bind": (49, 200), "listen": (50, 201),
    "socketpair": (53, 199), "setsockopt": (54, 208), "getsockopt": (55, 209),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "memfd_create": (319, 279),
    "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, -1), "fchown": (93, 55), "lchown": (94, -1), "fchownat": (260, 54),
    "utime": (132, -1), "utimes": (235, -1), "futimesat": (261, -1), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "readlink": (89, -1), "readlinkat": (267, 78), "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fspick": (433, 433),
    "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "acct": (163, 89),
    "quotactl": (179, 60), "sethostname": (170, 161), "setdomainname": (171, 162),
    "ioperm": (173, -1), "iopl": (172, -1), "syslog": (103, 116), "vhangup": (153, 58),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "landlock_create_ruleset": (444, 444),
}  # fmt: skip
_CLONE, _CLONE3 = (56, 220), 435
_CLONE_THREAD = 0x00010000
_AUDIT_ARCH = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32 = 0x40000000  # x86_64's other table of calls, which would slip through
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
# Berkeley packet filter: load a word, jump if equal / at least / any bit set, return.
_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_AT_NUMBER, _AT_ARCH, _AT_FIRST_ARGUMENT = 0, 4, 16


def filter_program(machine: str) -> bytes:
    """The filter as the kernel takes it: eight bytes an instruction.

    Raises:
        FenceError: a processor whose table of calls is not known here.
    """
    if machine not in _AUDIT_ARCH:
        raise FenceError(f"no table of system calls for {machine}")
    arch, column = _AUDIT_ARCH[machine]
    program: list[tuple[int, int, int, int]] = [
        (_LD, 0, 0, _AT_ARCH),
        (_JEQ, 1, 0, arch),
        (_RET, 0, 0, _KILL),
        (_LD, 0, 0, _AT_NUMBER),
    ]
    if machine == "x86_64":
        program += [(_JGE, 0, 1, _X32), (_RET, 0, 0, _KILL)]
    # The C library takes clone3's absence for an old kernel's and asks clone, whose flags show.
    program += [(_JEQ, 0, 1, _CLONE3), (_RET, 0, 0, _ERRNO | _ENOSYS)]
    for numbers in _DENIED.values():
        if numbers[column] >= 0:
            program += [(_JEQ, 0, 1, numbers[column]), (_RET, 0, 0, _ERRNO | _EPERM)]
    program += [
        (_JEQ, 0, 3, _CLONE[column]),
        (_LD, 0, 0, _AT_FIRST_ARGUMENT),
        (_JSET, 1, 0, _CLONE_THREAD),
        (_RET, 0, 0, _ERRNO | _EPERM),
        (_RET, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("<HBBI", *one) for one in program)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _seccomp(libc: Any) -> None:
    if sys.platform != "linux" or sys.byteorder != "little":
        raise FenceError("needs Linux on a little-endian processor")
    code = filter_program(platform.machine())
    program = _Program(len(code) // 8, code)
    _must(libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0), "seccomp")


# -- the audit hook: Python's own doors, where the system has no better fence ---------------------

_CLOSED = (
    "socket.", "subprocess.", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn",
    "os.system", "os.kill", "os.killpg", "os.remove", "os.rename", "os.rmdir", "os.mkdir",
    "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.utime", "os.putenv",
    "os.listdrives", "shutil.", "tempfile.", "pty.", "ftplib.", "http.", "urllib.", "smtplib.",
    "ctypes.", "gc.get_objects", "resource.", "signal.pthread_kill", "fcntl.", "sqlite3.",
    "webbrowser.", "winreg.", "msvcrt.", "mmap.",
)  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event == "open":
        flags = args[2] if len(args) > 2 else 0
        if isinstance(flags, int) and flags & _WRITES:
            raise PermissionError("generated code may not write files")
    elif event.startswith(_CLOSED):
        raise PermissionError(f"generated code may not do this ({event})")
