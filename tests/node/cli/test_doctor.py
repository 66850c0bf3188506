"""`piecework doctor` on paper: lines for pipes, JSON, exit codes, refused options."""

import json

import pytest

from node.cli.doctor import exit_code, plain_lines, report_object, run_doctor
from transport.diagnosis.finding import Finding, Level

FINDINGS = [
    Finding("disk", Level.OK, "9.0 GiB free."),
    Finding("nat", Level.WARN, "Symmetric NAT.", "Allow UPnP."),
]
FAILED = Finding("relay", Level.FAIL, "Dead.", "Try another.")


def test_json_has_a_fixed_shape():
    assert report_object(FINDINGS) == {
        "schema": 1,
        "ok": True,
        "findings": [
            {"name": "disk", "level": "ok", "text": "9.0 GiB free.", "fix": None},
            {"name": "nat", "level": "warn", "text": "Symmetric NAT.", "fix": "Allow UPnP."},
        ],
    }
    assert json.loads(json.dumps(report_object([FAILED])))["ok"] is False


def test_only_what_must_be_mended_is_an_error():
    assert exit_code([]) == 0
    assert exit_code(FINDINGS) == 0
    assert exit_code([*FINDINGS, FAILED]) == 1


def test_finding_is_one_line_and_its_fix_another():
    assert plain_lines(FINDINGS[0]) == "✓ disk               9.0 GiB free.\n"
    head, fix = plain_lines(FINDINGS[1]).splitlines()
    assert head == "! nat                Symmetric NAT."
    assert fix.strip() == "→ Allow UPnP."
    assert plain_lines(FAILED).startswith("✗ relay")
    assert plain_lines(FAILED, can_draw=False).isascii()


@pytest.mark.parametrize(
    ("relays", "peers", "said"),
    [(("/ip4/1.2.3.4/udp/1",), (), "--relay"), ((), ("nowhere",), "HOST:PORT")],
)
def test_wrong_option_is_refused_before_anything_is_looked_at(
    tmp_path, capsys, relays, peers, said
):
    with pytest.raises(SystemExit) as stop:
        run_doctor(
            home=tmp_path, relays=relays, market="", peers=peers, api_port=8470, listen_port=0,
            as_json=True,
        )  # fmt: skip
    assert stop.value.code
    assert said in capsys.readouterr().err
