from .compile import compile_benchmark as compile_benchmark
from .eval import eval_benchmark as eval_benchmark
from .input import input_benchmark as input_benchmark
from .memory import memory_benchmark as memory_benchmark
from .roofline import Work as Work, device_peaks as device_peaks, least_work as least_work
from .train import VARIANTS as VARIANTS, Variant as Variant, train_benchmark as train_benchmark
