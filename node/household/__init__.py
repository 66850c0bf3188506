"""What a household allows its node: hours, data, upload, quiet while people work, a least price."""
