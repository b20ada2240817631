"""The shipped trained agent: its policy and what runs it."""
