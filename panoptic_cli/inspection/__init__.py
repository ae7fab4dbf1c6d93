"""Checking data sets and records, counting what is in them, and drawing samples."""
