"""The one exception a user sees: it names the thing, the place and the remedy."""


class UserError(Exception):
    """Bad input from outside (a file, a key, a path). The CLI prints it as one line and exits with code 2."""
