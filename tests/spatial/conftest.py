"""Fixtures of the spatial tests."""

import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """Switch the annotation checks off: these tests read the errors that users see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
