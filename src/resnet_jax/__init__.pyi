from . import (
    analysis as analysis,
    benchmark as benchmark,
    configs as configs,
    data as data,
    distributed as distributed,
    errors as errors,
    evaluation as evaluation,
    interop as interop,
    models as models,
    report as report,
    runs as runs,
    sweeping as sweeping,
    training as training,
)
from .analysis.complexity import summary as summary
from .evaluation.classifier import Classifier as Classifier, transfer as transfer
from .evaluation.linear_probe import features as features, fit_head as fit_head
from .evaluation.outcomes import evaluate as evaluate
from .evaluation.prediction import predict as predict
from .interop.classifiers import load_torch as load_torch, save_torch as save_torch
from .models.zoo import create as create
from .runs.loading import load as load
from .runs.loop import train as train

__version__: str
