"""Every preset does what every verifier must, whoever meddles with its deliveries."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from netscript_triggers import RawRequest, VerificationError, Verified
from netscript_triggers.testing import ConformanceError, check_verifier
from netscript_triggers.verifiers import MemoryVerifier
from netscript_triggers.verifiers.conformance import NOW, mutations, signed
from netscript_triggers.verifiers.presets import PRESETS
from tests.unit.triggers.verifiers.samples import APART, Sample, samples


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in APART])
def test_a_preset_does_what_every_verifier_must(name: str) -> None:
    sample = samples()[name]
    tolerance = getattr(sample.verifier, "tolerance", None)
    check_verifier(
        sample.verifier,
        secret=sample.secret.encode(),
        other_secret=sample.other.encode(),
        signing_secret=sample.signing.encode() or None,
        request=sample.request,
        signed_headers=sample.signed_headers,
        accepts=sample.accepts,
        tolerance=tolerance,
    )


@pytest.mark.parametrize("sample", samples().values(), ids=samples())
def test_what_is_signed_in_capitals_comes_in_small_letters_and_is_kept_private(
    sample: Sample,
) -> None:
    good = signed(sample.verifier, sample.request, (sample.signing or sample.secret).encode())
    names = {name.decode() for name, _ in good.headers}
    assert sample.verifier.private_headers & names or not sample.verifier.private_headers


class Naive(MemoryVerifier):
    """Looks at the first byte of a header, which must be there."""

    def verify(self, request: RawRequest, secrets: Sequence[bytes], now: float) -> Verified:
        if dict(request.headers)[b"x-naive"][:1] != b"s":
            raise VerificationError("naive")
        return Verified(signed=request.body)

    def sign(self, body: bytes, secret: bytes, now: float) -> dict[str, str]:
        return {"X-Naive": secret.decode()}


def test_the_suite_tells_what_a_naive_verifier_does_wrong() -> None:
    with pytest.raises(ConformanceError, match="KeyError"):
        check_verifier(
            Naive(name="naive", private_headers=frozenset({"x-naive"})),
            secret=b"s",
            other_secret=b"t",
        )
    with pytest.raises(ConformanceError, match="must refuse this"):
        check_verifier(MemoryVerifier(), secret=b"s", other_secret=b"t")


def test_a_mutation_is_never_the_delivery_itself() -> None:
    request = RawRequest("POST", "/", [(b"a", b"v1=abc"), (b"b", b"1")], b"body")
    made = list(mutations(request, {"A", "b", "c"}))
    assert len({mutation.name for mutation in made}) == len(made) > 20
    assert all(one.request != request for one in made)
    assert NOW > 0
