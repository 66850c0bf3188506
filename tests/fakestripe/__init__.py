"""A stateful stand-in for Stripe: idempotency as Stripe does it, its clock, its faults."""

from tests.fakestripe.faults import Fault
from tests.fakestripe.server import FakeStripe

__all__ = ["FakeStripe", "Fault"]
