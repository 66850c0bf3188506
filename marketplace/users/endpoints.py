"""HTTP of `users`: signing up and in, what guards a person, who belongs to an account."""

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, Path, Request, Response, status

from marketplace.auth import Scope, authenticate, require_scope
from marketplace.browsers import cookie_for, is_own_page
from marketplace.endpoints import ManagingBuyer, MarketOf, Member, Person
from marketplace.market import Market
from marketplace.users import logins, members, securing, showing, signing_in, signing_up
from marketplace.users.errors import ForeignOrigin, LoginInvalid
from marketplace.users.logins import FoundLogin, Visitor
from marketplace.users.schemas import (
    AccountChoice,
    ClaimSchema,
    CodeSchema,
    EmailSchema,
    EnrolmentSchema,
    LoginList,
    MemberList,
    MeSchema,
    NewPassword,
    PasswordChange,
    PasswordSchema,
    RoleSchema,
    SignedIn,
    SignInSchema,
    SignUpSchema,
    TokenSchema,
    TotpRemoval,
    TotpSeed,
)
from marketplace.users.signing_in import SignIn
from marketplace.users.signing_up import SignUp

__all__ = ["router"]

router = APIRouter(tags=["users"])

UserId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
LoginId = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]
ACCEPTED = status.HTTP_202_ACCEPTED
NO_CONTENT = status.HTTP_204_NO_CONTENT


def _visitor(request: Request) -> Visitor:
    """Where a request comes from; behind a proxy on this machine, what that says."""
    host = request.client.host if request.client else ""
    agent = request.headers.get("user-agent", "")
    return Visitor(host, "".join(c if c.isprintable() else " " for c in agent))


VisitorOf = Annotated[Visitor, Depends(_visitor)]


def _login(caller: Person) -> FoundLogin:
    assert caller.login is not None
    return caller.login


LoginOf = Annotated[FoundLogin, Depends(_login)]


@router.post("/v1/users", status_code=ACCEPTED)
def sign_up(body: SignUpSchema, visitor: VisitorOf, market: MarketOf) -> None:
    """Sign up with an address and a password. The answer is the same for a known address."""
    wanted = SignUp(body.email, body.password, body.account_name, body.token)
    signing_up.sign_up(market, wanted, visitor)


@router.post("/v1/users/confirm", status_code=NO_CONTENT)
def confirm_address(body: TokenSchema, market: MarketOf) -> None:
    """Show the token of the letter that came on signing up."""
    with market.database.transaction() as session:
        signing_up.confirm(session, body.token, now_s=market.clock.now_s())


@router.post("/v1/logins", status_code=status.HTTP_201_CREATED)
def sign_in(
    body: SignInSchema, request: Request, response: Response, visitor: VisitorOf, market: MarketOf
) -> SignedIn:
    """Sign in; with `cookie` for a page, else the token is in the answer, this once."""
    if body.cookie and not is_own_page(market.config, request.method, request.headers):
        raise ForeignOrigin  # or another site could sign its visitor in as somebody else
    shown = SignIn(body.email, body.password, body.code)
    token = signing_in.sign_in(market, shown, visitor)
    if body.cookie:
        _set_cookie(response, market, token)
    return SignedIn(token=None if body.cookie else token)


@router.get("/v1/logins")
def list_logins(login: LoginOf, market: MarketOf) -> LoginList:
    """Where you are signed in."""
    with market.database.reading() as session:
        return showing.logins_of(session, login.row, now_s=market.clock.now_s())


@router.delete("/v1/logins", status_code=NO_CONTENT)
def sign_out_elsewhere(login: LoginOf, market: MarketOf) -> None:
    """End every session of yours but this one."""
    with market.database.transaction() as session:
        logins.revoke_all(session, login.row.user_id, but=login.row.login_id)


@router.delete("/v1/logins/current", status_code=NO_CONTENT)
def sign_out(login: LoginOf, response: Response, market: MarketOf) -> None:
    """End this session."""
    with market.database.transaction() as session:
        logins.revoke(session, login.row.user_id, login.row.login_id)
    response.delete_cookie(
        cookie_for(market.config).name, secure=cookie_for(market.config).secure, httponly=True
    )


@router.delete("/v1/logins/{login_id}", status_code=NO_CONTENT)
def end_login(login_id: LoginId, login: LoginOf, market: MarketOf) -> None:
    """End one of your sessions; one that is over already is no error."""
    with market.database.transaction() as session:
        logins.revoke(session, login.row.user_id, login_id)


@router.post("/v1/logins/current/code")
def show_code(
    body: CodeSchema, request: Request, response: Response, login: LoginOf, market: MarketOf
) -> SignedIn:
    """Show a one-time code, for what asks for one lately; the session's token changes."""
    token = signing_in.show_code(market, login, body.code, _visitor(request))
    return _go_on(request, response, market, token)


@router.put("/v1/logins/current/account", status_code=NO_CONTENT)
def choose_account(body: AccountChoice, login: LoginOf, market: MarketOf) -> None:
    """Act for another of your accounts from now on."""
    with market.database.transaction() as session:
        showing.choose_account(session, login.row, body.account_id)


