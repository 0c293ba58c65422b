"""Table 1, figure 5, table 6 and section 3.3: parameters and multiply-adds, beside VGG's.

Counted from traced shapes by `rj.summary`; nothing is trained and nothing random. It has one form, and it takes
about 10 CPU seconds.

Expect the printed figures within 2 %, which the paper's own rounding needs (3.858 is printed as 3.8), and only where
the stride of a bottleneck is in its first convolution: in the 3x3 one, as most libraries have it, 50 layers cost 4.09.
"""

from pathlib import Path

import experiment
from experiment import Claim, Curves, shown

import resnet_jax as rj

# Decided before the run: of what is printed. Of parameters, half of the last digit that is printed.
TOLERANCE = 0.02
DEPTHS = (18, 34, 50, 101, 152)
CIFAR = {20: 0.005, 32: 0.005, 44: 0.005, 56: 0.005, 110: 0.05, 1202: 0.05}


def billions(name, **fields):
    """Multiply-adds of one image, in 10^9."""
    return rj.summary(rj.create(name, **fields))["multiply_adds"] / 1e9


def block_weights(name):
    """Of the convolutions of the second block of conv2_x."""
    layers = rj.analysis.layer_costs(rj.create(name), 224)
    return sum(each.parameters for each in layers if each.kind == "conv" and each.name.startswith("conv2_x/block2/"))


def small(workdir: Path) -> list[Claim]:
    """The claims; `workdir` stays empty."""
    del workdir
    table_1, table_6 = rj.analysis.paper_table(1), rj.analysis.paper_table(6)
    printed = {name: table_1.value(name) for name in (*(f"ResNet-{depth}" for depth in DEPTHS), "VGG-16", "VGG-19")}
    ours = {name: billions(name.replace("-", "").lower()) for name in printed}
    other = {depth: billions(f"resnet{depth}", bottleneck_stride="3x3") for depth in (50, 101)}
    near = all(abs(ours[name] / each - 1) <= TOLERANCE for name, each in printed.items())
    far = all(abs(each / printed[f"ResNet-{depth}"] - 1) > TOLERANCE for depth, each in other.items())
    millions = {depth: rj.summary(f"cifar_resnet{depth}")["parameters"] / 1e6 for depth in CIFAR}
    rounded = all(abs(millions[d] - table_6.value(f"ResNet-{d}", "parameters (10^6)")) <= CIFAR[d] for d in CIFAR)
    names = [f"{kind}{depth}" for kind, depths in (("cifar_", (20, 56, 110)), ("", (18, 34))) for depth in depths]
    twins = {}
    for name in names:
        kind, depth = name.rstrip("0123456789"), name.removeprefix("cifar_")
        pair = [
            rj.summary(rj.create(f"{kind}resnet{depth}", shortcut="A")),
            rj.summary(rj.create(f"{kind}plain{depth}")),
        ]
        twins[name] = [[each[cost] for each in pair] for cost in ("parameters", "multiply_adds")]
    basic, bottleneck = block_weights("resnet34"), block_weights("resnet50")
    share = ours["ResNet-34"] / ours["VGG-19"]

    def listed(values):
        return ", ".join(f"{name} {value:.3f}" for name, value in values.items())

    figure = Curves("layers", "multiply-adds (10^9)", {
        f"{family}, {whose}": ([int(n.split("-")[1]) for n in values if family in n],
                               [values[n] for n in values if family in n])
        for family in ("ResNet", "VGG") for whose, values in (("ours", ours), ("paper", printed))
    })  # fmt: skip
    return [
        Claim("The networks of table 1 have the multiply-adds that it prints, within 2 %.", listed(printed),
              listed(ours), shown(near), unit="10^9", section="Table 1, section 3.3", figure=figure,
              data="images of 224 x 224", numbers={"multiply-adds (10^9)": ours}),
        Claim("The stride of a bottleneck is in its first convolution: in the 3x3 one the figures are others.",
              "does not say; 50 layers 3.8, 101 layers 7.6", listed(other), shown(far), unit="10^9", section="Table 1",
              data="images of 224 x 224"),
        Claim("152 layers cost less than VGG-16 and VGG-19.", "11.3 beside 15.3 and 19.6",
              f"{ours['ResNet-152']:.1f} beside {ours['VGG-16']:.1f} and {ours['VGG-19']:.1f}",
              shown(ours["ResNet-152"] < min(ours["VGG-16"], ours["VGG-19"])), unit="10^9", section="section 4.1",
              data="images of 224 x 224"),
        Claim("34 layers cost 18 % of VGG-19.", "18 %; its own figures, 3.6 of 19.6, are 18.4 %", f"{share:.1%}",
              shown(round(100 * share) == 18), section="section 3.3", data="images of 224 x 224"),
        Claim("Shortcuts without projections add no parameters and no multiply-adds.", "none",
              f"equal for {', '.join(names)}", shown(all(a == b for costs in twins.values() for a, b in costs)),
              section="section 3.2", numbers={"residual and plain: parameters, multiply-adds": twins}),
        Claim("A bottleneck of 256 channels has about as many weights as a basic block of 64.",
              "similar time complexity", f"{bottleneck:,} beside {basic:,}",
              shown(abs(bottleneck / basic - 1) < 0.1), section="Figure 5"),
        Claim("The residual networks of table 6 have the parameters that it prints.",
              "0.27, 0.46, 0.66, 0.85, 1.7, 19.4", listed(millions), shown(rounded), unit="10^6", section="Table 6"),
    ]  # fmt: skip


if __name__ == "__main__":
    experiment.main(__file__)
