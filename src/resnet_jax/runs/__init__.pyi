from .evaluate import evaluate_runs as evaluate_runs
from .extraction import extract_features as extract_features
from .inputs import (
    Input as Input,
    Program as Program,
    ResidentInput as ResidentInput,
    StreamedInput as StreamedInput,
    open_input as open_input,
)
from .listing import ListedRun as ListedRun, list_runs as list_runs
from .loading import LoadedRun as LoadedRun, load as load, load_run as load_run, load_state as load_state
from .loop import train as train
from .metadata import CheckpointMetadata as CheckpointMetadata
from .metrics_log import follow_metrics as follow_metrics, read_metrics as read_metrics
from .recalibrate import recalibrate_run as recalibrate_run
from .run import Run as Run
from .tasks import Task as Task, classification as classification, make_task as make_task
