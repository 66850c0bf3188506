"""What stands in the way of this machine, for `piecework doctor`."""
