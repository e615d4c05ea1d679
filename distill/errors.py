"""The one error tree: whatever goes wrong on purpose is a DistillError whose message says where, what and the remedy."""


class DistillError(Exception):
    """Base of all errors that distill raises on purpose; the command line prints its message without a traceback."""


class RecordError(DistillError, ValueError):
    """A record, or a file of records, breaks the schema."""


class RenderError(DistillError, ValueError):
    """A record cannot become tokens that some loss would see."""


class ConfigError(DistillError, ValueError):
    """A setting, a combination of settings, or a name in a config is wrong."""


class ModelError(DistillError, RuntimeError):
    """A model or tokenizer cannot be found, loaded, converted or trusted to compute the same thing."""


class TeacherError(DistillError, RuntimeError):
    """A teacher, judge or negator cannot do what was asked, or answered in a form nobody can read."""


class RecipeError(DistillError, RuntimeError):
    """A recipe's inputs, cache or output folder do not fit together."""


class ExportError(DistillError, RuntimeError):
    """An exported model does not reproduce the student it came from."""
