"""Accounts, transfers, receipts, settlement and the public log; never knows networks."""
