"""The command line: `regnet` or `python -m regnet_lib`.

Exit codes: 0 good, 1 failed, 2 wrong usage, 130 interrupted.
"""

import sys
from pathlib import Path

import tyro

from regnet_lib.cli import datasets, published
from regnet_lib.cli.experiments import evaluate, sweep, table, train
from regnet_lib.cli.inventory import doctor, models
from regnet_lib.cli.registering import register, register_pairs

app = tyro.extras.SubcommandApp()
for command in (register, register_pairs, train, evaluate, sweep, table, models):
    app.command(command)
app.command(published.commands, name="weights", help="Trained networks that come with the book.")
app.command(datasets.commands, name="data", help="List, check and fetch datasets.")
app.command(doctor)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; expected failures become one line on stderr."""
    try:
        return app.cli(args=arguments, prog="regnet") or 0
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        print(f"regnet: {_sentence(error)}", file=sys.stderr)
        return 1
    except MemoryError:
        print(
            "regnet: expected enough memory for these images, found too little. Use smaller ones, "
            "or a machine with more memory.",
            file=sys.stderr,
        )
        return 1
    except Exception as error:
        # A fault of ours: no traceback, but all that a report of it needs.
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
        print(
            f"regnet: unexpected {type(error).__name__} at {where}: {_sentence(error)}. This is a "
            "fault of the program; please report it with the command you used.",
            file=sys.stderr,
        )
        return 1


def _sentence(error: BaseException) -> str:
    """The message on one line; the name of the file first, if it is the system's message."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
