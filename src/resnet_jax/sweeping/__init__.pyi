from .plan import sweep as sweep
