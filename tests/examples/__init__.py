"""Tests of what examples define."""
