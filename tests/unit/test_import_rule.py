"""The house keeps its shape: who may import whom, and how large a room's parts may grow."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "h2q_notebook"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Lower layers first; a room may import the layers under its own, never a sibling.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("units", "places", "whole_file"),
    ("line_file",),
    ("config",),
    ("readings",),
    ("policy",),
    ("guardian",),
    ("cell", "load", "bench"),
    ("startup",),
    ("notebook", "api"),
    ("magics", "extension", "autoload"),
    ("__main__",),
)
# Modules of the top layers that wire their neighbours: that is what they are for.
ALLOWED = {("api", "notebook"), ("extension", "magics")}
DATA = {
    "cell",
    "cell.outcome",
    "readings",
    "readings.figures",
}  # frozen dataclasses that views draw
# Rooms beside the layers: what they may import, and what is said where they import more.
TO_THEMSELVES = {
    "views": ({"errors", "units"}, "views take plain data"),
    "server": (
        {"errors", "units", "places", "whole_file", "readings", "policy", "views"},
        "the server's process knows no kernel",
    ),
}
HEAVY = {"torch", "transformers", "numpy", "pandas", "plotly", "ipywidgets", "anywidget", "psutil"}
SERVERS = {"jupyter_server", "tornado"}
"""Not part of the light core; the server's room alone, which a server loads, may stand on them."""
# Started as `python -I -S`: they and what they import may use the standard library only.
SIDECAR = {"guardian.sidecar", "guardian.watching", "guardian.page"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


OWN = {f"h2q_notebook.{name_of(path)}" for path in MODULES}


def layer_of(room: str) -> int:
    return next((i for i, rooms in enumerate(LAYERS) if room in rooms), -1)


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                yield other
                yield from runtime_nodes(other)
            continue
        yield node
        yield from runtime_nodes(node)


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Modules imported at runtime, from anywhere in the file, each with its line."""
    for node in runtime_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room is meant"
            module = node.module or ""
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def own_imports(path: Path) -> Iterator[tuple[str, int]]:
    tree = ast.parse(path.read_text())
    known = {name_of(module) for module in MODULES}
    for name, line in imports(tree):
        inner = name.removeprefix("h2q_notebook").lstrip(".")
        if name.startswith("h2q_notebook") and inner in known and inner:
            yield inner, line


def problem(importer: str, imported: str) -> str | None:
    """What the rule says against one import, or None."""
    here, there = (name.partition(".")[0] for name in (importer, imported))
    if here == there or not importer or (here, there) in ALLOWED:
        return None  # the facade (no name of its own) knows everybody
    if here in TO_THEMSELVES:
        rooms, words = TO_THEMSELVES[here]
        return None if there in rooms or imported in DATA else words
    if there == "views":
        shows = here == "server" or layer_of(here) >= layer_of("notebook")
        return None if shows else "only the notebook and the server show"
    if layer_of(here) < 0 or layer_of(there) < 0:
        return "a room the rule does not know"
    if layer_of(there) < layer_of(here):
        return None
    return "siblings never import each other" if layer_of(there) == layer_of(here) else "upward"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_rooms_below_its_own(path: Path) -> None:
    importer = name_of(path)
    found = [
        f"{importer}:{line} imports {imported}: {why}"
        for imported, line in own_imports(path)
        if (why := problem(importer, imported))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("policy.trend", "units", True),
        ("guardian.guardian", "policy.strikes", True),
        ("policy.trend", "guardian.page", False),
        ("load.loader", "cell.options", False),
        ("cell.lifecycle", "load.loader", False),
        ("views.report", "cell.outcome", True),
        ("views.report", "guardian.guardian", False),
        ("guardian.guardian", "views.report", False),
        ("magics.load", "notebook.session", True),
        ("notebook.session", "magics.load", False),
        ("startup.system", "notebook.loads", False),
        ("server.watch", "policy.death", True),
        ("server.watch", "notebook.session", False),
        ("server.handlers", "views.metrics", True),
        ("notebook.session", "server.watch", False),
    ],
)
def test_the_rule_itself_tells_right_from_wrong(
    importer: str, imported: str, allowed: bool
) -> None:
    assert (problem(importer, imported) is None) is allowed


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_libraries_are_imported_inside_functions(path: Path) -> None:
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    at_module_level = [
        node
        for node in runtime_nodes(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom)) and id(node) not in inside
    ]
    names = {
        name.split(".")[0]
        for node in at_module_level
        for name, _ in imports(ast.Module(body=[node], type_ignores=[]))
    }
    assert names & (HEAVY if name_of(path).startswith("server") else HEAVY | SERVERS) == set()


def functionless(tree: ast.Module) -> ast.Module:
    """The same module without the bodies of its functions and classes."""
    kept = [
        node
        for node in tree.body
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    ]
    return ast.Module(body=kept, type_ignores=[])


def test_the_watcher_process_needs_the_standard_library_only() -> None:
    todo, seen = set(SIDECAR), set()
    while todo:
        module = todo.pop()
        seen.add(module)
        base = PACKAGE / Path(*module.split("."))
        path = base.with_suffix(".py") if base.with_suffix(".py").exists() else base / "__init__.py"
        top = ast.Module(
            body=[n for n in ast.parse(path.read_text()).body if not isinstance(n, ast.If)],
            type_ignores=[],
        )
        # Functions may import more (psutil where there is no /proc); the top of the module may not.
        names = {name for name, _ in imports(functionless(top))}
        foreign = {name.split(".")[0] for name in names} - sys.stdlib_module_names
        assert foreign <= {"h2q_notebook"}, f"{module} imports {foreign}"
        inner = {name.removeprefix("h2q_notebook.") for name in names if name in OWN}
        todo |= inner - seen


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= 400, f"{name_of(path)} has {lines} lines; split it"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_function_can_be_seen_whole(path: Path) -> None:
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > 60
    ]
    assert long == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is_for_and_what_it_gives(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "no docstring"
    if path.name != "__init__.py":
        assert "from __future__ import annotations" in path.read_text()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_left_to_do_in_the_source(path: Path) -> None:
    text = path.read_text()
    assert not any(word in text for word in ("TODO", "FIXME", "XXX"))
