"""Python processes that this one starts, and commands: neither runs anything that lies in the current folder.

``python -m`` looks for every module in the current folder first, and an empty entry of ``PYTHONPATH`` is that folder,
too (``PYTHONPATH=/a:$PYTHONPATH`` leaves one where it was unset before): a ``msgspec.py`` there would be run in place
of the package. Python's own remedy, ``-P``, exists from 3.11 on.

So a child is this file, run by its path, with a module's name: it knows which folders are not to be searched, and takes
`distredge` from where it lies itself, so that parent and child are of one version. What it imports before that has been
loaded by Python's own start.
"""

from __future__ import annotations

import os
import sys

_PATH = "PYTHONPATH"
_PACKAGES = (os.path.dirname(os.__file__), os.path.join(os.path.dirname(os.__file__), "site-packages"))


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Returns the command that runs a module of this package as `python -m` would; start it in `python_environment`."""
    return (sys.executable, os.path.abspath(__file__), module, *arguments)


def python_environment() -> dict[str, str]:
    """Returns this process's environment; of `PYTHONPATH` what is absolute."""
    made = dict(os.environ)
    kept = _absolute(made.pop(_PATH, ""))
    if kept:
        made[_PATH] = os.pathsep.join(kept)
    return made


def leave_current_folder() -> None:
    """Takes the current folder, and what is relative to it, out of what this process searches for modules.

    It stays where `PYTHONPATH` or an installed package names it by its absolute path, or this package lies in it.
    """
    named = os.environ.get(_PATH, "")
    kept = {os.path.realpath(entry) for entry in (*_absolute(named), _folder(_folder(__file__)), *_PACKAGES)}
    # Python's start has made relative entries absolute, but for the "" of `python -c`.
    relative = [entry for entry in named.split(os.pathsep) if not os.path.isabs(entry)] if named else []
    try:
        left = {os.path.realpath(entry) for entry in relative}
        # `python -m` puts it in front.
        left |= {os.path.realpath("")} & {os.path.realpath(entry) for entry in sys.path[:1]}
    except FileNotFoundError:  # the current folder has been removed: nothing is found in it
        left = set()
    sys.path[:] = [entry for entry in sys.path if os.path.isabs(entry) and os.path.realpath(entry) not in left - kept]


def _absolute(path: str) -> list[str]:
    return [entry for entry in path.split(os.pathsep) if os.path.isabs(entry)]


def _folder(path: str) -> str:
    return os.path.dirname(os.path.realpath(path))


def _run(module: str) -> None:
    """Runs a module of the package in which this file lies."""
    own = _folder(__file__)
    # The folder of what is run by its path is searched first.
    sys.path[:] = [entry for entry in sys.path if os.path.isabs(entry) and os.path.realpath(entry) != own]
    import importlib.util
    import runpy

    package = __file__.removesuffix(f"{os.sep}{os.path.basename(__file__)}")
    spec = importlib.util.spec_from_file_location(
        "distredge", os.path.join(package, "__init__.py"), submodule_search_locations=[package]
    )
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["distredge"] = made
    spec.loader.exec_module(made)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    del sys.argv[0]
    _run(sys.argv[0])
