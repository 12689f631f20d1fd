"""The numbers of the house style, measured. CONTRIBUTING.md says why each is what it is.

A failure names file and line. Where a rule makes a piece of code worse, list the piece below with
the reason: that is what the tables are for.
"""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FUNCTION_LINES_MAX = 60
FUNCTION_LINES_MEDIAN = 8
FUNCTION_LINES_P90 = 30
FILE_LINES_MAX = 500
LINE_CHARACTERS_MAX = 100
PARAMETERS_MAX = 6
NESTING_MAX = 3
BROAD_EXCEPTS_MAX = 4
TESTS_PER_SOURCE_LINE = 0.9

DATA_FILES = {"scripts/demo_text.py", "scripts/demo_words.py"}
"""Tables written as Python: their length and their lines say nothing of their complexity."""
BROAD_EXCEPTS = {
    "edgeserve/gateway/edge/middleware.py": "the HTTP border: a fault of ours is still an answer",
    "edgeserve/gateway/text/vocabulary.py": "the border of a library that raises bare Exception",
    "edgeserve/worker/device_thread.py": "the device's border: its gateway hears of what happened",
    "edgeserve/worker/loading.py": "the border of loading: whatever happens ends it as an error",
}
LOCAL_IMPORTS = {
    "edgeserve/cli.py": "--help must not wait for torch",
    "edgeserve/gateway/text/grammar.py": "llguidance is imported beside the loading of the stages",
    "edgeserve/gateway/serve.py": "OpenTelemetry is an extra",
    "edgeserve/hugging_face/find.py": "a second to import, for models of the hub alone",
    "edgeserve/probe/plot.py": "matplotlib is an extra, and slow to import",
    "edgeserve/worker/stage.py": "Triton is there only where PyTorch was built for CUDA",
}
PRINTS = ("edgeserve/cli.py", "edgeserve/probe/")
READS_ENVIRONMENT = "edgeserve/config.py"
ASKS_TIME = "edgeserve/clock.py"
FAMILIES = {"llama", "mistral", "qwen2", "qwen3"}
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "shared", "manager"}

