"""Gives up the rights that root keeps over files whose mode forbids it: what follows is as for any other user."""

from __future__ import annotations

import ctypes
import os

DAC_OVERRIDE, DAC_READ_SEARCH = 1 << 1, 1 << 2


class _Head(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def give_up() -> None:
    """For this process, and for good. Does nothing where it is not root's. Raises OSError where it cannot."""
    if os.geteuid() != 0:
        return
    system = ctypes.CDLL(None, use_errno=True)
    head, data = _Head(0x20080522, 0), (_Data * 2)()
    if system.capget(ctypes.byref(head), data):
        raise OSError(ctypes.get_errno(), "capget")
    kept = ~(DAC_OVERRIDE | DAC_READ_SEARCH) & 0xFFFFFFFF
    data[0].effective &= kept
    data[0].permitted &= kept
    data[0].inheritable &= kept
    if system.capset(ctypes.byref(head), data):
        raise OSError(ctypes.get_errno(), "capset")
