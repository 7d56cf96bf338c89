"""The build backend of setuptools, told where numpy's headers are.

``pyproject.toml`` declares the extension statically; the one thing it cannot say is the path of
the headers of the numpy that the build environment installed.
"""

import os

import numpy
from setuptools import build_meta

os.environ["CFLAGS"] = f"{os.environ.get('CFLAGS', '')} -I{numpy.get_include()}".strip()

build_editable = build_meta.build_editable
build_sdist = build_meta.build_sdist
build_wheel = build_meta.build_wheel
get_requires_for_build_editable = build_meta.get_requires_for_build_editable
get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist
get_requires_for_build_wheel = build_meta.get_requires_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
