"""`regnet weights list` and `show`."""

from typing import Annotated

import tyro
from tyro.conf import Positional, arg

commands = tyro.extras.SubcommandApp()


@commands.command(name="list")
def weights_list() -> int:
    """List the published weights: what they register, and how well they did."""
    from regnet_lib.weights import describe_weights, published_weights

    found = published_weights()
    for name, published in found.items():
        card = describe_weights(published)
        print(f"{name}\n  for   {card['images']}\n  test  {card['test']}")
    if not found:
        print("none here: they are part of the repository; set REGNET_HOME to a checkout")
    return 0


@commands.command(name="show")
def weights_show(name: Annotated[Positional[str], arg(metavar="NAME")], /) -> int:
    """Show the card of published weights, and check the file.

    Args:
        name: One of `regnet weights list`.
    """
    from regnet_lib.weights import describe_weights, find_weights

    published = find_weights(name)
    path = published.verified()
    for heading, text in describe_weights(published).items():
        print(f"{heading:11s} {text}")
    print(f"{'file':11s} {path}: complete and unchanged")
    return 0
