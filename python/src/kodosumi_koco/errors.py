"""The exceptions of this package. A class's name is the error type that the job's status shows."""


class NonRetryableError(Exception):
    """Another attempt would fail, too: the job ends. Raise it, or a class of your own below it."""


class EntryPointError(NonRetryableError):
    """``spec.entryPoint`` names nothing that can be called."""


class InvalidInputs(NonRetryableError):  # noqa: N818  # the name is the error type
    """The inputs aren't what the entry point takes."""


class UnserializableResult(NonRetryableError):  # noqa: N818  # the name is the error type
    """What the entry point returned can't be written as JSON without loss. The message names the place within it."""


class CheckpointError(NonRetryableError):
    """There is no folder for checkpoints."""


class Cancelled(BaseException):
    """SIGTERM came: the job was cancelled, is evicted, or its pod is ended.

    Raised once, in the main thread, wherever that is. Like ``KeyboardInterrupt`` it passes ``except Exception``. An
    ``async`` entry point gets ``asyncio.CancelledError`` in its task instead. One that catches it and returns a value
    has succeeded with that value.
    """
