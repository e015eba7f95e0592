"""Every error flashc raises on purpose: one class per failure, all under :class:`FlashcError`.

A message names the place (file and line, or the argument), the value found, what is allowed and the fix.
``exit_code`` is what the command line returns for it; the table in docs/cli.md is generated from here.
"""

from __future__ import annotations


class FlashcError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class WorkloadError(FlashcError, ValueError):
    """A workload file or argument is wrong: unknown key, wrong type, impossible combination."""

    exit_code = 3


class ExpressionError(WorkloadError):
    """A `score`, `keep` or `epilogue` expression does not parse or type-check."""


class UnknownDeviceError(FlashcError, LookupError):
    """No device model has that name; the message lists the known ones."""

    exit_code = 4


class DeviceModelError(FlashcError, ValueError):
    """A device file breaks the schema, or lacks a number that the request needs."""

    exit_code = 4


class InfeasibleError(FlashcError):
    """No tile sizes meet every constraint; carries the minimal conflicting set."""

    exit_code = 5


class UnsupportedError(FlashcError, NotImplementedError):
    """The request is valid but this backend or device does not implement it."""

    exit_code = 6


class CompilerMissingError(FlashcError):
    """No usable compiler was found for the backend."""

    exit_code = 7


class CompileError(FlashcError):
    """The backend's compiler rejected emitted source: a defect of flashc; the message says where it is."""

    exit_code = 7


class DeviceAbsentError(FlashcError, RuntimeError):
    """This machine lacks the device that code was to run on, or the driver and libraries that running it takes."""

    exit_code = 8


class ArgumentError(FlashcError, ValueError):
    """A kernel was called with wrong tensors: shape, dtype, device, strides or requires_grad."""

    exit_code = 3


class VerificationError(FlashcError):
    """A kernel's result is outside the accuracy rule."""

    exit_code = 9


class IRError(FlashcError, ValueError):
    """A tile program is malformed, or its text does not parse."""

    exit_code = 10


class IntegerOverflowError(FlashcError, OverflowError):
    """An integer expression leaves int64; the message gives the value and the unit to change."""

    exit_code = 11


class ConstraintError(FlashcError, ValueError):
    """A constraint problem or its text is malformed: unknown variable, empty domain, junk at a column."""

    exit_code = 12


class CacheWriteError(FlashcError, OSError):
    """The cache on disk cannot be written to: full, read-only or not ours."""

    exit_code = 13


class SolverLimitError(FlashcError, TimeoutError):
    """The solver's time limit passed before it had an answer; raise the limit or narrow the domains."""

    exit_code = 14


class OutputError(FlashcError, OSError):
    """Files asked for cannot be written: the folder is read-only, in the way of a file, or the disk is full."""

    exit_code = 15


class SimulationError(FlashcError, ValueError):
    """A traffic simulation cannot be: an impossible cache or policy, or a fast memory too small for the program."""

    exit_code = 16
