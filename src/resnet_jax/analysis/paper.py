"""The paper's printed values as data (arXiv 1512.03385v1), and the statements about it that can be tested.

Errors and precisions are in percent, multiply-adds in billions, parameters in millions. None is a value that is not
printed. Nothing here was measured with this library.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

from resnet_jax.errors import InputError, did_you_mean


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper.

    Attributes:
      number: as printed.
      title: what is measured on what.
      unit: of all values but those of a column that says otherwise.
      columns: names of the columns of values.
      rows: by the name of a method, a value for each column.
    """

    number: int
    title: str
    unit: str
    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[float | None]]

    def value(self, row: str, column: str = "") -> float | None:
        """A printed value; without a column that of the last one.

        Raises:
          InputError: the table has no such row or column.
        """
        if row not in self.rows:
            raise InputError(
                f"table {self.number} has no row {row!r}: {did_you_mean(row, self.rows)}it has {', '.join(self.rows)}"
            )
        if column and column not in self.columns:
            raise InputError(f"table {self.number} has no column {column!r}: it has {', '.join(self.columns)}")
        return self.rows[row][self.columns.index(column) if column else -1]


def paper_table(number: int) -> PaperTable:
    """A table of the paper by its number, 1 to 14.

    Raises:
      InputError: there is no such table.

    Example:
      >>> import resnet_jax as rj
      >>> rj.analysis.paper_table(6).value("ResNet-20", "error")
      8.75
    """
    if not isinstance(number, Integral) or number not in _TABLES:
        raise InputError(f"the paper has no table {number!r}: its tables are the whole numbers 1 to {len(_TABLES)}")
    return _TABLES[number]


