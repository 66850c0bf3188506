"""Sessions among payers and providers of whom three in ten cheat, on a virtual clock.

The rules are the real ones: protocol.hop_session, protocol.head_account, node.head.payer, and the
ledger on SQLite in memory. Only time, the network and the people are made up, from one seed.
"""
