"""The command line. Data on stdout, talk on stderr; heavy packages are imported by the commands."""
