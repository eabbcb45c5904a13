"""The exception tree: one root, one child for each kind of input that can be at fault.

Every message is one sentence that says what is wrong with which value, where, what is accepted, and what to do.
Programming mistakes stay `TypeError` and `ValueError`.
"""


class ShowtellError(Exception):
    """Anything that a user can mend; the command line prints its sentence without a traceback."""


class DataError(ShowtellError):
    """A data set or a file of captions that cannot be read as it is."""


class ImageError(ShowtellError):
    """A picture that is missing, broken, too large or of a format that is not accepted."""


class VocabularyError(ShowtellError):
    """Words and ids that do not belong together."""


class ConfigError(ShowtellError):
    """A configuration, a recipe or an option with an unknown key or a value out of range."""


class BundleError(ShowtellError):
    """A model directory or zip that is damaged, incomplete, or newer than this package."""


class BackendError(ShowtellError):
    """Something the task needs that is not installed or stopped working; the sentence says how to get it."""


class TrainingError(ShowtellError):
    """A run that cannot go on: its loss is not a number, or its checkpoint belongs to another run."""
