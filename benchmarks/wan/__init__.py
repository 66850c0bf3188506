"""A measuring bed for sessions over wide-area links: real hosts and servers, delayed datagrams.

Everything runs in one network namespace. `namespace` makes it, `delay` (pure) says when a datagram
comes out of a line, `lines` is the process that holds the datagrams, `hop` one provider, `bed` puts
them together around a head in this process. `roofline` is an engine of real frames and rows whose
computing is a timed wait; `star` is the client that goes to every hop and back, to compare with.
Scenarios: `decode drafting prefill many`; each runs alone by `python -m benchmarks.wan NAME`.
"""
