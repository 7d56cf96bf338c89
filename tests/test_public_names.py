"""The public surface: every name exported, documented, and shown by an example that runs."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import sona_shm as sona
from sona_shm import errors
from tests.surface import Documented, internal_surface, modules, public_surface, run_examples

PUBLIC = public_surface()
INTERNAL = internal_surface()
EXAMPLES = re.compile(r"^Examples\n-{8}\n", re.MULTILINE)


def named(entries: list[Documented]) -> list[object]:
    return [pytest.param(entry, id=entry.name) for entry in entries]


def test_every_name_in_all_is_exported() -> None:
    assert [name for name in sona.__all__ if not hasattr(sona, name)] == []
    assert len(set(sona.__all__)) == len(sona.__all__)


def test_all_is_sorted() -> None:
    assert list(sona.__all__) == sorted(sona.__all__)


def test_all_holds_every_public_name() -> None:
    defined = {
        name
        for name, thing in vars(sona).items()
        if not name.startswith("_") and not inspect.ismodule(thing)
    }
    assert defined == set(sona.__all__)


def test_the_package_defines_nothing_itself() -> None:
    tree = ast.parse(Path(inspect.getfile(sona)).read_text())
    kinds = {type(node) for node in tree.body}
    assert kinds == {ast.Expr, ast.ImportFrom, ast.Assign}


def test_every_module_has_a_docstring() -> None:
    assert [module.__name__ for module in modules() if not module.__doc__] == []


def test_the_surface_includes_what_comes_from_the_compiled_core() -> None:
    names = {entry.name for entry in PUBLIC}
    assert {"Engine.apply", "Engine.route", "InstantLoop.metrics", "ShapeError"} <= names


@pytest.mark.parametrize("entry", named(PUBLIC))
def test_has_a_docstring_with_an_example(entry: Documented) -> None:
    assert entry.docstring.strip()
    assert EXAMPLES.search(entry.docstring), "no Examples section"
    assert ">>>" in entry.docstring


@pytest.mark.parametrize("entry", named(PUBLIC))
def test_every_example_runs(entry: Documented) -> None:
    results = run_examples(entry)
    assert results.attempted == entry.docstring.count(">>> ")
    assert results.failed == 0


@pytest.mark.parametrize("entry", named(INTERNAL))
def test_every_example_of_an_internal_name_runs(entry: Documented) -> None:
    results = run_examples(entry)
    assert results.attempted == entry.docstring.count(">>> ") > 0
    assert results.failed == 0


def test_a_failing_example_is_noticed() -> None:
    wrong = Documented("wrong", "Examples\n--------\n>>> 1 + 1\n3\n", {})
    assert run_examples(wrong).failed == 1


ERRORS = [
    name
    for name in sona.__all__
    if inspect.isclass(getattr(sona, name)) and issubclass(getattr(sona, name), Exception)
]


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_in_the_tree_that_its_module_draws(name: str) -> None:
    kind = getattr(sona, name)
    assert issubclass(kind, sona.SonaError)
    if kind is not sona.SonaError:
        builtin = next(base for base in kind.__bases__ if base is not sona.SonaError)
        assert re.search(rf"── {name} +\({builtin.__name__}\)", errors.__doc__ or "")
