"""Composition roots: one module a program, where everything is built and wired and nothing else."""
