from .base import Config as Config
from .parsing import load as load
