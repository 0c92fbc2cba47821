"""The errors an annotator may meet; each says what is wrong, where, and what to do.

UncolError
 +- SettingsError    a `--conf` pair is unknown or has a value that is not allowed
 +- RequestError     a request to the server asks for something that cannot be done
 +- BusyError        too many requests are already running or waiting
 +- NoLongerWantedError  the client has gone, or a batch was stopped
 +- ScanError        a scan cannot be read or used
 +- LabelError       a label cannot be read, or does not fit its scan or the app's labels
 +- WeightsError     weights are missing, incomplete, or not the expected ones
 +- TrainingError    a training run cannot start or continue
 +- PacsError        the PACS does not answer, or refuses a result
 +- RealmError       the login service does not answer
 +- StorageError     a file could not be written (disk full, no permission)
"""


class UncolError(Exception):
    """Anything that uncol refuses to do, with a message meant for the annotator."""

    http_status = 400


class SettingsError(UncolError):
    """One or more settings are wrong; the message lists all of them."""


class RequestError(UncolError):
    """A request names something unknown or asks for something impossible."""


class BusyError(UncolError):
    """The server is fully busy; the same request may succeed later."""

    http_status = 429


class NoLongerWantedError(UncolError):
    """Nobody waits for the result; work ends without one."""

    http_status = 499  # as nginx logs it; nobody reads it


class ScanError(UncolError):
    """A scan is missing, damaged or empty; the message names the case and the file."""


class LabelError(UncolError):
    """A label does not fit; the message names the case and the segments."""


class WeightsError(UncolError):
    """Weights are missing, truncated or do not belong to the network."""

    http_status = 503


class TrainingError(UncolError):
    """Training cannot start or continue; nothing that was published has changed."""

    http_status = 409


class PacsError(UncolError):
    """The PACS does not answer, or refuses; what was saved here is kept."""

    http_status = 502


class RealmError(UncolError):
    """The login service does not answer; the same request may succeed later."""

    http_status = 503


class StorageError(UncolError):
    """A file could not be written; what was there before is unchanged."""

    http_status = 507


def why(error: Exception) -> str:
    """Return what was wrong as a part of a sentence, which tells its own remedy."""
    inner = error.__cause__ if isinstance(error, StorageError) else None
    cause = inner or error
    text = str(getattr(cause, "strerror", None) or cause)
    text = text.partition("\nTraceback")[0]  # pydicom tells its own
    return text.strip().rstrip(".") or type(cause).__name__
