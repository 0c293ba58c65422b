"""Table 2 and Figure 4: plain and residual networks of 18 and 34 layers on ImageNet.

Small form: none would be honest, since 18 layers do not yet degrade; its claims are not run, each with its command.
`figure1_6.py` shows the degradation on digits.

Full form: four trainings of the config `imagenet`, shortcuts A, seed 0, scored with ten crops. Cost: not measured; with
1.8 and 3.6 billion multiply-adds an image, three passes and 600,000 iterations of 256 images make 0.8e18 and 1.7e18
multiply-adds a training.

Expected: plain-34 above plain-18 in training error too, ResNet-34 below ResNet-18, by 2.8 points in the paper.
"""

from pathlib import Path

import experiment
import imagenet
from experiment import Claim, Curves, shown

NAMES = ("plain-18", "ResNet-18", "plain-34", "ResNet-34")


def training(workdir: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Training errors in percent at each line of the log, by network."""
    errors = {}
    for name in NAMES:
        lines = [line for line in imagenet.trained(workdir, name).metrics if "train_error" in line]
        errors[name] = [line["step"] for line in lines], [100 * line["train_error"] for line in lines]
    return errors


def figure_claims(errors: dict[str, tuple[list[int], list[float]]]) -> list[Claim]:
    """Two claims of Figure 4; "shown" where the last training error, a mean of 100 iterations, says so."""
    last = {name: values[-1] for name, (_, values) in errors.items()}
    same = {"data": "ImageNet, training images", "budget": imagenet.RECIPE, "section": "Figure 4", "seeds": 1}
    command = "" if errors else "python experiments/paper/table2_figure4.py --form=full"
    statements = {
        "plain": "The plain network of 34 layers has a higher training error than that of 18.",
        "ResNet": "The residual network of 34 layers has a lower training error than that of 18.",
    }
    claims = []
    for name, statement in statements.items():
        state, ours, figure = "not run", "", None
        if last:
            difference = last[f"{name}-34"] - last[f"{name}-18"]
            state = shown(difference > 0 if name == "plain" else difference < 0)
            ours = f"{name}-18 {last[f'{name}-18']:.2f} %, {name}-34 {last[f'{name}-34']:.2f} %"
            figure = Curves("iterations", "training error (%)", {k: v for k, v in errors.items() if name in k})
        claims.append(
            Claim(statement, "so throughout the training", ours, state, figure=figure, command=command, **same)
        )
    return claims


def small(workdir: Path) -> list[Claim]:
    """Nothing is run."""
    return imagenet.table_claims(2, NAMES, "ten_crop") + figure_claims({})


def full(workdir: Path) -> list[Claim]:
    """On ImageNet."""
    return imagenet.table_claims(2, NAMES, "ten_crop", workdir=workdir) + figure_claims(training(workdir))


if __name__ == "__main__":
    experiment.main(__file__)
