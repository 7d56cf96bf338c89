"""How Sphinx makes the site: `make docs`.  Needs no network."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import sona_shm

# ---- the site ----

project = "sona_shm"
release = metadata.version("sona-shm")
html_title = f"sona_shm {release}"
html_theme = "furo"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.autosummary", "myst_parser"]

# ---- the pages ----

# Headings are linked to from other pages by the anchors that forges make of them.
myst_heading_anchors = 3

# ---- the reference ----

napoleon_google_docstring = False
napoleon_use_ivar = True
# Names in single backticks: a link where they name something of ours, else code (autosummary).
default_role = "autolink"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {
    alias: alias for alias in ("ArrayLike", "LearnerKind", "RewardFunction", "PolicyName")
}

# Types are told in words, "array_like of float32, shape (hidden_dim,)", which are no links; so only
# what begins with our name must exist.
nitpick_ignore = [  # what callers get and never name
    ("py:class", "sona_shm.integrations.gunicorn.Arbiter"),
    ("py:class", "sona_shm.integrations.gunicorn.Worker"),
    ("py:class", "sona_shm.learning.off_policy.Estimate"),
    ("py:class", "sona_shm.learning.projection.Projection"),
    ("py:class", "sona_shm.loops.drain.DrainLoop"),
    ("py:class", "sona_shm.shm.layout.Geometry"),
]
nitpick_ignore_regex = [
    ("py:class", r"(?!sona_shm\.).*"),
    ("py:obj", r"[a-z_]+"),  # fields, named in the docstring of their own class
]


def find_public_name(
    _app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element
) -> Any:
    """What a hint or a docstring names otherwise than the reference does.

    A type hint names a class by the module that defines it; a field is told by its class.
    """
    for name in reversed(node["reftarget"].split(".")):
        if name in sona_shm.__all__:
            target = f"sona_shm.{name}"
            return env.domains.python_domain.resolve_xref(
                env, node["refdoc"], env.app.builder, "obj", target, node, content
            )
    return None


def skip_fields(
    _app: Sphinx, _kind: str, _name: str, member: object, skip: bool, _: object
) -> bool:
    """Fields of named tuples are told by their class; Python's own docstrings say only a number."""
    return skip or type(member).__name__ == "_tuplegetter"


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", find_public_name)
    app.connect("autodoc-skip-member", skip_fields)
