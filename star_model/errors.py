"""Every error of ``star_model`` that a user can cause; the message is a sentence that says what to do.

StarError
├── ConfigError            a configuration that does not describe a model
├── CheckpointError        a file of a checkpoint that is missing, damaged or of another model
│   └── UnsafeCheckpointError   a pickle that needs more than tensors
├── ModelNotFoundError     a model name or directory that cannot be resolved
├── UnknownClassError      a class that a class-conditional model does not have
├── CaptureError           a graph that cannot be captured, or computes something else
└── OutOfSlotsError        more sequences than the engine has slots
"""

from __future__ import annotations


class StarError(Exception):
    """Base of all errors of this package."""


class ConfigError(StarError, ValueError):
    """A configuration value is unknown, missing, of the wrong type or out of range."""


class CheckpointError(StarError):
    """A checkpoint file is missing, damaged, or belongs to another model."""


class UnsafeCheckpointError(CheckpointError):
    """A pickled checkpoint needs more than tensors and plain containers to load."""


class ModelNotFoundError(StarError):
    """A model name or directory cannot be resolved to a native model directory."""


class UnknownClassError(StarError, ValueError):
    """The name or number of a class that a class-conditional model does not have, or that is ambiguous."""


class CaptureError(StarError):
    """A captured graph cannot be had on this device, or does not compute what is computed without it."""


class OutOfSlotsError(StarError):
    """The engine has no free slot for another sequence."""
