"""The C core under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, and its
protocols single-stepped: what a SIGKILL at any instruction leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, SHARED

CORE = ROOT / "sona_shm" / "_core"
#: What the stress program needs: everything that does not know Python.
PURE = [
    "lane.c",
    "layout.c",
    "learner.c",
    "signal.c",
    "outcome.c",
    "routes.c",
    "refit.c",
    "reservoir.c",
    "journal.c",
    "model.c",
    "model_learn.c",
    "tasks.c",
    "ewc.c",
    "kernels.c",
    "decide.c",
    "policy.c",
    "policy_epsilon_greedy.c",
    "policy_maillard.c",
    "policy_softmax.c",
    "policy_squarecb.c",
    "policy_thompson.c",
]
UNIT_TESTS = (
    "tests/test_seed.py",
    "tests/test_bad_input.py",
    "tests/test_arguments.py",
    "tests/test_learning.py",
    "tests/test_policies.py",
    "tests/test_nonfinite.py",
)
COMPILE_SECONDS = 240.0
RUN_SECONDS = 240.0


def run(command: list[str], **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]  # keywords pass through
        command, capture_output=True, text=True, check=False, **settings
    )


@pytest.fixture(scope="module")
def compiler() -> str:
    for name in filter(None, (os.environ.get("CC"), "gcc", "clang")):
        if shutil.which(name):
            return name
    pytest.skip("no C compiler: neither $CC, gcc nor clang is on PATH")


def require_sanitizer(compiler: str, flags: list[str], folder: Path) -> None:
    """Skip where the compiler cannot link, or the machine cannot run, a sanitized program."""
    source = folder / "probe.c"
    source.write_text("int main(void) { return 0; }\n")
    program = str(folder / "probe")
    built = run([compiler, *flags, str(source), "-o", program])
    if built.returncode != 0:
        pytest.skip(f"{compiler} has no {' '.join(flags)}: {built.stderr.strip()[-200:]}")
    started = run([program])
    if started.returncode != 0:
        pytest.skip(f"{' '.join(flags)} does not run here: {started.stderr.strip()[-200:]}")


# ---- AddressSanitizer and UndefinedBehaviorSanitizer: the extension under its unit tests ----

MEMORY_FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def sanitized_tree(compiler: str, folder: Path) -> Path:
    """A copy of package and tests with an extension built for the sanitizers."""
    tree = folder / "tree"
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    for part in ("sona_shm", "tests"):
        shutil.copytree(ROOT / part, tree / part, ignore=ignored)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (module,) = project["tool"]["setuptools"]["ext-modules"]
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    command = [
        compiler,
        *("-shared", "-fPIC", "-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer"),
        *("-Wno-psabi", "-DSONA_SANITIZE", *MEMORY_FLAGS),
        *(f"-I{sysconfig.get_path('include')}", f"-I{np.get_include()}"),
        *module["sources"],
        *("-o", f"sona_shm/_core{suffix}", "-lm"),
    ]
    built = run(command, cwd=tree, timeout=COMPILE_SECONDS)
    assert built.returncode == 0, built.stderr
    return tree


def sanitizer_libraries(compiler: str) -> str:
    """What must be loaded before Python itself, which is not sanitized."""
    names = ["libasan.so", "libubsan.so"]
    if "clang" in compiler:
        names = [f"libclang_rt.asan-{os.uname().machine}.so"]
    paths = [run([compiler, f"-print-file-name={name}"]).stdout.strip() for name in names]
    missing = [path for path in paths if not Path(path).is_absolute()]
    if missing:
        pytest.skip(f"{compiler} does not know where {', '.join(missing)} is")
    return " ".join(paths)


@pytest.fixture(scope="module")
def sanitized(
    compiler: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str]]:
    """The tree, and the environment that Python needs to import from it."""
    folder = tmp_path_factory.mktemp("sanitized")
    require_sanitizer(compiler, MEMORY_FLAGS, folder)
    tree = sanitized_tree(compiler, folder)
    environment = {
        **os.environ,
        "LD_PRELOAD": sanitizer_libraries(compiler),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONMALLOC": "malloc",  # so that every object has red zones of its own
        "PYTHONPATH": str(tree),
        "SONA_SHARED": str(SHARED),
    }
    return tree, environment


def python(
    sanitized: tuple[Path, dict[str, str]], *arguments: str
) -> subprocess.CompletedProcess[str]:
    tree, environment = sanitized
    return run([sys.executable, *arguments], cwd=tree, env=environment, timeout=RUN_SECONDS)


def test_the_sanitizers_are_at_work(sanitized: tuple[Path, dict[str, str]]) -> None:
    """A read behind the end of a segment that lies about its size must be reported."""
    answer = python(
        sanitized,
        "-c",
        "import ctypes, numpy as np\n"
        "from sona_shm import _core\n"
        "print(_core.__file__)\n"
        "short = (ctypes.c_char * 4096)()\n"
        "class Liar(ctypes.Structure): _fields_ = [('b', ctypes.c_char * 10**6)]\n"
        "words = _core.Words(Liar.from_address(ctypes.addressof(short)))\n"
        "print(words.load(4096 + 8))\n",
    )
    assert str(sanitized[0]) in answer.stdout
    assert answer.returncode != 0
    assert "AddressSanitizer" in answer.stderr


def test_unit_tests_under_address_and_undefined_sanitizer(
    sanitized: tuple[Path, dict[str, str]],
) -> None:
    tests = [name for name in UNIT_TESTS if (ROOT / name).exists()]
    answer = python(sanitized, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    output = answer.stdout[-3000:] + answer.stderr[-6000:]
    assert answer.returncode == 0, output
    assert "Sanitizer" not in output and "runtime error" not in output, output
    assert " passed" in answer.stdout


@pytest.mark.parametrize(("kind", "batches"), [("lanes", 800), ("control", 150)])
def test_corruption_under_address_and_undefined_sanitizer(
    sanitized: tuple[Path, dict[str, str]], rng: np.random.Generator, kind: str, batches: int
) -> None:
    seed = str(rng.integers(2**32))
    answer = python(sanitized, "-m", "tests.corruption", kind, seed, str(batches))
    assert answer.returncode == 0, f"seed {seed}: {answer.stderr[-6000:]}"
    assert "Sanitizer" not in answer.stderr and "runtime error" not in answer.stderr


# ---- ThreadSanitizer: lane, cell and learner in C ----

STRESS = ROOT / "tests" / "sanitizers" / "stress.c"


def build(compiler: str, folder: Path, source: Path, *flags: str) -> str:
    program = str(folder / source.stem)
    command = [compiler, "-std=gnu11", "-g", "-Wall", "-Wextra", "-Wno-psabi", *flags]
    sources = [str(source), *(str(CORE / name) for name in PURE)]
    built = run(
        [*command, f"-I{CORE}", *sources, "-o", program, "-lm", "-lpthread"],
        timeout=COMPILE_SECONDS,
    )
    assert built.returncode == 0, built.stderr
    assert "warning:" not in built.stderr, built.stderr
    return program


@pytest.fixture(scope="module")
def thread_sanitized(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("threads")
    flags = ["-fsanitize=thread"] if "clang" in compiler else ["-fsanitize=thread", "-Wno-tsan"]
    require_sanitizer(compiler, flags, folder)
    return build(compiler, folder, STRESS, "-O1", "-DSONA_SANITIZE", *flags)


@pytest.fixture(scope="module")
def optimised(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(compiler, tmp_path_factory.mktemp("optimised"), STRESS, "-O3")


def stress(program: str, mode: str, rounds: int, rng: np.random.Generator) -> None:
    seed = str(rng.integers(2**32))
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
    answer = run([program, mode, str(rounds), seed], env=environment, timeout=RUN_SECONDS)
    assert (answer.returncode, answer.stderr) == (0, ""), f"seed {seed}: {answer.stderr[:6000]}"


@pytest.mark.parametrize(
    ("mode", "rounds"), [("lane", 50_000), ("cell", 50_000), ("engine", 50_000)]
)
def test_stress_under_thread_sanitizer(
    thread_sanitized: str, rng: np.random.Generator, mode: str, rounds: int
) -> None:
    stress(thread_sanitized, mode, rounds, rng)


@pytest.mark.parametrize(
    ("mode", "rounds"), [("lane", 200_000), ("cell", 1_000_000), ("engine", 300_000)]
)
def test_stress_optimised(optimised: str, rng: np.random.Generator, mode: str, rounds: int) -> None:
    stress(optimised, mode, rounds, rng)


# ---- a successor after a kill at every instruction ----

INSTRUCTIONS = ROOT / "tests" / "sanitizers" / "instructions.c"
NOT_PERMITTED = 77


@pytest.mark.parametrize("mode", ["producer", "learner"])
def test_a_kill_at_every_instruction(compiler: str, tmp_path: Path, mode: str) -> None:
    program = build(compiler, tmp_path, INSTRUCTIONS, "-O3", "-Wl,-z,now")
    answer = run([program, mode], timeout=RUN_SECONDS)
    if answer.returncode == NOT_PERMITTED:
        pytest.skip("ptrace is not permitted here")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert int(answer.stdout.split()[1]) > 100
