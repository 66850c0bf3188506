"""How far an account is trusted: verification, risk tier, links to other accounts, freezes."""
