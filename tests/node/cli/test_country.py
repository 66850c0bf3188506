"""The country of payouts at the terminal: suggested by the locale, and never taken unasked."""

import click
import pytest
import typer
from typer.testing import CliRunner

from node.cli.country import ask_country, country_option, suggested_country
from node.errors import ConfigInvalid


@pytest.mark.parametrize(
    ("environment", "suggested"),
    [
        ({"LANG": "de_DE.UTF-8"}, "DE"),
        ({"LANG": "en_US.UTF-8", "LC_MONETARY": "pt_BR.UTF-8"}, "BR"),
        ({"LANG": "ca_ES@valencia"}, "ES"),
        ({"LANG": "fil_PH"}, "PH"),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": "C.UTF-8"}, ""),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": ""}, "DE"),
        ({"LANG": "eo"}, ""),
        ({"LANG": "xx_ZZ.UTF-8"}, ""),
        ({}, ""),
    ],
)
def test_what_the_locale_says(environment, suggested):
    assert suggested_country(environment) == suggested


def test_the_option_is_a_country_or_refused():
    assert (country_option(""), country_option("jp")) == ("", "JP")
    with pytest.raises(ConfigInvalid, match="GB"):
        country_option("UK")


def asked(typed, environment):
    """What was said, the exit code's error, and the country that came of it."""
    answers = []
    app = typer.Typer()
    app.command()(lambda: answers.append(ask_country(environment)))
    done = CliRunner().invoke(app, input=typed)
    return done, answers


def test_enter_confirms_what_is_suggested():
    done, answers = asked("\n", {"LANG": "de_AT.UTF-8"})
    assert answers == ["AT"]
    assert "two letters [AT]" in done.stderr


def test_any_other_answer_counts_more():
    assert asked("ch\n", {"LANG": "de_AT.UTF-8"})[1] == ["CH"]


def test_three_wrong_answers_end_it():
    done, answers = asked("UK\nEU\nZZ\n", {"LANG": "de_DE"})
    assert answers == []
    assert isinstance(done.exception, ConfigInvalid)
    assert done.stderr.count("is no country") == 3


def test_nobody_there_is_an_end_too():
    done, answers = asked("", {})
    assert (answers, done.exit_code) == ([], 1)
    assert not isinstance(done.exception, click.UsageError)


def test_without_a_suggestion_enter_leaves_it_for_later():
    done, answers = asked("\n", {"LANG": "C.UTF-8"})
    assert answers == [""]
    assert "(or later)" in done.stderr
