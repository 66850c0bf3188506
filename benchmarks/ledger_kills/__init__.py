"""The kill laboratory: every process of a marketplace killed with SIGKILL while a million receipts
come in, and a proof afterwards that nothing acknowledged was lost, nothing was paid twice, and no
nano is missing. `docs/ledger/crashes.md` says what is killed where."""
