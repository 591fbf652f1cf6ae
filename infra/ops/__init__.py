"""What the commands of `pushctl` do, by noun; `cli.py` only reads arguments and imports these when they are asked for."""
