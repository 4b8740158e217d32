"""The library reference: signatures and docstrings of the public names, as Markdown.

Docstrings are written in Markdown with Google's section names (`Args:`, `Raises:`), so little has
to change: sections become lists of their entries, and everything else is kept.
"""

import importlib
import inspect
import re
import textwrap

MODULES = (
    "regnet_lib",
    "regnet_lib.spatial",
    "regnet_lib.spatial.world",
    "regnet_lib.losses",
    "regnet_lib.metrics",
    "regnet_lib.data",
    "regnet_lib.viewers",
)
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$")
ENTRY = re.compile(r"^(\*{0,2}[\w, ]+?): (.+)$")
MODULE_PREFIX = re.compile(
    r"regnet_lib(?:\.\w+)*\.|(?:jaxtyping|collections\.abc|pathlib|typing|numpy|os)\."
    r"|torch\.(?:nn\.modules\.module\.)?(?=Tensor|Module)"
)
LINE = 88


def reference() -> str:
    """Markdown for the end of `book/reference.md`."""
    return "\n\n".join(_module(name) for name in MODULES) + "\n"


def _module(name: str) -> str:
    module = importlib.import_module(name)
    parts = [f"## `{name}`", markdown(inspect.getdoc(module) or "")]
    for public in module.__all__:
        value = getattr(module, public)
        # The top level repeats a few names of the packages; they are described there.
        repeated = name == MODULES[0] and public in _names_of_packages()
        if (inspect.isclass(value) or inspect.isfunction(value)) and not repeated:
            parts.append(_entry(public, value))
    return "\n\n".join(parts)


def _names_of_packages() -> set[str]:
    return {public for name in MODULES[1:] for public in importlib.import_module(name).__all__}


def _entry(name: str, value: object) -> str:
    document = inspect.getdoc(value) or ""
    code = f"```python\n{signature(name, value)}\n```"
    return "\n\n".join([f"### `{name}`", code, markdown(document)])


def signature(name: str, value: object) -> str:
    """`name(argument: type = default, ...) -> type`, one argument per line where it is long."""
    if inspect.isclass(value) and issubclass(value, Exception):
        return name
    found = inspect.signature(value)
    if inspect.isclass(value):
        found = found.replace(return_annotation=inspect.Signature.empty)
    line = _plain(f"{name}{found}")
    if len(line) <= LINE:
        return line
    arguments = [_plain(str(part)) for part in found.parameters.values()]
    kinds = [part.kind for part in found.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        arguments.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    result = line.rpartition(") -> ")[2]
    end = "" if found.return_annotation is inspect.Signature.empty else f" -> {result}"
    return "\n".join([f"{name}(", *(f"    {argument}," for argument in arguments), f"){end}"])


def _plain(text: str) -> str:
    return MODULE_PREFIX.sub("", text).replace("'", '"')


def markdown(docstring: str) -> str:
    """A docstring with its sections as lists; code stays code, and `<` is no HTML."""
    blocks, lines = [], docstring.splitlines()
    while lines:
        if SECTION.match(lines[0]):
            title = lines.pop(0).rstrip(":")
            body = []
            while lines and (not lines[0].strip() or lines[0].startswith(" ")):
                body.append(lines.pop(0))
            blocks.append(f"{title}\n{_entries(textwrap.dedent(chr(10).join(body)))}\n")
        else:
            blocks.append(_outside_code(lines.pop(0)))
    return "\n".join(blocks)


def _entries(body: str) -> str:
    """`name: text` with continuation lines, as one definition of a list."""
    entries: list[str] = []
    for line in body.splitlines():
        found = ENTRY.match(line)
        if found:
            names = ", ".join(f"`{part.strip()}`" for part in found[1].split(","))
            entries.append(f"{names}: {_outside_code(found[2])}")
        elif entries and line.strip():
            entries[-1] += f" {_outside_code(line.strip())}"
        elif line.strip():
            entries.append(_outside_code(line.strip()))
    return "\n".join(f": {entry}\n" for entry in entries).rstrip()


def _outside_code(line: str) -> str:
    """Escapes what Markdown would read as HTML or as mathematics, except in code."""
    if line.startswith("    ") or line.startswith(">>>"):
        return line
    pieces = line.split("`")
    for even in range(0, len(pieces), 2):
        pieces[even] = pieces[even].replace("<", "&lt;").replace("$", "\\$")
    return "`".join(pieces)