_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_BLOCKS = (*_LOOPS, ast.If, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _files(*folders: str) -> list[str]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    names = (path.relative_to(ROOT).as_posix() for path in found)
    return sorted(name for name in names if "/pb/" not in name and "/." not in name)


SOURCES = _files("edgeserve")
TESTS = _files("tests")
EVERYTHING = SOURCES + TESTS + _files("scripts")


# -- measures


@cache
def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def _tree(name: str) -> ast.Module:
    return ast.parse(_text(name))


def _functions(tree: ast.AST) -> list[_Function]:
    return [each for each in ast.walk(tree) if isinstance(each, _Function)]


def function_lines(function: _Function) -> int:
    """From `def` to the end, without the docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is None:
        return lines
    docstring = function.body[0]
    return lines - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def parameters(function: _Function) -> int:
    """What a caller may give: `self` and `cls` are not given."""
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    stars = [each for each in (given.vararg, given.kwarg) if each]
    return len([name for name in names if name not in ("self", "cls")]) + len(stars)


def nesting(function: _Function) -> int:
    """The deepest if, for, while, with, try or match in another. `elif` is as deep as its `if`."""
    return max((_depth(each) for each in function.body), default=0)


def _depth(node: ast.AST, *, is_elif: bool = False) -> int:
    if isinstance(node, _Function | ast.Lambda | ast.ClassDef):
        return 0
    own = int(isinstance(node, _BLOCKS) and not is_elif)
    return own + max(
        (_depth(child, is_elif=_is_elif(node, child)) for child in ast.iter_child_nodes(node)),
        default=0,
    )


def _is_elif(parent: ast.AST, child: ast.AST) -> bool:
    return isinstance(parent, ast.If) and isinstance(child, ast.If) and parent.orelse == [child]


def broad_excepts(tree: ast.AST) -> list[int]:
    """Lines of `except:`, `except Exception` and `except BaseException`, alone or among others."""
    handlers = (each for each in ast.walk(tree) if isinstance(each, ast.ExceptHandler))
    return [each.lineno for each in handlers if each.type is None or _is_broad(each.type)]


def _is_broad(kind: ast.expr) -> bool:
    names = {each.id for each in ast.walk(kind) if isinstance(each, ast.Name)}
    return bool(names & {"Exception", "BaseException"})


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Modules by full name, and where."""
    for each in ast.walk(tree):
        if isinstance(each, ast.Import):
            yield from ((alias.name, each.lineno) for alias in each.names)
        elif isinstance(each, ast.ImportFrom):
            yield each.module or "", each.lineno


def local_imports(tree: ast.AST) -> list[int]:
    """Lines of imports inside of functions."""
    inside = (each for function in _functions(tree) for each in ast.walk(function))
    return sorted({each.lineno for each in inside if isinstance(each, ast.Import | ast.ImportFrom)})


def names_used(tree: ast.AST, names: set[str]) -> list[int]:
    """Lines where one of `names` is read, as a name or an attribute, or imported."""
    said = ((getattr(each, "lineno", 0), _said(each)) for each in ast.walk(tree))
    return [line for line, word in said if word in names]


def _said(node: ast.AST) -> str:
    match node:
        case ast.Name(id=word) | ast.Attribute(attr=word) | ast.alias(name=word):
            return word
        case ast.Assert():
            return "assert"
    return ""


def assert_none(offences: Iterable[str]) -> None:
    """Each one reads 'file:line what'."""
    found = sorted(offences)

    assert not found, "\n" + "\n".join(found)


def _each_function(names: Iterable[str]) -> Iterator[tuple[str, _Function]]:
    """With where it stands, as 'file:line name'."""
    for name in names:
        for function in _functions(_tree(name)):
            yield f"{name}:{function.lineno} {function.name}", function


# -- the package


def test_a_function_fits_on_a_screen() -> None:
    assert_none(
        f"{where} has {function_lines(function)} lines"
        for where, function in _each_function(EVERYTHING)
        if function_lines(function) > FUNCTION_LINES_MAX
    )


def test_most_functions_fit_on_half_a_screen() -> None:
    lengths = [function_lines(function) for _, function in _each_function(SOURCES)]

    assert statistics.median(lengths) <= FUNCTION_LINES_MEDIAN
    assert statistics.quantiles(lengths, n=10)[-1] <= FUNCTION_LINES_P90


def test_a_file_is_no_longer_than_a_sitting() -> None:
    lengths = {name: len(_text(name).splitlines()) for name in EVERYTHING}

    assert_none(
        f"{name} has {lines} lines"
        for name, lines in lengths.items()
        if lines > FILE_LINES_MAX and name not in DATA_FILES
    )


def test_two_files_fit_side_by_side() -> None:
    assert_none(
        f"{name}:{number} has {len(line)} characters"
        for name in EVERYTHING
        for number, line in enumerate(_text(name).splitlines(), start=1)
        if len(line) > LINE_CHARACTERS_MAX and name not in DATA_FILES
    )


def test_a_function_takes_few_parameters() -> None:
    assert_none(
        f"{where} takes {parameters(function)}; make a dataclass of some"
        for where, function in _each_function(SOURCES)
        if parameters(function) > PARAMETERS_MAX and not _is_kernel(function)
    )


def _is_kernel(function: _Function) -> bool:
    """A kernel takes pointers and sizes one by one: it knows no dataclass."""
    return any("triton.jit" in ast.unparse(each) for each in function.decorator_list)


def test_blocks_are_not_nested_deeply() -> None:
    assert_none(
        f"{where} is {nesting(function)} deep"
        for where, function in _each_function(EVERYTHING)
        if nesting(function) > NESTING_MAX
    )


def test_a_module_opens_with_why_it_exists() -> None:
    assert_none(
        f"{name}:1 has no docstring"
        for name in EVERYTHING
        if _tree(name).body and not ast.get_docstring(_tree(name))
    )


def test_a_package_says_what_it_does_not_cover() -> None:
    assert_none(
        f"{name}:1 has no 'Not covered: '"
        for name in SOURCES
        if name.endswith("/__init__.py")
        and "Not covered: " not in (ast.get_docstring(_tree(name)) or "")
    )


def test_a_module_is_named_after_what_it_does() -> None:
    assert_none(
        name
        for name in EVERYTHING
        if VAGUE_NAMES & set(re.split(r"[/_.]", name.removesuffix(".py")))
    )


def test_no_two_classes_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for file in SOURCES:
        for each in ast.walk(_tree(file)):
            if isinstance(each, ast.ClassDef):
                places.setdefault(each.name, []).append(f"{file}:{each.lineno}")

    assert_none(f"{name}: {', '.join(of)}" for name, of in places.items() if len(of) > 1)


def test_nothing_is_global() -> None:
    assert_none(
        f"{name}:{each.lineno}"
        for name in SOURCES
        for each in ast.walk(_tree(name))
        if isinstance(each, ast.Global)
    )


def test_only_the_command_line_prints() -> None:
    assert_none(
        f"{name}:{each.lineno}"
        for name in SOURCES
        for each in ast.walk(_tree(name))
        if isinstance(each, ast.Call) and getattr(each.func, "id", "") == "print"
        if not name.startswith(PRINTS)
    )


def test_only_the_settings_read_the_environment() -> None:
    assert_none(
        f"{name}:{line}"
        for name in SOURCES
        if name != READS_ENVIRONMENT
        for line in names_used(_tree(name), {"environ", "getenv", "environb", "getenvb"})
    )


def test_only_the_clock_asks_the_time() -> None:
    assert_none(
        f"{name}:{line}"
        for name in SOURCES
        if name != ASKS_TIME
        for module, line in imports(_tree(name))
        if module in {"time", "datetime"}
    )


def test_a_broad_except_guards_a_border_that_is_listed_here() -> None:
    found = {name: broad_excepts(_tree(name)) for name in SOURCES}

    assert_none(f"{name}:{line}" for name in found.keys() - BROAD_EXCEPTS for line in found[name])
    assert sum(map(len, found.values())) <= BROAD_EXCEPTS_MAX
    assert all(found.get(name) for name in BROAD_EXCEPTS), "the list holds what is gone"


def test_imports_stand_at_the_top() -> None:
    assert_none(
        f"{name}:{line}"
        for name in SOURCES
        if name not in LOCAL_IMPORTS
        for line in local_imports(_tree(name))
    )


def test_only_families_name_a_family() -> None:
    """As a value, or by importing its module. Prose and examples may say it."""
    outside = [name for name in SOURCES if not name.startswith("edgeserve/families/")]
    modules = [
        f"{name}:{line} {module}"
        for name in outside
        for module, line in imports(_tree(name))
        if module.rpartition(".")[2] in FAMILIES
    ]
    values = [
        f"{name}:{each.lineno} {each.value!r}"
        for name in outside
        for each in ast.walk(_tree(name))
        if isinstance(each, ast.Constant) and each.value in FAMILIES
    ]

    assert "edgeserve/families/llama.py" in SOURCES
    assert_none(modules + values)


# -- the tests


def test_tests_use_fakes_and_no_mocks() -> None:
    assert_none(
        f"{name}:{line}"
        for name in TESTS
        for module, line in imports(_tree(name))
        if "mock" in module
    )


def test_every_test_asserts_something() -> None:
    """By itself, by `pytest.raises`, or through what it calls in the tests or in a library."""
    asserting = _asserting([_tree(name) for name in TESTS])
    assert_none(
        where
        for where, function in _each_function(TESTS)
        if function.name.startswith("test_") and function.name not in asserting
    )


def _asserting(trees: Iterable[ast.AST]) -> set[str]:
    """Names of the functions and classes that assert, directly or through one another."""
    kinds = (*_FUNCTIONS, ast.ClassDef)
    defined = [each for tree in trees for each in ast.walk(tree) if isinstance(each, kinds)]
    names = {each: {_said(inside) for inside in ast.walk(each)} for each in defined}
    found = {each.name for each in defined if any(map(_is_assertion, names[each]))}
    while more := {each.name for each in defined if names[each] & found} - found:
        found |= more
    return found


def _is_assertion(name: str) -> bool:
    """`assert` itself, what libraries call theirs, and `suppress`: any other error fails."""
    return name.startswith("assert") or name in {"raises", "suppress"}


def test_tests_are_nearly_as_long_as_what_they_test() -> None:
    source = sum(len(_text(name).splitlines()) for name in SOURCES)
    tests = sum(len(_text(name).splitlines()) for name in TESTS)

    assert tests >= TESTS_PER_SOURCE_LINE * source, f"{tests} lines of tests for {source}"


# -- the measures themselves


def _function(text: str) -> _Function:
    return _functions(ast.parse(text))[0]


def test_a_docstring_does_not_count_as_length() -> None:
    bare = "def f(x):\n    y = x\n    return y\n"
    told = 'def f(x):\n    """What.\n\n    Why.\n    """\n    y = x\n    return y\n'

    assert function_lines(_function(bare)) == function_lines(_function(told)) == 3


def test_parameters_are_those_that_a_caller_gives() -> None:
    assert parameters(_function("def f(self, a, /, b, *rest, c=1, **more): ...")) == 5


def test_nesting_counts_blocks_and_not_the_branches_of_one() -> None:
    flat = "def f(x):\n    if x:\n        a()\n    elif y:\n        b()\n    elif z:\n        c()\n"
    deep = "def f(x):\n    for a in x:\n        with a:\n            if a:\n                b()\n"
    inner = "def f(x):\n    if x:\n        def g():\n            if y:\n                h()\n"

    assert nesting(_function(flat)) == 1
    assert nesting(_function(deep)) == 3
    assert nesting(_function(inner)) == 1


@pytest.mark.parametrize(
    ("clause", "is_broad"),
    [
        ("except:", True),
        ("except Exception:", True),
        ("except (ValueError, BaseException) as error:", True),
        ("except ValueError:", False),
        ("except ExceptionGroup:", False),
    ],
)
def test_a_broad_except_is_known_when_seen(clause: str, is_broad: bool) -> None:
    assert bool(broad_excepts(ast.parse(f"try:\n    f()\n{clause}\n    pass\n"))) == is_broad


def test_a_local_import_is_known_when_seen() -> None:
    tree = ast.parse("import os\ntry:\n    import uvloop\nexcept ImportError:\n    pass\n")
    lazy = ast.parse("def f():\n    if x:\n        from os import path\n")

    assert local_imports(tree) == []
    assert local_imports(lazy) == [3]


def test_a_test_may_assert_through_what_it_calls() -> None:
    tree = ast.parse(
        "def check(x): assert x\n"
        "def story(): check(1)\n"
        "def test_told(): story()\n"
        "def test_idle(): print(1)\n"
    )

    assert _asserting([tree]) == {"check", "story", "test_told"}


def test_the_environment_is_known_when_read() -> None:
    texts = ["import os\nos.environ['X']", "from os import getenv", "os.getenv('X')"]

    assert all(names_used(ast.parse(text), {"environ", "getenv"}) for text in texts)
    assert names_used(ast.parse("def f(environment): return environment"), {"environ"}) == []
