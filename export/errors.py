"""What can go wrong, as the user sees it: one line, and the exit code of its kind (2 and 1)."""


class BadInput(Exception):
    """Input is malformed. The message is one line: the file, the field, what was expected."""


class ExecutorError(Exception):
    """What was built does not run: a failed check, not bad input. The message is one line."""
