"""python -m model.zoo: which models have a name, and how is one trained again?"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import tyro

from model.zoo import ZooModel, zoo
from model.zoo._course import run_course


def list_() -> int:
    """List the models that have a name, with the measured quality of those that prosect trained itself."""
    for name, entry in zoo().items():
        card = entry.card()
        sys.stdout.write(f"{name:18} {entry.title}{'' if card is None else '; ' + first_quality(card['quality'])}\n")
    return 0


def train(name: tyro.conf.Positional[str], out: Path | None = None, seed: int = 0, steps: int | None = None) -> int:
    """Train a model of the zoo by its recipe, and print the folder with weights, tokenizers and card.

    Args:
        name: one of the models that prosect trains itself
        out: folder for the model (default: runs/zoo/NAME)
        seed: of the weights before training, the order of the batches, dropout, and whatever data are drawn
        steps: fewer steps than the recipe's, for a trial
    """
    entry = _trained(name)
    folder = out or Path("runs") / "zoo" / name
    card = run_course(entry.course, folder, name=name, licence=entry.licence, seed=seed, steps=steps)
    sys.stderr.write(f"{name}: {first_quality(card['quality'])} after {card['seconds']} s\n")
    sys.stdout.write(f"{folder}\n")
    return 0


def first_quality(quality: dict[str, float]) -> str:
    """The number that counts, in words.

    >>> first_quality({"phoneme_error_rate": 0.0986, "n_held_out_words": 5844})
    'phoneme error rate 0.0986'
    """
    name, value = next(iter(quality.items()))
    return f"{name.replace('_', ' ')} {value:.3g}"


def _trained(name: str) -> ZooModel:
    trained = {known: entry for known, entry in zoo().items() if entry.course is not None}
    if name not in trained:
        near = difflib.get_close_matches(name, trained, n=1, cutoff=0.65)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"there is no recipe for {name!r}, only for {', '.join(trained)}{hint}")
    return trained[name]


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 a mistake of the user's, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    app = tyro.extras.SubcommandApp()
    app.command(list_, name="list")
    app.command(train, name="train")
    try:
        return app.cli(prog="python -m model.zoo", description=__doc__, args=arguments or ["list"])
    except (ValueError, OSError) as mistake:
        sys.stderr.write(f"model.zoo: {mistake}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("model.zoo: interrupted; nothing was written\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
