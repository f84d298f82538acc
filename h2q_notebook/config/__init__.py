"""Settings: what h2q may do, as frozen data."""