# The order of tables 10 and 11.
_VOC_CLASSES = (
    *("aero", "bike", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("table", "dog", "horse", "mbike", "person", "plant", "sheep", "sofa", "train", "tv"),
)
_TOP = ("top-1", "top-5")
_BOX = ("mAP@.5", "mAP@[.5, .95]")

_ALL = (
    PaperTable(
        # Multiply-adds of convolutions and the classifier; the text has those of VGG-16 and VGG-19 (section 3.3).
        *(1, "ImageNet networks: multiply-adds for an image of 224 x 224", "10^9", ("blocks", "multiply-adds")),
        {
            "ResNet-18": (8, 1.8),
            "ResNet-34": (16, 3.6),
            "ResNet-50": (16, 3.8),
            "ResNet-101": (33, 7.6),
            "ResNet-152": (50, 11.3),
            "VGG-16": (None, 15.3),
            "VGG-19": (None, 19.6),
        },
    ),
    PaperTable(
        *(2, "top-1 error on ImageNet's validation images, ten crops, shortcuts A", "%", ("top-1",)),
        {"plain-18": (27.94,), "ResNet-18": (27.88,), "plain-34": (28.54,), "ResNet-34": (25.03,)},
    ),
    PaperTable(
        *(3, "errors on ImageNet's validation images, ten crops", "%", _TOP),
        {
            "VGG-16": (28.07, 9.33),
            "GoogLeNet": (None, 9.15),
            "PReLU-net": (24.27, 7.38),
            "plain-34": (28.54, 10.02),
            "ResNet-34 A": (25.03, 7.76),
            "ResNet-34 B": (24.52, 7.46),
            "ResNet-34 C": (24.19, 7.40),
            "ResNet-50": (22.85, 6.71),
            "ResNet-101": (21.75, 6.05),
            "ResNet-152": (21.43, 5.71),
        },
    ),
    PaperTable(
        # VGG's and GoogLeNet's entries of ILSVRC'14; the former is on the test images.
        *(4, "errors of single models on ImageNet's validation images, fully convolutional at five scales", "%", _TOP),
        {
            "VGG (ILSVRC'14)": (None, 8.43),
            "GoogLeNet (ILSVRC'14)": (None, 7.89),
            "VGG (v5)": (24.4, 7.1),
            "PReLU-net": (21.59, 5.71),
            "BN-inception": (21.99, 5.81),
            "ResNet-34 B": (21.84, 5.71),
            "ResNet-34 C": (21.53, 5.60),
            "ResNet-50": (20.74, 5.25),
            "ResNet-101": (19.87, 4.60),
            "ResNet-152": (19.38, 4.49),
        },
    ),
    PaperTable(
        *(5, "top-5 error of ensembles on ImageNet's test images", "%", ("top-5",)),
        {
            "VGG (ILSVRC'14)": (7.32,),
            "GoogLeNet (ILSVRC'14)": (6.66,),
            "VGG (v5)": (6.8,),
            "PReLU-net": (4.94,),
            "BN-inception": (4.82,),
            "ResNet (ILSVRC'15)": (3.57,),
        },
    ),
    PaperTable(
        # Of five runs where there is a mean: the error is then that of the best one.
        *(6, "errors on CIFAR-10's test images", "%", ("layers", "parameters (10^6)", "mean", "std", "error")),
        {
            "Maxout": (None, None, None, None, 9.38),
            "NIN": (None, None, None, None, 8.81),
            "DSN": (None, None, None, None, 8.22),
            "FitNet": (19, 2.5, None, None, 8.39),
            "Highway-19": (19, 2.3, 7.72, 0.16, 7.54),
            "Highway-32": (32, 1.25, None, None, 8.80),
            "ResNet-20": (20, 0.27, None, None, 8.75),
            "ResNet-32": (32, 0.46, None, None, 7.51),
            "ResNet-44": (44, 0.66, None, None, 7.17),
            "ResNet-56": (56, 0.85, None, None, 6.97),
            "ResNet-110": (110, 1.7, 6.61, 0.16, 6.43),
            "ResNet-1202": (1202, 19.4, None, None, 7.93),
        },
    ),
    PaperTable(
        *(7, "mAP on PASCAL VOC, baseline Faster R-CNN", "%", ("VOC 07 test", "VOC 12 test")),
        {"VGG-16": (73.2, 70.4), "ResNet-101": (76.4, 73.8)},
    ),
    PaperTable(
        *(8, "mAP on COCO's validation images, baseline Faster R-CNN", "%", _BOX),
        {"VGG-16": (41.5, 21.2), "ResNet-101": (48.4, 27.2)},
    ),
    PaperTable(
        *(9, "mAP on COCO, Faster R-CNN, each row with what the rows above it add", "%"),
        (*(f"val {each}" for each in _BOX), *(f"test-dev {each}" for each in _BOX)),
        {
            "baseline (VGG-16)": (41.5, 21.2, None, None),
            "baseline (ResNet-101)": (48.4, 27.2, None, None),
            "+ box refinement": (49.9, 29.9, None, None),
            "+ context": (51.1, 30.0, 53.3, 32.2),
            "+ multi-scale testing": (53.8, 32.5, 55.7, 34.9),
            "ensemble": (None, None, 59.0, 37.4),
        },
    ),
    PaperTable(
        *(10, "average precision on PASCAL VOC 2007's test images", "%", (*_VOC_CLASSES, "mAP")),
        {
            "baseline (VGG-16)": (
                *(76.5, 79.0, 70.9, 65.5, 52.1, 83.1, 84.7, 86.4, 52.0, 81.9),
                *(65.7, 84.8, 84.6, 77.5, 76.7, 38.8, 73.6, 73.9, 83.0, 72.6, 73.2),
            ),
            "baseline (ResNet-101)": (
                *(79.8, 80.7, 76.2, 68.3, 55.9, 85.1, 85.3, 89.8, 56.7, 87.8),
                *(69.4, 88.3, 88.9, 80.9, 78.4, 41.7, 78.6, 79.8, 85.3, 72.0, 76.4),
            ),
            "baseline+++ (ResNet-101)": (
                *(90.0, 89.6, 87.8, 80.8, 76.1, 89.9, 89.9, 89.6, 75.5, 90.0),
                *(80.7, 89.6, 90.3, 89.1, 88.7, 65.4, 88.1, 85.6, 89.0, 86.8, 85.6),
            ),
        },
    ),
    PaperTable(
        *(11, "average precision on PASCAL VOC 2012's test images", "%", (*_VOC_CLASSES, "mAP")),
        {
            "baseline (VGG-16)": (
                *(84.9, 79.8, 74.3, 53.9, 49.8, 77.5, 75.9, 88.5, 45.6, 77.1),
                *(55.3, 86.9, 81.7, 80.9, 79.6, 40.1, 72.6, 60.9, 81.2, 61.5, 70.4),
            ),
            "baseline (ResNet-101)": (
                *(86.5, 81.6, 77.2, 58.0, 51.0, 78.6, 76.6, 93.2, 48.6, 80.4),
                *(59.0, 92.1, 85.3, 84.8, 80.7, 48.1, 77.3, 66.5, 84.7, 65.6, 73.8),
            ),
            "baseline+++ (ResNet-101)": (
                *(92.1, 88.4, 84.8, 75.9, 71.4, 86.3, 87.8, 94.2, 66.8, 89.4),
                *(69.2, 93.9, 91.9, 90.9, 89.6, 67.9, 88.2, 76.8, 90.3, 80.0, 83.8),
            ),
        },
    ),
    PaperTable(
        *(12, "mAP on ImageNet's detection images", "%", ("val2", "test")),
        {
            "GoogLeNet (ILSVRC'14)": (None, 43.9),
            "single model (ILSVRC'15)": (60.5, 58.8),
            "ensemble (ILSVRC'15)": (63.6, 62.1),
        },
    ),
    PaperTable(
        *(13, "localisation error on ImageNet's validation images", "%", ("true class", "top-5, predicted classes")),
        {
            "VGG-16, 1-crop": (33.1, None),
            "RPN, ResNet-101, 1-crop": (13.3, None),
            "RPN, ResNet-101, dense": (11.7, 14.4),
            "RPN+RCNN, ResNet-101, dense": (None, 10.6),
            "RPN+RCNN, ensemble, dense": (None, 8.9),
        },
    ),
    PaperTable(
        *(14, "top-5 localisation error on ImageNet", "%", ("val", "test")),
        {
            "OverFeat (ILSVRC'13)": (30.0, 29.9),
            "GoogLeNet (ILSVRC'14)": (None, 26.7),
            "VGG (ILSVRC'14)": (26.9, 25.3),
            "ResNet (ILSVRC'15)": (8.9, 9.0),
        },
    ),
)
_TABLES = {table.number: table for table in _ALL}


@dataclass(frozen=True)
class Statement:
    """A statement that notes on the paper make.

    Attributes:
      number: of its own.
      text: in our words.
      status: "true": the paper shows it, or arithmetic does. "hypothesis": the paper believes it. "opinion",
        "imprecise" or "wrong": the paper does not say so.
      section: of the paper, where it has one.
      passes: what something runnable must give.
      where: the experiment of experiments/paper, or the file of tests, that says whether; empty where none does.
    """

    number: int
    text: str
    status: str
    section: str
    passes: str
    where: str


# What notes on the paper say, by number.
STATEMENTS: tuple[Statement, ...] = tuple(
    Statement(i, *each)
    for i, each in enumerate(
        (
            ("Normalised initialisation and batch norm cure vanishing gradients.", "true", "section 4.1",
             "gradient norms of all layers of plain-56 are finite and of one order with batch norm", "gradients"),
            ("Past some depth the training error of plain networks rises: that is no overfitting.", "true", "section 1",
             "plain-56 trains worse than plain-20, ResNet-56 no worse than ResNet-20", "figure1_6"),
            ("A block learns F(x) = H(x) - x and returns F(x) + x, of equal sizes.", "true", "section 3.2",
             "the output less the shortcut is the branch; other sizes need a projection or padding",
             "tests/models/test_resnet.py"),
            ("A block whose weights are zero passes its input on, so that depth need not hurt.", "true", "section 3.1",
             "maps stay the same to the bit when such blocks are put in", "deepening"),
            ("Solvers do not find the solution that construction gives.", "true", "section 1",
             "a trained plain-20 with identity layers has a lower training loss than a trained plain-56", "deepening"),
            ("It is easier to push a residual to zero than to fit the identity.", "hypothesis", "section 3.1",
             "regression of H(x) = x ends lower with a shortcut", "identity_regression"),
            ("Both forms can fit the same functions; how easily differs.", "hypothesis", "section 3.1",
             "regression of another target ends alike", "identity_regression"),
            ("Identity shortcuts add no parameters and no multiplications.", "true", "section 3.2",
             "counts of plain and residual twins are equal, and one train step serves both", "complexity"),
            ("Shortcuts skip two or more layers; skipping one shows no advantage.", "true", "section 3.2",
             "networks with blocks of one layer err no less than plain ones", "one_layer_blocks"),
            ("Multigrid solves for residuals, and converges faster.", "true", "section 2",
             "a V-cycle needs far fewer sweeps than Gauss-Seidel on a Poisson problem", "multigrid"),
            ("A residual network is a highway network whose gates are open.", "imprecise", "section 2",
             "equal to the bit where T = C = 1, which coupled gates cannot be", "highway"),
            ("The gates of highway networks make them harder to train.", "opinion", "section 2",
             "deep highway networks end with a higher training loss than residual ones", "highway"),
            ("The networks follow VGG: 3x3 convolutions, and widths double where maps halve.", "true", "section 3.3",
             "shapes of table 1", "tests/models/test_resnet.py"),
            ("A bottleneck of three layers costs about as much as a block of two.", "true", "section 4.1, figure 5",
             "69,632 weights beside 73,728", "complexity"),
            ("The tables and figures of the results.", "true", "section 4",
             "the tables as data, beside what was run", "tests/analysis/test_paper.py"),
            ("1,202 layers train, and err more than 110.", "true", "section 4.2",
             "training error below 0.1 %, test error above that of 110 layers", "thousand_layers"),
            ("152 layers are eight times VGG's depth and cost less.", "true", "section 1",
             "11.3 beside 15.3 and 19.6", "complexity"),
            ("An ensemble has a top-5 error of 3.57 %.", "true", "section 4.1, table 5",
             "the mean of the members' probabilities", "table5"),
            ("Small data sets train networks of 100 and 1,000 layers.", "true", "section 4.2",
             "ResNet-110 after a warm-up, and ResNet-1202", "table6"),
            ("COCO's mAP gains 28 % relative.", "true", "appendix A, table 8",
             "27.2 beside 21.2", ""),
            ("Responses of residual networks are smaller, and of deeper ones smaller still.", "true", "figure 7",
             "standard deviations: plain above residual, 20 above 56 above 110", "figure7"),
            ("The framework makes a variational autoencoder learn the input's features.", "wrong", "",
             "there is none in the paper; perhaps the bottleneck is meant", ""),
            ("The underlying mapping is H(x) = x.", "imprecise", "section 3.1",
             "H is any mapping, identity a limit", ""),
            ("Pooling makes a network invariant to shift, rotation and scale.", "imprecise", "",
             "changes of the logits: pooling tolerates small shifts alone", "tests/analysis/test_invariance.py"),
            ("Equivariance is T(F(x)) = F(T(x)), invariance F(x) = F(T(x)).", "true", "",
             "exact under circular shifts by the total stride", "equivariance"),
            ("Global average pooling takes any size of image.", "true", "section 3.3",
             "equal to 7x7 pooling at 224", "tests/models/test_resnet.py"),
            ("Class activation maps come of the classifier's weights.", "true", "",
             "mean(CAM) + bias is the logit", "cam"),
            ("Images are resized, and maps sampled.", "true", "section 3.4",
             "the same as a reference; aliasing", "tests/analysis/test_sampling.py"),
            ("A 1x1 convolution is a dense layer on the channels.", "true", "section 3.3",
             "equal outputs", "tests/analysis/test_sampling.py"),
        ),
        start=1,
    )
)  # fmt: skip
