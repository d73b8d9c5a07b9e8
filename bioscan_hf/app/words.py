"""Errors of visitors as words in the page."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import gradio as gr

from .pieces import note

logger = logging.getLogger(__name__)

#: Errors that tell a visitor what to do. Others are faults of the program: the log has them, the page only says so.
EXPECTED = (ValueError, FileNotFoundError, ModuleNotFoundError)

FAULT = "This page could not do that: a fault of the program, not of your input. Try something else."


def told(
    function: Callable[..., list[Any]], outputs: int, place: int = 0, event: bool = False
) -> Callable[..., list[Any]]:
    """A handler that puts the words of an error into an output, and leaves the others as they are.

    Args:
        outputs: Number of outputs.
        place: Output of HTML that gets the words.
        event: Whether the function takes the event first.
    """

    def answer(call: Callable[[], list[Any]]) -> list[Any]:
        try:
            return call()
        except EXPECTED as error:
            words = " ".join(str(error).split())
        except Exception:
            logger.exception("A visit failed.")
            words = FAULT
        return [note(words, "problem") if i == place else gr.skip() for i in range(outputs)]

    if event:

        def with_event(evt: gr.EventData, *values: Any) -> list[Any]:
            return answer(lambda: function(evt, *values))

        return with_event

    @functools.wraps(function)
    def plain(*values: Any) -> list[Any]:
        return answer(lambda: function(*values))

    return plain
