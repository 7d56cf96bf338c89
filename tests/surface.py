"""The public surface of the package: names, attributes, and the examples in their docstrings."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import secrets
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import sona_shm as sona
from tests.conftest import remove_everything

# What dataclasses and named tuples generate, and what Exception brings along.
GENERATED = {"count", "index", "add_note", "with_traceback", "args"}
ERRORS_OF_THE_SYSTEM = {"errno", "filename", "filename2", "strerror", "characters_written"}


class Documented(NamedTuple):
    """Something with a docstring, and the names that its examples may use."""

    name: str
    docstring: str
    names: dict[str, Any]


def _names_of_module_of(thing: Any) -> dict[str, Any]:
    module = inspect.getmodule(thing)
    return dict(vars(module)) if module is not None else {}


def _is_field(owner: type, attribute: str) -> bool:
    fields = getattr(owner, "__dataclass_fields__", {})
    slots = getattr(owner, "__slots__", ())
    return attribute in fields or attribute in slots or attribute in getattr(owner, "_fields", ())


def _documented_attributes(owner: type) -> Iterator[Documented]:
    """Methods, class methods and properties, the inherited ones of this package too."""
    for attribute in sorted(name for name in dir(owner) if not name.startswith("_")):
        if attribute in GENERATED | ERRORS_OF_THE_SYSTEM or _is_field(owner, attribute):
            continue
        home = next(base for base in owner.__mro__ if attribute in vars(base))
        if not home.__module__.startswith("sona_shm"):
            continue
        member = vars(home)[attribute]
        documented = member.fget if isinstance(member, property) else getattr(owner, attribute)
        yield Documented(
            f"{owner.__name__}.{attribute}",
            inspect.getdoc(documented) or "",
            _names_of_module_of(owner),
        )


def public_surface() -> list[Documented]:
    """Every public name of the package, and every public attribute of its classes."""
    found = []
    for name in sona.__all__:
        thing = getattr(sona, name)
        found.append(Documented(name, inspect.getdoc(thing) or "", _names_of_module_of(thing)))
        if inspect.isclass(thing):
            found.extend(_documented_attributes(thing))
    return found


def modules() -> list[ModuleType]:
    """Every module of the package; importing one must do nothing else."""
    paths = pkgutil.walk_packages(sona.__path__, "sona_shm.")
    names = [found.name for found in paths if not found.name.endswith("__main__")]
    return [sona, *map(importlib.import_module, sorted(names))]


def internal_surface() -> list[Documented]:
    """What has examples in all modules and is no part of the public surface."""
    public = {entry.docstring for entry in public_surface()}
    found = []
    for module in modules():
        for name, thing in sorted(vars(module).items()):
            if getattr(thing, "__module__", None) != module.__name__:
                continue
            candidates = [(name, thing)]
            if inspect.isclass(thing):
                candidates += [
                    (f"{name}.{attribute}", member)
                    for attribute, member in vars(thing).items()
                    if isinstance(member, FunctionType | property | classmethod | staticmethod)
                ]
            for label, candidate in candidates:
                docstring = inspect.getdoc(candidate) or ""
                if ">>>" in docstring and docstring not in public:
                    found.append(
                        Documented(f"{module.__name__}.{label}", docstring, dict(vars(module)))
                    )
    return found


def run_examples(entry: Documented) -> doctest.TestResults:
    """Run the examples of one docstring; prints what fails.

    Examples name their engines doc-something, which is one name for all processes of a host, so
    a run gives them a prefix of its own.
    """
    prefix = secrets.token_hex(3)
    docstring = re.sub(r"\bdoc-", f"{prefix}-", entry.docstring)
    parsed = doctest.DocTestParser().get_doctest(docstring, entry.names, entry.name, None, 0)
    runner = doctest.DocTestRunner(optionflags=0)
    try:
        return runner.run(parsed, clear_globs=False)
    finally:
        for engine in set(re.findall(rf"\b{prefix}-[a-z-]+\b", docstring)):
            remove_everything(engine)
