"""Countries by two letters."""

import pytest

from protocol.countries import COUNTRIES, normal_country


def test_there_are_as_many_as_iso_has_assigned():
    assert len(COUNTRIES) == 249
    assert all(len(code) == 2 and code.isascii() and code.isupper() for code in COUNTRIES)


@pytest.mark.parametrize("typed", ["DE", "de", "De", " de "])
def test_however_it_is_typed(typed):
    assert normal_country(typed) == "DE"


@pytest.mark.parametrize("typed", ["", "D", "DEU", "UK", "EU", "XK", "ZZ", "276", "ß", "D E"])
def test_what_is_no_countrys(typed):
    assert normal_country(typed) is None
