"""The structures of one model that a load or an estimate looks at, each built once.

Every rung of the ladder asks the same questions in one dtype or two: the skeleton, which stored
tensor fills what, where a converted file would be. Reads no weights.
"""

from __future__ import annotations

from h2q_notebook.load.converted import Converted
from h2q_notebook.load.facts import ModelFacts
from h2q_notebook.load.mapping import Filling, map_weights
from h2q_notebook.load.skeleton import Skeleton, build_skeleton

__all__ = ["Structures"]


class Structures:
    """Skeletons and fillings of an inspected model, by dtype.

    Args:
        facts: the inspected directory; one without weights (a config alone) has no fillings.
        task: one of ``classes.TASKS``; None for what its config names.
    """

    def __init__(self, facts: ModelFacts, task: str | None = None) -> None:
        self.facts = facts
        self._task = task
        self._skeletons: dict[str, Skeleton] = {}
        self._fillings: dict[str, tuple[Filling, ...]] = {}
        self._converted: dict[str, Converted] = {}

    @property
    def has_weights(self) -> bool:
        """Whether there are stored tensors to map onto the skeleton."""
        return self.facts.kind == "safetensors"

    def skeleton(self, dtype: str) -> Skeleton:
        """The plain structure in *dtype*.

        Raises:
            BadArgument, ModelRefused, MissingExtra: as ``build_skeleton``.
        """
        if dtype not in self._skeletons:
            self._skeletons[dtype] = build_skeleton(self.facts, dtype, task=self._task)
        return self._skeletons[dtype]

    def fillings(self, dtype: str) -> tuple[Filling, ...]:
        """What fills each parameter.

        Raises:
            ModelRefused: as ``map_weights``.
        """
        if dtype not in self._fillings:
            self._fillings[dtype] = map_weights(self.facts, self.skeleton(dtype))
        return self._fillings[dtype]

    def converted(self, dtype: str) -> Converted:
        """The mappable file in *dtype*, written or not."""
        if dtype not in self._converted:
            self._converted[dtype] = Converted(self.facts, self.fillings(dtype), dtype)
        return self._converted[dtype]

    def drop(self) -> None:
        """Let go of everything; skeletons keep thousands of Python objects alive."""
        self._skeletons.clear()
        self._fillings.clear()
        self._converted.clear()
