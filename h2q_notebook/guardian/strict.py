"""``--strict``: a limit on the data segment, set before the cell and lifted after it.

The only thing in pure Python that stops one giant C call before it grows. Opt-in, because it is
not harmless: a library that cannot bear a refused allocation ends the kernel (polars, tokenizers
and every other Rust library abort), lazy mappings count as if they were touched (np.zeros,
mmapped checkpoints), and without a watcher it killed kernels on a plain list loop.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from h2q_notebook.errors import GuardUnavailable
from h2q_notebook.units import MIB

__all__ = ["SLACK_BYTES", "StrictLimit"]

SLACK_BYTES = 256 * MIB
"""Room above the budget: ipykernel's own threads and the clean-up allocate under the same limit;
64 MiB killed the kernel 3 times of 3, 256 MiB never (with the watcher running)."""
_BALLAST_BYTES = 16 * MIB


@dataclass
class StrictLimit:
    """RLIMIT_DATA around one cell.

    Raises:
        GuardUnavailable: this system has no RLIMIT_DATA.
    """

    saved: tuple[int, int] | None = None
    _ballast: bytearray | None = None

    def apply(self, data_bytes: int, budget_bytes: int) -> None:
        """Limit the data segment to *data_bytes* (now) + *budget_bytes* + slack."""
        try:
            import resource
        except ImportError:
            raise GuardUnavailable("--strict: this system has no memory limits to set") from None
        soft, hard = saved = resource.getrlimit(resource.RLIMIT_DATA)
        bound = data_bytes + budget_bytes + SLACK_BYTES
        if soft == resource.RLIM_INFINITY or bound < soft:
            self._ballast = bytearray(_BALLAST_BYTES)  # freed first, so that clean-up has room
            resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
            self.saved = saved

    def move(self, extra_bytes: int) -> None:
        """Raise the limit while the cell runs."""
        if self.saved is None:
            return
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (soft + extra_bytes, hard))

    def lift(self) -> None:
        """Put the limit back to what it was; harmless when called again."""
        self._ballast = None
        if self.saved is None:
            return
        import resource

        saved, self.saved = self.saved, None
        resource.setrlimit(resource.RLIMIT_DATA, saved)
