class UserError(ValueError):
    """A mistake in a config, checkpoint, image or argument: one sentence that says what, where and what to do.

    The tools print the sentence and exit with status 1; anything else they raise is a defect of ours and
    keeps its traceback.
    """
