import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields
from protocol.sampling import SamplingParameters


@given(
    st.floats(0, 2), st.floats(0.001, 1), st.floats(0, 1), st.floats(-2, 2), st.integers(0, 2**31)
)
def test_floats_come_back_to_the_millionth_and_round_trip(
    temperature, top_p, min_p, penalty, top_k
):
    sampling = SamplingParameters.from_floats(
        temperature=temperature,
        top_p=top_p,
        min_p=min_p,
        top_k=top_k,
        frequency_penalty=penalty,
        presence_penalty=-penalty,
    )
    for given_value, kept in (
        (temperature, sampling.temperature),
        (top_p, sampling.top_p),
        (min_p, sampling.min_p),
        (penalty, sampling.frequency_penalty),
        (-penalty, sampling.presence_penalty),
    ):
        assert math.isclose(given_value, kept, abs_tol=5.1e-7)
    data = encode_canonical(encode_fields(sampling))
    assert decode_fields(SamplingParameters, decode_canonical(data)) == sampling


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"top_k": -1},
        {"frequency_penalty": 2.1},
        {"presence_penalty": -2.1},
        {"seed": -1},
        {"seed": 2**63},
    ],
    ids=str,
)
def test_refuses_values_out_of_bounds(change):
    with pytest.raises(RemoteProtocolError, match=next(iter(change))):
        SamplingParameters.from_floats(**change)


def test_temperature_zero_is_greedy():
    assert SamplingParameters.from_floats(temperature=0).is_greedy
    assert not SamplingParameters().is_greedy


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_refuses_what_is_not_a_number(value):
    with pytest.raises(RemoteProtocolError):
        SamplingParameters.from_floats(temperature=value)
