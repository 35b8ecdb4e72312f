"""The classes of a class-conditional model, from what a caller writes. Only words and numbers: no torch."""

from __future__ import annotations

from server.errors import InvalidRequest
from star_model.errors import UnknownClassError
from star_model.imagenet import find_class


def check_class(text: str, num_classes: int, *, param: str) -> None:
    """Check that a text is the number, a name or a synonym of one class.

    Args:
        text: what a caller wrote.
        num_classes: of the model.
        param: the field it stood in.

    Raises:
        InvalidRequest: it is no class, or may be several; the message names the nearest, or all of them.
    """
    try:
        find_class(text, num_classes)
    except UnknownClassError as error:
        message = str(error)
        raise InvalidRequest(f"{param}: {message}.", param=param) from error
