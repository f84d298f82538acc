"""Magics wire: parse, call, show."""
