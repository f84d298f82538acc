"""Views show plain data: gauge, reports, summaries; they decide nothing."""
