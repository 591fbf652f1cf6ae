"""Clients, users and groups, as the register and the rooms know them."""
