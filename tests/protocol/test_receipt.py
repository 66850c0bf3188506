import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.envelope import seal
from protocol.errors import (
    LimitExceeded,
    RemoteProtocolError,
    SignatureInvalid,
    VerificationError,
    WrongSigner,
)
from protocol.money import Work, with_fee_nanos
from protocol.receipt import CosignedReceipt, Receipt, cosign, open_receipt
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields
from tests.protocol.samples import HEAD, LEASE, PAYER, PROVIDER, RECEIPT, WORK, receipts

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "settlement.json").read_text())
SEALED = seal(RECEIPT, PAYER).encode()
COSIGNED = cosign(SEALED, PROVIDER).encode()


class TestReceipt:
    @given(receipts)
    def test_round_trips(self, receipt):
        data = encode_canonical(encode_fields(receipt))
        assert decode_fields(Receipt, decode_canonical(data)) == receipt

    @pytest.mark.parametrize(
        "change",
        [
            {"lease_id": b"short"},
            {"sequence": 0},
            {"epoch": -1},
            {"steps": -1},
            {"tokens": -1},
            {"amount_nanos": -1},
            {"link_in_hash": bytes(31)},
            {"link_out_hash": b""},
        ],
        ids=str,
    )
    def test_refuses_impossible_counts(self, change):
        with pytest.raises(RemoteProtocolError):
            dataclasses.replace(RECEIPT, **change)


class TestOpenReceipt:
    def test_gives_the_receipt_of_the_vector(self):
        assert SEALED.hex() == VECTOR["receipt"]
        assert open_receipt(SEALED, LEASE) == RECEIPT
        assert RECEIPT.amount_nanos == VECTOR["amount_nanos"]
        assert (
            with_fee_nanos(RECEIPT.amount_nanos, LEASE.fee_basis_points)
            == (VECTOR["with_fee_nanos"])
        )

    def test_refuses_another_payer(self):
        with pytest.raises(WrongSigner):
            open_receipt(seal(RECEIPT, HEAD).encode(), LEASE)

    def test_refuses_another_lease(self):
        other = dataclasses.replace(LEASE, lease_id=bytes(16))
        with pytest.raises(WrongSigner):
            open_receipt(SEALED, other)

    @given(st.integers(-RECEIPT.amount_nanos, 2**40).filter(bool))
    def test_refuses_any_amount_but_the_exact_one(self, difference):
        wrong = dataclasses.replace(RECEIPT, amount_nanos=RECEIPT.amount_nanos + difference)
        with pytest.raises(LimitExceeded):
            open_receipt(seal(wrong, PAYER).encode(), LEASE)

    def test_refuses_work_above_the_lease(self):
        work = WORK + Work(prefill_token_layers=LEASE.work_max.prefill_token_layers)
        with pytest.raises(LimitExceeded):
            open_receipt(seal(dataclasses.replace(RECEIPT, work=work), PAYER).encode(), LEASE)


class TestCosign:
    def test_is_what_the_vector_says(self):
        assert COSIGNED.hex() == VECTOR["cosigned"]
        assert CosignedReceipt.decode(COSIGNED).open(LEASE) == RECEIPT

    @given(st.integers(0, len(COSIGNED) - 1), st.integers(1, 255))
    def test_refuses_any_changed_byte(self, index, difference):
        changed = bytearray(COSIGNED)
        changed[index] ^= difference
        with pytest.raises((RemoteProtocolError, VerificationError)):
            CosignedReceipt.decode(bytes(changed)).open(LEASE)

    @given(st.binary(max_size=300))
    def test_refuses_arbitrary_bytes(self, data):
        with pytest.raises((RemoteProtocolError, VerificationError)):
            CosignedReceipt.decode(data).open(LEASE)

    def test_refuses_a_countersignature_of_anyone_but_the_provider(self):
        with pytest.raises(SignatureInvalid):
            cosign(SEALED, HEAD).open(LEASE)

    def test_a_countersignature_is_not_a_signature_on_a_record(self):
        receipt = cosign(SEALED, PROVIDER)
        forged = dataclasses.replace(receipt, countersignature=PROVIDER.sign(SEALED))
        with pytest.raises(SignatureInvalid):
            forged.open(LEASE)
