"""All errors of ``star_model`` that a user can cause; each message is a sentence that says what to do.

StarError
├── ConfigError            a configuration that does not describe a model
├── CheckpointError        a checkpoint file that is missing, damaged or of another model
│   └── UnsafeCheckpointError   a pickle that needs more than tensors
├── ModelNotFoundError     a model name or directory that cannot be resolved
├── UnknownClassError      a class that a class-conditional model does not have
├── UnknownThingError      a prompt for what a model with a small vocabulary draws nothing in place of
├── CaptureError           a graph that cannot be captured, or gives a wrong result
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
    """A class name or number is unknown to a class-conditional model, or ambiguous."""


class UnknownThingError(StarError, ValueError):
    """A prompt asks a model with a small vocabulary for people, or for no thing: nothing is drawn in their place."""


class CaptureError(StarError):
    """A graph cannot be captured on this device, or its result differs from that of eager mode."""


class OutOfSlotsError(StarError):
    """The engine has no free slot for another sequence."""
