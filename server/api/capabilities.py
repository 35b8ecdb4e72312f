"""What the loaded model can be asked for on this server."""

from __future__ import annotations

from pydantic import Field

from server.messages import ModelInfo
from server.settings import Settings
from star_model.capabilities import Capabilities, capabilities


class ServedCapabilities(Capabilities):
    """What requests may have: what the model can do, and what the settings allow."""

    previews: bool = Field(description="Whether streams may have partial images.")


def capabilities_of(model: ModelInfo, settings: Settings) -> ServedCapabilities:
    """Derive what requests may have from the loaded model and the settings."""
    own = capabilities(
        sampling=model.sampling,
        guidance=model.guidance,
        num_scales=model.num_scales,
        sizes=[(shape.height, shape.width) for shape in model.shapes],
        num_classes=model.num_classes,
        has_vocabulary=model.vocabulary is not None,
        can_encode=model.can_encode,
    )
    return ServedCapabilities(**own.model_dump(), previews=settings.previews)
