"""The settings of the safety hook, a part of :class:`server.settings.Settings`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode

from server.model_settings import CONFIG
from server.setting_values import is_hook, split_list


class SafetySettings(BaseSettings):
    """A check of the operator's that requests and images must pass."""

    model_config = CONFIG

    safety_hook: Annotated[str, AfterValidator(is_hook)] | None = Field(
        None,
        description="check that may refuse prompts and images: a function as module:function, or an http address",
    )
    safety_stages: Annotated[
        list[Literal["input", "output"]], NoDecode, BeforeValidator(split_list)
    ] = Field(
        ["input", "output"],
        min_length=1,
        description="what safety_hook checks, separated by commas: input is the prompts, output each painted image",
    )
    safety_uploads: bool = Field(
        False, description="show safety_hook the picture to edit too, when it checks the input"
    )
    safety_previews: Literal["none", "check"] = Field(
        "none",
        description=(
            "partial images while safety_hook checks the output: none are sent, or check has each of them checked"
        ),
    )
    safety_on_failure: Literal["closed", "open"] = Field(
        "closed",
        description="when safety_hook fails or takes too long: closed answers 503, open goes on without its check",
    )
    safety_timeout_s: float = Field(
        5.0,
        gt=0,
        le=600,
        allow_inf_nan=False,
        description="seconds that a check by safety_hook may take, waiting for its turn included",
    )
    safety_concurrency: int = Field(
        8, ge=1, le=256, description="checks by safety_hook at once; others wait for their turn"
    )
    safety_token: SecretStr | None = Field(
        None, description="bearer token for a safety_hook that is an address"
    )

    @property
    def previews_unseen(self) -> bool:
        """Whether previews would show images that are checked only when they are finished."""
        checked = self.safety_hook is not None and "output" in self.safety_stages
        return checked and self.safety_previews == "none"

    @model_validator(mode="after")
    def _uploads_are_input(self) -> Self:
        if self.safety_uploads and "input" not in self.safety_stages:
            raise ValueError("safety_uploads needs input among safety_stages")
        return self
