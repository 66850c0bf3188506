"""The one page that a device's address leads to: sign in or up, look at the device, approve it.

Plain HTML with its script inside, so that it works before there are any other pages. What it is
told it writes as text and never as HTML; its policy lets it speak to this marketplace alone.
"""

import base64
import hashlib

__all__ = ["PAGE", "PAGE_POLICY"]

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:28rem;margin:3rem auto;padding:0 1rem}
label{display:block;margin:.8rem 0}
input{font:inherit;width:100%;box-sizing:border-box;padding:.5rem}
button{font:inherit;padding:.5rem 1rem;margin:.5rem .5rem 0 0}code{word-break:break-all}
[hidden]{display:none}#said{min-height:1.5rem;font-weight:600}
:root{color-scheme:light dark}
"""

_SCRIPT = """
const $ = id => document.getElementById(id);
const say = text => { $("said").textContent = text; };
async function call(method, path, body) {
  const answer = await fetch(path, {method, credentials: "same-origin",
    headers: body ? {"content-type": "application/json"} : {},
    body: body ? JSON.stringify(body) : undefined});
  const data = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) {
    const error = new Error(data.error.message + " " + data.error.hint);
    error.code = data.error.code;
    throw error;
  }
  return data;
}
const show = id => { for (const f of ["sign", "look", "device"]) $(f).hidden = f !== id; };
const guarded = action => async event => {
  event.preventDefault();
  say("");
  try { await action(); } catch (error) {
    if (error.code === "code_needed") $("codebox").hidden = false;
    if (error.code === "login_invalid") show("sign");
    say(error.message);
  }
};
async function signIn() {
  const code = $("code").value.trim();
  await call("POST", "/v1/logins", {email: $("email").value, password: $("password").value,
    cookie: true, ...(code ? {code} : {})});
  $("password").value = $("code").value = "";
  show("look");
}
async function signUp() {
  await call("POST", "/v1/users", {email: $("email").value, password: $("password").value});
  try { await signIn(); } catch (error) {
    if (error.code !== "sign_in_failed") throw error;
    say("Look into your mail, and sign in afterwards.");
  }
}
async function look() {
  const device = await call("POST", "/v1/device/look", {user_code: $("user_code").value});
  $("name").textContent = device.name;
  $("peer").textContent = device.peer_id;
  $("asks").textContent = device.purpose === "key"
    ? "asks for an API key that spends your balance"
    : "asks to earn for your account" + (device.moves ? ", leaving the one it is in now" : "");
  show("device");
}
async function payouts() {
  try {
    const known = await call("GET", "/v1/payouts/recipient");
    if (known.payouts_enabled) return say("Payouts are set up.");
    $("country").value = known.country;
  } catch (error) {
    if (error.code !== "recipient_missing") throw error;
    $("country").value = $("country").value || suggested();
  }
  $("payee").hidden = false;
  $("country").focus();
}
function suggested() {
  try { return new Intl.Locale(navigator.language).region || ""; } catch { return ""; }
}
async function bePaid() {
  const me = await call("GET", "/v1/me");
  const recipient = await call("POST", "/v1/payouts/recipient",
    {email: me.email, country: $("country").value});
  $("payee").hidden = true;
  if (recipient.payouts_enabled) return say("Payouts are set up.");
  if (!/^https?:/.test(recipient.onboarding_url)) return say("Nothing is asked for payouts here.");
  $("onboard").href = recipient.onboarding_url;
  $("onboarding").hidden = false;
}
async function answer(path, words) {
  await call("POST", path, {user_code: $("user_code").value});
  show("look");
  $("user_code").value = "";
  say(words);
}
$("paid").onclick = guarded(payouts);
$("payee").onsubmit = guarded(bePaid);
$("sign").onsubmit = guarded(signIn);
$("up").onclick = guarded(signUp);
$("look").onsubmit = guarded(look);
$("approve").onclick = guarded(() => answer("/v1/device/approve", "Approved. Back to the device."));
$("deny").onclick = guarded(() => answer("/v1/device/deny", "Refused."));
for (const part of location.hash.slice(1).split("&").map(decodeURIComponent)) {
  if (part.startsWith("country=")) $("country").value = part.slice(8).slice(0, 2);
  else $("user_code").value = part;
}
call("GET", "/v1/me").then(() => show("look"), () => show("sign"));
"""

PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Piecework: a device</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>
<body><h1>A device waits</h1><p id="said" role="status"></p>
<form id="sign" hidden><p>Sign in to say whose it is.</p>
<label>E-mail<input id="email" type="email" autocomplete="username" required></label>
<label>Password
<input id="password" type="password" autocomplete="current-password" required></label>
<label id="codebox" hidden>One-time code<input id="code" autocomplete="one-time-code"></label>
<button>Sign in</button><button id="up" type="button">Sign up</button></form>
<form id="look" hidden><label>Code on the device's screen
<input id="user_code" autocapitalize="characters" autocomplete="off" required></label>
<button>Look</button><button id="paid" type="button">Be paid out</button></form>
<form id="payee" hidden><label>Country where you are paid: two letters, as DE or US
<input id="country" minlength="2" maxlength="2" pattern="[A-Za-z]{{2}}" autocapitalize="characters"
autocomplete="country" required></label><p>It cannot be changed once you are paid.</p>
<button>Go on</button></form>
<p id="onboarding" hidden><a id="onboard" rel="noreferrer">Tell the processor where your money
goes</a></p>
<form id="device" hidden><p><b id="name"></b> <span id="asks"></span>.</p>
<p>Compare this with the device's screen: <code id="peer"></code></p>
<button id="approve" type="button">Approve</button><button id="deny" type="button">Refuse</button>
</form><script>{_SCRIPT}</script></body></html>
"""


def _hash_of(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


PAGE_POLICY = (
    f"default-src 'none'; connect-src 'self'; script-src 'sha256-{_hash_of(_SCRIPT)}'; "
    f"style-src 'sha256-{_hash_of(_STYLE)}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Nothing else runs in it, and no other site frames it to have its buttons pressed."""
