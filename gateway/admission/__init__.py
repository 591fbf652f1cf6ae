"""Who is let in, and how much at a time: addresses, lists, rates, memory, tokens."""
