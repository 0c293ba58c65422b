"""What the experiments on ImageNet share: networks trained by the paper's recipe, and their claims beside a table's.

This file is no experiment. ImageNet is where `resnet-jax prepare --dataset=imagenet2012` puts it.
"""

from collections.abc import Sequence
from pathlib import Path

from experiment import Claim, shown, train

import resnet_jax as rj

RECIPE = "600,000 iterations of 256 images, rate 0.1"
DATA = "ImageNet, 50,000 validation images"
# How far one training's error may be from the paper's, in points; chosen before any was run.
NEAR = 0.5
PROTOCOLS = {"ten_crop": "with ten crops", "dense": "at five scales"}


def fields(name: str, seed: int = 0) -> dict[str, str]:
    """The fields of a network such as "plain-34" or "ResNet-34 B"; without a letter A up to 34 layers, above B."""
    family, _, rest = name.partition("-")
    depth, _, shortcut = rest.partition(" ")
    shortcut = shortcut or ("A" if int(depth) <= 34 else "B")
    return {"model.family": family.lower(), "model.depth": depth, "model.shortcut": shortcut, "seed": str(seed)}


def command(name: str, protocol: str, options: str = "") -> str:
    """What trains and scores it, in a shell."""
    given = " ".join(f"--config.{field}={value}" for field, value in fields(name).items() if field != "seed")
    folder = f"runs/paper/imagenet/{name.replace(' ', '-')}-0"
    return (
        f"resnet-jax train --config=imagenet {given} --workdir={folder} && "
        f"resnet-jax evaluate --workdir={folder} --protocol={protocol}{options}"
    )


def trained(workdir: Path, name: str, seed: int = 0) -> rj.runs.Run:
    """A network in a folder that experiments share; it goes on where it was stopped."""
    folder = workdir.parent / "imagenet" / f"{name.replace(' ', '-')}-{seed}"
    return train(rj.configs.load("imagenet", fields(name, seed)), folder)


def table_claims(
    number: int, names: Sequence[str], protocol: str, options: str = "", workdir: Path | None = None
) -> list[Claim]:
    """A claim for each printed error of these rows; trained and scored where there is a workdir, else not run.

    One seed: "shown" where the error is at most `NEAR` points from the printed one.
    """
    table, claims = rj.analysis.paper_table(number), []
    for name in names:
        scales = (224, 256, 384, 480, 640) if protocol == "dense" else None
        found = None
        if workdir is not None:
            run = trained(workdir, name)
            found = rj.runs.evaluate_runs([run.workdir], protocol=protocol, scales=scales)
        for column in table.columns:
            paper = table.value(name, column)
            if paper is None:
                continue
            ours = [] if found is None else [100 * found["error" if column == "top-1" else "top5_error"]]
            claims.append(
                Claim(
                    statement=f"{name} has this {column} error {PROTOCOLS[protocol]}.",
                    paper=paper,
                    ours=ours,
                    state=shown(abs(ours[0] - paper) <= NEAR) if ours else "not run",
                    unit="%",
                    seeds=1,
                    data=DATA,
                    budget=RECIPE,
                    section=f"Table {number}",
                    command="" if ours else command(name, protocol, options),
                )
            )
    return claims
