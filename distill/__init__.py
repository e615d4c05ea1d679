"""Teacher-student distillation and negative-loss training for language models."""

__version__ = "0.1.0"
