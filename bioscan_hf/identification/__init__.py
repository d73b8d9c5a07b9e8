"""Names with a confidence for a user's own specimens."""
