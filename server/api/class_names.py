"""The check of class names and numbers in requests to a class-conditional model."""

from __future__ import annotations

from server.errors import InvalidRequest
from star_model.errors import UnknownClassError
from star_model.imagenet import find_class


def check_class(text: str, num_classes: int, *, param: str) -> None:
    """Check that a text is the number, a name or a synonym of one class.

    Args:
        text: as the caller wrote it.
        num_classes: of the model.
        param: the field that holds it.

    Raises:
        InvalidRequest: it names no class, or several; the message names the nearest, or all of them.
    """
    try:
        find_class(text, num_classes)
    except UnknownClassError as error:
        message = str(error)
        raise InvalidRequest(f"{param}: {message}.", param=param) from error
