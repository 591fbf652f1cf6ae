"""Broadcasts: from the request to the record, whom they mean, and how they are steered and watched."""
