"""The one thing pyproject.toml cannot say: an extension that is built only where it can work.

It is optional: without a compiler h2q installs and works, and its status says what is missing.
"""

import glob
import platform
import sys
import sysconfig

from setuptools import Extension, setup

NATIVE = "h2q_notebook/guardian/native"
GATE = Extension(
    "h2q_notebook.guardian._gate",
    sorted(glob.glob(f"{NATIVE}/*.c")),
    depends=[f"{NATIVE}/gate.h"],
    extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wextra"],
    extra_link_args=["-pthread"],
    optional=True,
)
HERE = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
GLIBC = platform.libc_ver()[0] == "glibc"
# It allocates by other ways than the gate's, and importing the gate would switch its GIL on.
FREE_THREADED = sysconfig.get_config_var("Py_GIL_DISABLED")
setup(ext_modules=[GATE] if HERE and GLIBC and not FREE_THREADED else [])
