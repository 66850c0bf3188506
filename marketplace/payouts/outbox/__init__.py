"""What must be done outside because of a commit, kept in the database until it is done."""
