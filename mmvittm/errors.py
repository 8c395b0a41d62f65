class UserError(ValueError):
    """A mistake in a config, checkpoint, image or argument; the message says what is wrong, where, and what to do.

    The tools print the message and exit with status 1. Any other exception is a bug and keeps its traceback.
    """
