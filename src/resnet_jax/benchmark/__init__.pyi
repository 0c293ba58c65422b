from .train import VARIANTS as VARIANTS, Variant as Variant, train_benchmark as train_benchmark