@router.get("/v1/me")
def show_me(login: LoginOf, market: MarketOf) -> MeSchema:
    """Who you are, and your accounts."""
    with market.database.reading() as session:
        return showing.me(session, login.row)


@router.put("/v1/me/password")
def change_password(
    body: PasswordChange, request: Request, response: Response, login: LoginOf, market: MarketOf
) -> SignedIn:
    """Another password; every other session ends and this one's token changes."""
    token = securing.change_password(
        market, login, body.password, body.new_password, _visitor(request)
    )
    return _go_on(request, response, market, token)


@router.post("/v1/me/totp")
def begin_totp(
    body: PasswordSchema, login: LoginOf, visitor: VisitorOf, market: MarketOf
) -> TotpSeed:
    """A seed for an authenticator; it counts once a code of it is confirmed."""
    secret, uri = securing.begin_totp(market, login, body.password, visitor)
    return TotpSeed(secret=secret, uri=uri)


@router.post("/v1/me/totp/confirm")
def confirm_totp(
    body: CodeSchema, request: Request, response: Response, login: LoginOf, market: MarketOf
) -> EnrolmentSchema:
    """From now on signing in asks for a code; the recovery codes are shown this once."""
    enrolment = securing.confirm_totp(market, login, body.code, _visitor(request))
    answer = _go_on(request, response, market, enrolment.token)
    return EnrolmentSchema(token=answer.token, recovery_codes=list(enrolment.recovery_codes))


@router.post("/v1/me/totp/remove")
def remove_totp(
    body: TotpRemoval, request: Request, response: Response, login: LoginOf, market: MarketOf
) -> SignedIn:
    """Be asked for no code any more."""
    token = securing.remove_totp(market, login, body.password, body.code, _visitor(request))
    return _go_on(request, response, market, token)


@router.post("/v1/passwords/forgotten", status_code=ACCEPTED)
def forget_password(
    body: EmailSchema, tasks: BackgroundTasks, visitor: VisitorOf, market: MarketOf
) -> None:
    """Ask for a letter with a token for a new password. The answer is always the same."""
    securing.count_forgotten(market, body.email, visitor)
    tasks.add_task(securing.write_reset, market, body.email)


@router.post("/v1/passwords", status_code=NO_CONTENT)
def reset_password(body: NewPassword, visitor: VisitorOf, market: MarketOf) -> None:
    """Set a new password with the token of a letter; every session of yours ends."""
    securing.reset_password(market, body.token, body.password, visitor)


@router.post("/v1/me/accounts/claim", status_code=NO_CONTENT)
def claim_account(body: ClaimSchema, login: LoginOf, market: MarketOf) -> None:
    """Become the owner of an account that has keys alone, by showing one that manages it."""
    now_s = market.clock.now_s()
    with market.database.transaction() as session:
        key = authenticate(session, f"Bearer {body.api_key}", now_s=now_s)
        if key.login is not None:
            raise LoginInvalid
        require_scope(key, Scope.MANAGEMENT)
        members.claim(session, login.row.user_id, key, now_s=now_s)


@router.post("/v1/invitations", status_code=NO_CONTENT)
def accept_invitation(body: TokenSchema, login: LoginOf, market: MarketOf) -> None:
    """Take an invitation that was sent to your address."""
    with market.database.transaction() as session:
        signing_up.accept(session, login.row.user_id, body.token, now_s=market.clock.now_s())


@router.get("/v1/members")
def list_members(caller: Member, market: MarketOf) -> MemberList:
    """Everybody of this account."""
    with market.database.reading() as session:
        return showing.members_of(session, caller.account_id)


@router.post("/v1/members", status_code=ACCEPTED)
def invite_member(body: EmailSchema, caller: ManagingBuyer, market: MarketOf) -> None:
    """Send somebody a letter with which they may join this account."""
    with market.database.transaction() as session:
        members.invite(session, caller.account_id, body.email, now_s=market.clock.now_s())


@router.put("/v1/members/{user_id}", status_code=NO_CONTENT)
def set_role(user_id: UserId, body: RoleSchema, caller: ManagingBuyer, market: MarketOf) -> None:
    """Make somebody an owner, or a member; an account keeps one owner."""
    with market.database.transaction() as session:
        members.set_role(session, caller.account_id, user_id, body.role)


@router.delete("/v1/members/{user_id}", status_code=NO_CONTENT)
def remove_member(user_id: UserId, caller: ManagingBuyer, market: MarketOf) -> None:
    """Send somebody away; an account keeps one owner."""
    with market.database.transaction() as session:
        members.remove(session, caller.account_id, user_id)


def _go_on(request: Request, response: Response, market: Market, token: str) -> SignedIn:
    """The session's new token, the way the old one came."""
    if "authorization" in request.headers:
        return SignedIn(token=token)
    _set_cookie(response, market, token)
    return SignedIn(token=None)


def _set_cookie(response: Response, market: Market, token: str) -> None:
    cookie = cookie_for(market.config)
    response.set_cookie(
        cookie.name,
        token,
        max_age=logins.AGE_MAX_S,
        secure=cookie.secure,
        httponly=True,
        samesite="lax",
    )
