"""How everything compiled is compiled."""

from __future__ import annotations

from typing import Any

from numba import njit
from numba.core import cgutils
from numba.extending import intrinsic

_OPTIONS: Any = {
    "nogil": True,
    "boundscheck": False,
    "error_model": "numpy",
    # Nothing but compiled functions calls them.
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}

inner = njit(**_OPTIONS)
"""Compiles a function that compiled functions call."""

inlined = njit(**_OPTIONS, forceinline=True)
"""The same for one that is small or called from one place: passing so many arrays costs more than the code's size."""


def _forget_owner(context, builder, kind, value):
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    array.parent = cgutils.get_null_value(array.parent.type)
    return array._getvalue()


@intrinsic
def borrow(typing_context, array):
    """The same array without reference counting; something else must keep it alive."""

    def codegen(context, builder, signature, arguments):
        return _forget_owner(context, builder, signature.args[0], arguments[0])

    return array(array), codegen


@intrinsic
def borrow_all(typing_context, arrays):
    """The same tuple of arrays without reference counting."""

    def codegen(context, builder, signature, arguments):
        kind = signature.args[0]
        found = [
            _forget_owner(context, builder, kind[i], builder.extract_value(arguments[0], i)) for i in range(len(kind))
        ]
        return context.make_tuple(builder, kind, found)

    return arrays(arrays), codegen
