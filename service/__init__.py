"""How it is served: clicks in, the next click out. Never imports torch, models or training."""
