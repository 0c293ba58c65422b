from .classifier import Classifier as Classifier, transfer as transfer
from .linear_probe import Features as Features, features as features, fit_head as fit_head
from .outcomes import Outcomes as Outcomes, evaluate as evaluate
from .prediction import Prediction as Prediction, predict as predict
from .recalibration import recalibrate as recalibrate
