"""The device's page in a JavaScript engine, with as much of a browser as its script asks for."""

import json
import re
import shutil
import subprocess

import pytest

from marketplace.machines.page import PAGE

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no JavaScript engine here")

BROWSER = """
const {script, hash, language, recipient, typed} = JSON.parse(process.argv[1]);
const parts = {}, calls = [];
const document = {getElementById: id => parts[id] ??= {value: "", hidden: true, focus() {}}};
const reply = (status, data) => ({status, ok: status < 400, json: async () => data});
const missing = {error: {code: "recipient_missing", message: "", hint: ""}};
async function fetch(path, {method, body}) {
  calls.push([method, path, body ? JSON.parse(body) : null]);
  if (path === "/v1/me") return reply(200, {email: "a@b.example"});
  if (method === "GET") return recipient ? reply(200, recipient) : reply(409, missing);
  return reply(200, {payouts_enabled: false, onboarding_url: "https://processor.example"});
}
new Function("document", "location", "navigator", "fetch", script)(
  document, {hash}, {language}, fetch);
const event = {preventDefault() {}};
await document.getElementById("paid").onclick(event);
const asked = !document.getElementById("payee").hidden, shown = parts.country?.value ?? "";
if (typed) parts.country.value = typed;
if (asked && parts.country.value) await parts.payee.onsubmit(event);
console.log(JSON.stringify({asked, shown, code: parts.user_code?.value ?? "",
  said: parts.said?.textContent ?? "", href: parts.onboard?.href ?? "",
  sent: calls.filter(([method]) => method === "POST")}));
"""
KNOWN = {"country": "FR", "payouts_enabled": False}
PATH = "/v1/payouts/recipient"


def visit(*, hash_="", language="en", recipient=None, typed=""):
    """Press 'Be paid out', and 'Go on' where a country is asked for and named."""
    script = re.search("<script>(.*)</script>", PAGE, re.DOTALL).group(1)
    told = {
        "script": script, "hash": hash_, "language": language, "recipient": recipient,
        "typed": typed,
    }  # fmt: skip
    command = [NODE, "--input-type=module", "--eval", BROWSER, json.dumps(told)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("visited", "shown"),
    [
        ({"hash_": "#BCDF-GHJK&country=AT", "language": "de-DE"}, "AT"),
        ({"hash_": "#country=JP"}, "JP"),
        ({"hash_": "#BCDF-GHJK", "language": "pt-BR"}, "BR"),
        ({"language": "de"}, ""),
        ({"hash_": "#country=JP", "recipient": KNOWN}, "FR"),
    ],
    ids=["join said it", "join said it later", "browser", "nobody", "made before"],
)
def test_a_country_is_suggested_and_asked_for(visited, shown):
    seen = visit(**visited)
    assert (seen["asked"], seen["shown"]) == (True, shown)
    assert seen["code"] == ("BCDF-GHJK" if "BCDF" in visited.get("hash_", "") else "")
    body = {"email": "a@b.example", "country": shown}
    assert seen["sent"] == ([["POST", PATH, body]] if shown else [])
    assert seen["href"] == ("https://processor.example" if shown else "")


def test_what_is_typed_counts():
    seen = visit(language="en-US", typed="in")
    assert seen["sent"] == [["POST", PATH, {"email": "a@b.example", "country": "in"}]]


def test_who_can_be_paid_is_asked_nothing():
    seen = visit(recipient=KNOWN | {"payouts_enabled": True})
    assert (seen["asked"], seen["sent"]) == (False, [])
    assert seen["said"] == "Payouts are set up."
