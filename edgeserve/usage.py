"""How the command line is read, and what it says when it cannot be: by a command of its own usage,
with a suggestion, and in help with examples.

Refuses to know which commands there are.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A mistyped flag is told by the command that it was meant for. Flags are not abbreviated."""

    def __init__(self, *, examples: Sequence[str] = (), **options: Any) -> None:
        epilog = "\n  ".join(["examples:", *examples]) if examples else None
        super().__init__(
            **{
                "allow_abbrev": False,
                "epilog": epilog,
                "formatter_class": _Formatter,
                **options,
            }
        )

    def parse_known_args(  # type: ignore[override]  # argparse's own signature has overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """argparse would let the program say what one of its commands did not understand."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._stranger(unknown[0]))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2, bad usage."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}\n{self.prog} --help tells what there is\n")

    def _stranger(self, argument: str) -> str:
        if not argument.startswith("-"):
            return f"{argument!r} is one argument too many: every setting is a flag"
        flag = argument.partition("=")[0]
        flags = [each for each in self._option_string_actions if each.startswith("--")]
        return f"there is no flag {flag}{suggestion(flag, flags)}"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Examples stay line by line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)


def complete_with(action: argparse.Action, words: Callable[[], Sequence[str]]) -> None:
    """What a shell offers as the flag's value. `words` is asked only then."""
    action.completer = lambda prefix, **_: [  # type: ignore[attr-defined]  # argcomplete's
        word for word in words() if word.startswith(prefix)
    ]


def suggestion(word: str, known: Sequence[str]) -> str:
    """To go behind a sentence that says what is not there."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
