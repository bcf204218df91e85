"""Notices of the file system: where something may have happened, as soon as it has."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator

from watchfiles import Change, watch
from watchfiles.main import FileChange

logger = logging.getLogger(__name__)

# Notices that come within this are passed on together.
_GATHER_MILLISECONDS = 200
_STEP_MILLISECONDS = 50
_TURN_MILLISECONDS = 1_000
_AGAIN_SECONDS = 1.0


class Notices:
    """Listens at one directory, in a thread of its own. Nothing depends on its being complete."""

    def __init__(
        self,
        root: str,
        *,
        recursive: bool,
        tell: Callable[[set[str]], None],
        lost: Callable[[], None],
    ) -> None:
        """Start to listen.

        Args:
            root: The directory.
            recursive: Whether to listen at all below it.
            tell: Called with paths, from the thread.
            lost: Called, from the thread, when notices may have been lost.
        """
        self._root = root
        self._recursive = recursive
        self._tell = tell
        self._lost = lost
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="netscript-file-notices", daemon=True
        )
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether there will be no more, because it was stopped or has failed."""
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Stop listening; it takes a twentieth of a second, which is not waited for."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen()
            except FileNotFoundError:
                pass
            except (OSError, RuntimeError, UnicodeError) as error:
                if not _is_of_one_name(error):
                    logger.warning(
                        "there are no notices for %r, which is looked at now and then: %s",
                        self._root, _told(error),
                    )  # fmt: skip
                    return
                self._lost()
            self._stopped.wait(_AGAIN_SECONDS)

    def _listen(self) -> None:
        """Pass on what is noticed, until the directory is gone."""
        is_new = True
        for changes in _listen(self._root, self._stopped, recursive=self._recursive):
            if is_new:  # what came before is not noticed
                self._lost()
                is_new = False
            if changes:
                self._tell({path for _, path in changes})
            if (Change.deleted, self._root) in changes:
                return


def fault_of(root: str, *, recursive: bool) -> str | None:
    """Return why one can't listen at a directory, None if one can."""
    try:
        next(_listen(root, threading.Event(), recursive=recursive, turn=1))
    except (OSError, RuntimeError, UnicodeError) as error:
        return _told(error)
    return None


def _is_of_one_name(error: Exception) -> bool:
    """Tell whether only the name of a file was no UTF-8, which ends the listening."""
    return isinstance(error, RuntimeError) and str(error).startswith("Unable to decode path")


def _told(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "its name is not UTF-8"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # Such as "Error creating recommended watcher: Too many open files (os error 24)".
    return str(error).rpartition(": ")[2]


def _listen(
    root: str, stopped: threading.Event, *, recursive: bool, turn: int = _TURN_MILLISECONDS
) -> Generator[set[FileChange]]:
    """Yield what is noticed, and nothing now and then."""
    yield from watch(
        root,
        watch_filter=None,
        debounce=_GATHER_MILLISECONDS,
        step=_STEP_MILLISECONDS,
        stop_event=stopped,
        rust_timeout=turn,
        yield_on_timeout=True,
        recursive=recursive,
        force_polling=False,
        ignore_permission_denied=True,
        raise_interrupt=False,
    )
