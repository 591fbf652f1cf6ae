"""Who asks, and what they may: keys, roles, rates, confirmations."""
