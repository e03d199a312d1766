"""The one exception that stands for bad input."""


class InputError(ValueError):
    """What the user gave cannot be used; the message is one sentence in the user's terms.

    The command line prints it and ends with exit code 2; everything else is a defect of ours.
    """
