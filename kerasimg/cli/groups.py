"""The tree of commands: help in panels, and where a command is that was typed at the wrong place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.core import TyperGroup

from kerasimg.errors import CallError

SENTENCE = 200
"""Characters of the first sentence of a command's help; a long one is wrapped in the list of its group, not cut."""


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command below a group: ("train",), ("run", "report")."""
    for name, child in command.commands.items():
        if hasattr(child, "commands"):
            yield from leaves(child, (*path, name))
        else:
            yield (*path, name)


class Group(TyperGroup):
    """A group of commands whose help lists them by panel."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is called. CallError for one that is elsewhere, with its place."""
        if args and args[0] not in self.commands:
            places = [" ".join(words) for words in leaves(ctx.find_root().command) if words[-1] == args[0]]
            if places:
                called = " ".join(["kerasimg", *ctx.command_path.split()[1:], args[0]])
                named = " or ".join(f"kerasimg {place}" for place in places)
                raise CallError(f"there is no '{called}'; moved to: {named}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands, each panel under its title, with one column for all names."""
        width = max(map(len, self.commands)) if self.commands else 0
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None)
            title = panel if isinstance(panel, str) else "Commands"
            panels.setdefault(title, []).append((name.ljust(width), command.get_short_help_str(SENTENCE)))
        for title, rows in panels.items():
            with formatter.section(title):
                formatter.write_dl(rows)
