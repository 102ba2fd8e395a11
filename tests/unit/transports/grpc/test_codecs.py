"""A call's headers as metadata."""

from __future__ import annotations

import pytest

from goplugins.errors import AuthConfigError
from goplugins.transports.grpc.codecs import MetadataWriter


def test_the_error_for_a_credential_that_metadata_can_not_carry_hides_it():
    with pytest.raises(AuthConfigError) as caught:
        MetadataWriter({"Authorization": "Bearer sécret"})
    assert "sécret" not in str(caught.value)
