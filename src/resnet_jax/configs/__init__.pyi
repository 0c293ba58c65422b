from .base import Config as Config
from .fields import Field as Field, described as described
from .parsing import as_source as as_source, load as load
