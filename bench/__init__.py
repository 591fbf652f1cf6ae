"""Measurements of Longwire on the machine at hand: `make bench`. Not shipped."""
