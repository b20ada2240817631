"""Every error that Distredge raises on purpose.

The tree::

    DistredgeError                 exit code 1
    ├── InputError (ValueError)    exit code 2: what the user gave cannot be used
    │   ├── FileError              a file that is missing, unreadable or not of its format
    │   ├── ModelError             a CNN that cannot be taken in
    │   │   └── UnsupportedModel   a valid graph that no strategy can run
    │   ├── ProfileError           a compute profile, or a lookup in one
    │   ├── TraceError             a network profile or trace
    │   ├── ClusterError           a cluster file
    │   ├── StrategyError          a strategy, or one that does not fit the model or the cluster
    │   ├── PlannerError           an unknown method, or one that does not apply
    │   │   └── Infeasible         no strategy can meet the limits
    │   ├── MediaError             an image or another input to infer on
    │   ├── KeyFileError           a key that is missing, open to others, or of another set
    │   └── ConfigError            an option or a configuration file
    ├── MissingDependency          exit code 2: an optional package is absent; says how to install it
    ├── Unsupported                what only the simulator prices; caught where the kernel is asked
    └── ExecutionError             exit code 1: failed while running
        ├── EngineError            the inference engine refused or failed
        └── TransportError         the network
            ├── PeerTimeout        a peer did not answer within its deadline
            ├── ProtocolError      a peer sent what this version does not accept
            └── AuthError          a peer is not authorised
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class DistredgeError(Exception):
    """Root of the tree; `exit_code` is what a command ends with."""

    exit_code = 1


class InputError(DistredgeError, ValueError):
    """What the user gave cannot be used."""

    exit_code = 2


class FileError(InputError):
    """A file is missing, cannot be read, or is not of the format that it should have."""


class ModelError(InputError):
    """A CNN cannot be taken in."""


class UnsupportedModel(ModelError):
    """A valid graph that no strategy can run."""


class ProfileError(InputError):
    """A compute profile is wrong, or lacks what was looked up."""


class TraceError(InputError):
    """A network profile or trace is wrong."""


class ClusterError(InputError):
    """A cluster file is wrong."""


class StrategyError(InputError):
    """A strategy is wrong, or does not fit the model or the cluster."""


class PlannerError(InputError):
    """A planning method is unknown or does not apply."""


class Infeasible(PlannerError):
    """No strategy can meet the limits."""


class MediaError(InputError):
    """An image or another input cannot be read."""


class KeyFileError(InputError):
    """A key is missing, may be read by others, or belongs to another set."""


class ConfigError(InputError):
    """An option or a configuration file is wrong."""


class MissingDependency(DistredgeError, ImportError):
    """An optional package is absent.

    Args:
        package: name on PyPI.
        purpose: what it is needed for, as the end of "... is needed ...".
        extra: the extra of Distredge that brings it.
    """

    exit_code = 2

    def __init__(self, package: str, purpose: str, extra: str) -> None:
        self.package = package
        super().__init__(f"{package} is needed {purpose}; install it with: pip install 'distredge[{extra}]'")


class Unsupported(DistredgeError):
    """What the compiled kernel cannot price; callers catch it and ask the simulator."""


class ExecutionError(DistredgeError):
    """Something failed while running."""


class EngineError(ExecutionError):
    """The inference engine refused a model or failed on it."""


class TransportError(ExecutionError):
    """The network failed."""


class PeerTimeout(TransportError):
    """A peer did not answer within its deadline."""


class ProtocolError(TransportError):
    """A peer sent what this version does not accept."""


class AuthError(TransportError):
    """A peer is not authorised."""


def in_words(error: BaseException) -> str:
    """Returns what an error says: in its own words where it is ours or the system's, else with its kind."""
    if isinstance(error, DistredgeError):
        return str(error)
    if isinstance(error, OSError):
        return str(error.strerror or error)
    return f"{type(error).__name__}: {error}"


def did_you_mean(found: str, accepted: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the closest accepted name, or the accepted names when none is close."""
    names = sorted(accepted)
    close = difflib.get_close_matches(found, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; accepted: {', '.join(names)}" if names else ""


def located(where: str | Path, key: str, found: object, accepted: str) -> str:
    """Returns the standard sentence of an input error: where, which key, what was found, what is accepted."""
    place = f"{where}: {key}" if key else str(where)
    return f"{place}: found {found!r}, accepted: {accepted}"
