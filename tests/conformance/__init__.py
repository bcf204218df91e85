"""The store's promises, one test each, as a suite that every database must pass.

A class states what it promises; `StoreSuite` is all of them in the order in which they are best
read. A further database subclasses it and supplies the fixture `database_url`.
"""

from __future__ import annotations

import pytest

_SUITES = ("accepting", "claiming", "keys", "ending", "rescuing", "keeping", "running")
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in _SUITES))
