"""The one exception for input that cannot be accepted: a line for the user, exit code 2."""


class BadInput(Exception):
    """Input is malformed. The message is one line: the file, the field, what was expected."""
