"""FCM's endpoint: bodies of FCM HTTP v1 are taken, and answered as FCM does (docs/protocol.md, docs/adr/0025)."""
