from .classifier import Classifier as Classifier, transfer as transfer
from .outcomes import Outcomes as Outcomes, evaluate as evaluate
from .prediction import Prediction as Prediction, predict as predict
from .recalibration import recalibrate as recalibrate
