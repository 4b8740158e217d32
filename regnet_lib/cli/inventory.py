"""`regnet models` and `regnet doctor`: what there is, and whether it works."""

from typing import Annotated

from tyro.conf import Positional, arg


def models(name: Annotated[Positional[str | None], arg(metavar="NAME")] = None, /) -> int:
    """List the zoo, or describe one model.

    Args:
        name: A model; without it, all of them.
    """
    import inspect

    from regnet_lib.models import MODELS, create_model
    from regnet_lib.models.cards import model_card, smallest_sides

    if name is not None:
        model = create_model(name)
        for described in (inspect.getmodule(MODELS[name]), MODELS[name]):
            print(f"{inspect.getdoc(described)}\n")
        print(f"parameters: {_parameters(model):,}")
        return 0
    print(f"{'name':18s} {'parameters':>12s}  {'sides':12s} licence of the original")
    for key in MODELS:
        sides = smallest_sides(key)
        rule = "see card" if sides is None else "x{}, >= {}".format(*sides)
        licence = model_card(key).fields["licence"]
        print(f"{key:18s} {_parameters(create_model(key)):>12,}  {rule:12s} {licence}")
    return 0


def doctor() -> int:
    """Show versions, devices and data, and run a self-test of a few seconds."""
    from regnet_lib.doctor import examine

    return examine()


def _parameters(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
