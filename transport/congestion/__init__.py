"""Congestion control for home links: tolerant of loss, short queues, fair beside others."""
