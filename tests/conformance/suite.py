"""All that a store promises."""

from __future__ import annotations

import pytest

from tests.conformance.accepting import Accepting
from tests.conformance.claiming import Claiming
from tests.conformance.ending import Ending
from tests.conformance.gates import JobGates
from tests.conformance.keeping import Keeping
from tests.conformance.keys import ConcurrencyKeys
from tests.conformance.rates import Rates
from tests.conformance.rescuing import Rescuing


# Tests of a base class run before those of the class named to its left: read from the right.
class StoreSuite(Keeping, Rescuing, Ending, Rates, JobGates, ConcurrencyKeys, Claiming, Accepting):
    """Subclass it as `Test…`, and override `database_url`."""

    @pytest.fixture
    def database_url(self) -> str:
        """Return the URL of a migrated database of its own, for each test."""
        raise NotImplementedError
