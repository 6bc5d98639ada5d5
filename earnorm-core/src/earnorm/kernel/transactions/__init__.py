"""Transactions: their blocks, tries and queue, and what each remembers until it has ended."""
